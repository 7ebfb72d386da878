# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What an agent lived through, as Python objects and as a dataset.

An [`Episode`] is a list of [`Turn`]s. A dataset holds one row per turn, in the columns [`~columns.FEATURES`]: `prompt`,
`completion` and `images` are TRL's own vision format, so the same rows train [`~trl.SFTTrainer`]; `reward`, `terminated`
and `truncated` are what reinforcement learning needs on top. On disk it is Parquet with PNG images, never pickle.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import embed_table_storage

from trl_vlmq.columns import FEATURES, prepare_episodes


@dataclass
class Turn:
    """
    One prompt, the agent's answer to it, and what the environment made of that answer.

    Args:
        prompt (`list[dict]`):
            Conversational messages with typed content:
            `[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}]`.
        images (`list[PIL.Image.Image]`):
            One image per `{"type": "image"}` of the prompt, in order.
        completion (`str`):
            The text the agent really generated, valid action or not. May be empty.
        reward (`float`):
            Reward of this action.
        terminated (`bool`):
            Whether the task ended with this action (Gymnasium's meaning).
        truncated (`bool`):
            Whether a limit outside the task cut the episode after this action (Gymnasium's meaning).
        final_prompt (`list[dict]`, *optional*):
            What the agent would have been told next. Only on the last turn of a truncated episode.
        final_images (`list[PIL.Image.Image]`, *optional*):
            The images of `final_prompt`.
        completion_ids (`list[int]`, *optional*):
            The tokens that were sampled, the stop token included if it was sampled.
        completion_stopped (`bool`, *optional*):
            Whether the stop token is among `completion_ids`.
        action_is_valid (`bool`, *optional*):
            Whether the environment could read the action.
        success (`bool`, *optional*):
            Whether the *episode* succeeded; the same on each of its turns.
        behavior (`str`, *optional*):
            Name of the policy that acted.
        env_id (`str`, *optional*):
            Gymnasium id of the environment.
        executed_action (`str`, *optional*):
            What the environment did, where that differs from what the text says.
    """

    prompt: list[dict]
    images: list[PIL.Image.Image]
    completion: str
    reward: float
    terminated: bool
    truncated: bool
    final_prompt: list[dict] | None = None
    final_images: list[PIL.Image.Image] | None = None
    completion_ids: list[int] | None = None
    completion_stopped: bool | None = None
    action_is_valid: bool | None = None
    success: bool | None = None
    behavior: str | None = None
    env_id: str | None = None
    executed_action: str | None = None


@dataclass
class Episode:
    """
    The turns of one run of an environment, from its reset to its end.

    Args:
        episode_id (`str`):
            Unique within a dataset.
        turns (`list[Turn]`):
            In the order they happened.
    """

    episode_id: str
    turns: list[Turn]

    @property
    def total_reward(self) -> float:
        """Undiscounted sum of the rewards."""
        return float(sum(turn.reward for turn in self.turns))

    @property
    def length(self) -> int:
        """Number of turns."""
        return len(self.turns)

    @property
    def success(self) -> bool | None:
        """Whether the episode succeeded, `None` if unknown."""
        return self.turns[-1].success

    @property
    def behavior(self) -> str | None:
        """Name of the policy that acted."""
        return self.turns[-1].behavior

    @property
    def env_id(self) -> str | None:
        """Gymnasium id of the environment."""
        return self.turns[-1].env_id

    @property
    def terminated(self) -> bool:
        """Whether the task itself ended the episode."""
        return self.turns[-1].terminated

    @property
    def truncated(self) -> bool:
        """Whether a limit outside the task ended the episode."""
        return self.turns[-1].truncated


_ROWS_PER_BATCH = 1_000

# Decoded bytes after which a Parquet row group is closed. Within a row group an image is stored once, so it should be
# large; but readers take a row group at a time, and Arrow cannot read a nested binary column past 2 GiB.
_ROW_GROUP_BYTES = 256 * 2**20


def episodes_to_dataset(episodes: Iterable[Episode]) -> Dataset:
    """
    Turn episodes into a dataset of [`~columns.FEATURES`], one row per turn.

    The episodes may come from a generator: they are taken one by one, and an image that appears many times is
    PNG-encoded once.

    Args:
        episodes (`Iterable[Episode]`):
            The episodes, in the order their rows shall have.

    Returns:
        [`~datasets.Dataset`]: in memory, with PNG bytes in the image columns.

    Raises:
        ValueError: If an episode has no turns.
    """
    encoded: dict[bytes, dict] = {}
    batches: list[pa.Table] = []
    rows: list[dict] = []

    def close_batch():
        batches.append(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))
        rows.clear()

    for episode in episodes:
        if not episode.turns:
            raise ValueError(f"Episode {episode.episode_id!r} has no turns; leave it out.")
        rows.extend(_row(episode.episode_id, index, turn, encoded) for index, turn in enumerate(episode.turns))
        if len(rows) >= _ROWS_PER_BATCH:
            close_batch()
    close_batch()
    return Dataset(pa.concat_tables(batches))


def dataset_to_episodes(dataset: Dataset) -> Iterator[Episode]:
    """
    Walk through a dataset of [`~columns.FEATURES`] episode by episode.

    Args:
        dataset ([`~datasets.Dataset`]):
            A dataset that [`~validation.validate_episodes`] accepts.

    Returns:
        `Iterator[Episode]`: with decoded images; only one episode is in memory at a time.
    """
    for episode_id, rows in groupby(dataset.select_columns(list(FEATURES)), key=lambda row: row["episode_id"]):
        yield Episode(episode_id, [_turn(row) for row in rows])


def save_episodes(dataset: Dataset, path: str | Path) -> None:
    """
    Write a dataset to one Parquet file in which an image is stored once, however many rows show it.

    The file appears complete or not at all. Images given as paths are read and embedded. Any reader of Parquet reads
    the file; `datasets.load_dataset("parquet", data_files=...)` restores the image columns.

    Args:
        dataset ([`~datasets.Dataset`]):
            Episodes, for example from [`episodes_to_dataset`].
        path (`str` or `Path`):
            The file to write; a file already there is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = dataset.features.arrow_schema
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            # Dictionary encoding is what stores an image once; the page limit must not make the writer give it up.
            with pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                use_dictionary=True,
                dictionary_pagesize_limit=4 * _ROW_GROUP_BYTES,
            ) as writer:
                for group in _row_groups(dataset, schema):
                    writer.write_table(group, row_group_size=max(1, group.num_rows))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_episodes(path: str | Path) -> Dataset:
    """
    Read what [`save_episodes`] wrote, or any other Parquet file of turns.

    Args:
        path (`str` or `Path`):
            The Parquet file.

    Returns:
        [`~datasets.Dataset`]: memory-mapped from the cache of `datasets`, with all columns of [`~columns.FEATURES`].

    Raises:
        FileNotFoundError: If there is no such file.
    """
    return prepare_episodes(Dataset.from_parquet(str(path)))


def _row(episode_id: str, index: int, turn: Turn, encoded: dict[bytes, dict]) -> dict[str, Any]:
    def images(values: list[PIL.Image.Image] | None) -> list[dict] | None:
        return None if values is None else [_encode(image, encoded) for image in values]

    row = {name: value for name, value in vars(turn).items() if name in FEATURES}
    row["episode_id"] = episode_id
    row["turn"] = index
    row["images"] = images(turn.images)
    row["final_images"] = images(turn.final_images)
    row["completion"] = [{"role": "assistant", "content": [{"type": "text", "text": turn.completion}]}]
    return row


def _turn(row: dict[str, Any]) -> Turn:
    def messages(stored: list[dict] | None) -> list[dict] | None:
        """Image parts come back as `{"type": "image"}`, without the null text a column of structs must hold."""
        if stored is None:
            return None
        return [
            {
                "role": message["role"],
                "content": [{k: v for k, v in part.items() if v is not None} for part in message["content"]],
            }
            for message in stored
        ]

    fields = {name: value for name, value in row.items() if name not in ("episode_id", "turn")}
    fields["prompt"] = messages(row["prompt"])
    fields["final_prompt"] = messages(row["final_prompt"])
    fields["completion"] = "".join(part["text"] for message in row["completion"] for part in message["content"])
    return Turn(**fields)


def _encode(image: PIL.Image.Image, encoded: dict[bytes, dict]) -> dict:
    if image.mode not in ("RGB", "L", "RGBA"):
        image = image.convert("RGB")  # a palette, for one, is not part of the pixels hashed below
    content = hashlib.sha256(f"{image.mode} {image.size}".encode())
    content.update(image.tobytes())
    key = content.digest()
    if key not in encoded:
        buffer = BytesIO()
        image.save(buffer, format="PNG")
        encoded[key] = {"bytes": buffer.getvalue(), "path": None}
    return encoded[key]


def _row_groups(dataset: Dataset, schema: pa.Schema) -> Iterator[pa.Table]:
    pending: list[pa.Table] = []
    size = 0
    for batch in dataset.with_format("arrow").iter(_ROWS_PER_BATCH):
        batch = embed_table_storage(batch.cast(schema))
        pending.append(batch)
        size += batch.nbytes
        if size >= _ROW_GROUP_BYTES:
            yield pa.concat_tables(pending)
            pending, size = [], 0
    if pending:
        yield pa.concat_tables(pending)

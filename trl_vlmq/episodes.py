# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What an agent lived through, as Python objects and as a dataset.

An [`Episode`] is a list of [`Turn`]s. A dataset holds one row per turn, in the columns [`~columns.FEATURES`]: `prompt`,
`completion` and `images` are TRL's own vision format, so the same rows train [`~trl.SFTTrainer`]; `reward`, `terminated`
and `truncated` are what reinforcement learning needs on top. On disk it is Parquet with PNG images, never pickle.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from typing import Any

import PIL.Image
import pyarrow as pa
from datasets import Dataset

from trl_vlmq.columns import FEATURES


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
        rows.extend(episode_rows(episode, encoded))
        if len(rows) >= _ROWS_PER_BATCH:
            close_batch()
    close_batch()
    return Dataset(pa.concat_tables(batches))


def episode_rows(episode: Episode, encoded: dict[bytes, dict]) -> list[dict[str, Any]]:
    """
    The rows of one episode, with the values that Arrow stores.

    Args:
        episode ([`Episode`]):
            The episode.
        encoded (`dict[bytes, dict]`):
            The images encoded so far, by content; this episode's are added.

    Returns:
        `list[dict]`: one for each turn.

    Raises:
        ValueError: If the episode has no turns.
    """
    if not episode.turns:
        raise ValueError(f"Episode {episode.episode_id!r} has no turns; leave it out.")
    return [_row(episode.episode_id, index, turn, encoded) for index, turn in enumerate(episode.turns)]


def encode_image(image: PIL.Image.Image) -> bytes:
    """PNG bytes of an image, in the mode that [`stored_mode`] gives it."""
    buffer = BytesIO()
    stored_mode(image).save(buffer, format="PNG")
    return buffer.getvalue()


def stored_mode(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image, in RGB unless its mode is one that is stored as it is."""
    return image if image.mode in ("RGB", "L", "RGBA") else image.convert("RGB")


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
    image = stored_mode(image)  # a palette, for one, is not part of the pixels hashed below
    content = hashlib.sha256(f"{image.mode} {image.size}".encode())
    content.update(image.tobytes())
    key = content.digest()
    if key not in encoded:
        encoded[key] = {"bytes": encode_image(image), "path": None}
    return encoded[key]

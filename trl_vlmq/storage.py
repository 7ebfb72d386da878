# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Episodes on disk and on the Hub: Parquet in which an image is stored once, however many rows show it."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset
from datasets.table import embed_table_storage

from trl_vlmq.columns import FEATURES, prepare_episodes
from trl_vlmq.episodes import Episode, episode_rows
from trl_vlmq.hub import HubError, hub_errors


_ROWS_PER_BATCH = 1_000

# Decoded bytes after which a Parquet row group is closed. Within a row group an image is stored once, so it should be
# large; but readers take a row group at a time, and Arrow cannot read a nested binary column past 2 GiB.
_ROW_GROUP_BYTES = 256 * 2**20

# The same for a stream, of which a row group is held in memory until it is written.
_STREAM_GROUP_BYTES = 32 * 2**20
_STREAM_BATCH_ROWS = 100  # fewer at a time are slow to hand to Arrow


def save_episodes(
    episodes: Dataset | Iterable[Episode], path: str | Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """
    Write episodes to one Parquet file in which an image is stored once, however many rows show it.

    The file appears complete or not at all. Images given as paths are read and embedded. Any reader of Parquet reads
    the file; `datasets.load_dataset("parquet", data_files=...)` restores the image columns.

    Args:
        episodes ([`~datasets.Dataset`] or `Iterable[Episode]`):
            Episodes as a dataset, for example from [`~episodes.episodes_to_dataset`]; or one by one, for example from
            [`~rollout.play_episodes`], of which only some tens of megabytes are in memory at a time.
        path (`str` or `Path`):
            The file to write; a file already there is replaced.
        metadata (`Mapping[str, str]`, *optional*):
            Further entries for the metadata of the file's schema.
    """
    schema = episodes.features.arrow_schema if isinstance(episodes, Dataset) else FEATURES.arrow_schema
    with appears_complete(path) as temporary:
        if isinstance(episodes, Dataset):
            groups = _groups_of_dataset(episodes, schema)
        else:
            groups = _groups_of_stream(_rows_of(episodes))
        _write(groups, schema.with_metadata({**(schema.metadata or {}), **(metadata or {})}), temporary)


def write_rows(episodes: Iterable[list[dict[str, Any]]], path: Path) -> None:
    """
    Write a stream of episodes, each the list of its rows, holding one row group at a time.

    Every row group holds whole episodes.

    Args:
        episodes (`Iterable[list[dict]]`):
            Rows in the columns of [`~columns.FEATURES`], as [`~episodes.episode_rows`] gives them.
        path (`Path`):
            The file, written as it grows: see [`appears_complete`].
    """
    _write(_groups_of_stream(episodes), FEATURES.arrow_schema, path)


@contextmanager
def appears_complete(path: str | Path) -> Iterator[Path]:
    """
    A temporary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Args:
        path (`str` or `Path`):
            The file to write; its folder is made if there is none.

    Returns:
        `Iterator[Path]`: the file to write to, in the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_episodes(path: str | Path) -> Dataset:
    """
    Read what [`save_episodes`] wrote, or any other turns: a Parquet file, or the `train` split of a dataset repository.

    Args:
        path (`str` or `Path`):
            A Parquet file; a folder of them, which may be laid out as a dataset of the Hub (`data/train-*.parquet`;
            other splits are passed over); or, if there is neither, the id of a dataset on the Hub, `"user/name"`.

    Returns:
        [`~datasets.Dataset`]: memory-mapped from the cache of `datasets`, with all columns of [`~columns.FEATURES`].

    Raises:
        FileNotFoundError: If there is no such file, folder or dataset, or the Hub cannot be reached.
    """
    if Path(path).is_dir():
        return prepare_episodes(Dataset.from_parquet(_train_files(Path(path))))
    if Path(path).exists() or not _is_repo_id(str(path)):
        return prepare_episodes(Dataset.from_parquet(str(path)))
    try:
        with hub_errors("Loading the dataset", str(path)):
            dataset = load_dataset(str(path), split="train")
    except (FileNotFoundError, ConnectionError, HubError) as error:
        raise FileNotFoundError(
            f"{str(path)!r} is no file or folder here, and as a dataset of the Hub it cannot be read: {error}"
        ) from error
    return prepare_episodes(dataset)


def _train_files(folder: Path) -> list[str]:
    """The Parquet files of the split `train`, or all if none is named so."""
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"There is no Parquet file in the folder {str(folder)!r}.")
    return [str(file) for file in files if file.name.startswith("train")] or [str(file) for file in files]


def _is_repo_id(path: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None and not path.endswith(".parquet")


def _write(groups: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    with open(path, "wb") as file:
        # Dictionary encoding is what stores an image once; the page limit must not make the writer give it up.
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=True,
            dictionary_pagesize_limit=4 * _ROW_GROUP_BYTES,
        ) as writer:
            for group in groups:
                writer.write_table(group, row_group_size=max(1, group.num_rows))
        file.flush()
        os.fsync(file.fileno())


def _groups_of_dataset(dataset: Dataset, schema: pa.Schema) -> Iterator[pa.Table]:
    batches = (embed_table_storage(batch.cast(schema)) for batch in dataset.with_format("arrow").iter(_ROWS_PER_BATCH))
    return _grouped(batches, _ROW_GROUP_BYTES)


def _groups_of_stream(episodes: Iterable[list[dict[str, Any]]]) -> Iterator[pa.Table]:
    return _grouped(_batches(episodes), _STREAM_GROUP_BYTES)


def _batches(episodes: Iterable[list[dict[str, Any]]]) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    for episode in episodes:
        rows.extend(episode)
        if len(rows) >= _STREAM_BATCH_ROWS:
            yield pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)


def _grouped(batches: Iterable[pa.Table], group_bytes: int) -> Iterator[pa.Table]:
    pending: list[pa.Table] = []
    size = 0
    for batch in batches:
        pending.append(batch)
        size += batch.nbytes
        if size >= group_bytes:
            yield pa.concat_tables(pending)
            pending, size = [], 0
    if pending:
        yield pa.concat_tables(pending)


def _rows_of(episodes: Iterable[Episode]) -> Iterator[list[dict[str, Any]]]:
    encoded: dict[bytes, dict] = {}
    size = 0
    for episode in episodes:
        rows = episode_rows(episode, encoded)
        size += len(rows)
        yield rows
        if size >= _ROWS_PER_BATCH:  # images that come again soon are encoded once, and memory stays bounded
            encoded, size = {}, 0

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The agent's own episodes on disk: Parquet files that appear complete or not at all."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo

from .columns import FEATURES
from .storage import save_episodes


_NAME = re.compile(r"round-(\d{6})-rank-(\d{4})-of-(\d{4})-part-(\d{4})\.parquet")
_KEY = "trl_vlmq.shard"


@dataclass(frozen=True)
class ShardRecord:
    """What a file says of itself.

    Args:
        first (`int`):
            Number within round and rank of the first episode that the file answers for.
        stop (`int`):
            Number after the last one. Episodes in between that the file does not hold were lost.
        lost (`int`):
            How many were lost to failing environments.
    """

    first: int
    stop: int
    lost: int


class EpisodeShards:
    """
    A folder of episodes, in files of whole episodes of one round and one process.

    A file is written under another name, synchronised with the disk and renamed, so a process that is killed leaves
    either the whole file or none. What a process reads are its own files; where the number of processes has changed
    since they were written, they are dealt anew.

    Args:
        folder (`str` or `Path`):
            The folder; made where there is none.
        rank (`int`, *optional*, defaults to `0`):
            Number of this process.
        num_processes (`int`, *optional*, defaults to `1`):
            Number of processes.
    """

    def __init__(self, folder: str | Path, rank: int = 0, num_processes: int = 1):
        self.folder = Path(folder)
        self.rank, self.num_processes = rank, num_processes
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f".round-*-rank-{rank:04d}-of-{num_processes:04d}-*.tmp"):
            leftover.unlink(missing_ok=True)  # of a process that was killed

    def write(
        self,
        round_: int,
        part: int,
        episodes: Dataset,
        record: ShardRecord,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """
        Add one file of this process.

        Args:
            round_ (`int`):
                Number of the round.
            part (`int`):
                Number of the file within the round and the process.
            episodes (`datasets.Dataset`):
                Whole episodes, possibly none.
            record ([`ShardRecord`]):
                What they are.
            metadata (`Mapping[str, str]`, *optional*):
                Further entries for the metadata of the file.
        """
        name = f"round-{round_:06d}-rank-{self.rank:04d}-of-{self.num_processes:04d}-part-{part:04d}.parquet"
        save_episodes(episodes, self.folder / name, metadata={_KEY: json.dumps(asdict(record)), **(metadata or {})})

    def own_parts(self, round_: int) -> list[tuple[ShardRecord, Path]]:
        """The files that this very process, among as many, has written of a round, in order."""
        return [
            (_record(path), path)
            for number, rank, of, path in self._files()
            if (number, rank, of) == (round_, self.rank, self.num_processes)
        ]

    def dealt(self, round_: int) -> list[Path]:
        """The files of a round that this process reads, in order."""
        files = [entry for entry in self._files() if entry[0] == round_]
        if all(of == self.num_processes for _, _, of, _ in files):
            return [path for _, rank, _, path in files if rank == self.rank]
        return [path for i, (*_, path) in enumerate(files) if i % self.num_processes == self.rank]

    def rounds(self) -> list[int]:
        """The rounds of which there is any file, of any process, in order."""
        return sorted({number for number, *_ in self._files()})

    def _files(self) -> Iterator[tuple[int, int, int, Path]]:
        for path in sorted(self.folder.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match:
                number, rank, of, _ = map(int, match.groups())
                yield number, rank, of, path


def read_shard(path: Path) -> Dataset:
    """The episodes of a file, in memory, images encoded.

    Raises:
        ValueError: if the file is damaged or not a shard.
    """
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and its episodes are played again.") from error
    schema = FEATURES.arrow_schema
    return Dataset(table.select(schema.names).cast(schema), info=DatasetInfo(features=FEATURES))


def _record(path: Path) -> ShardRecord:
    metadata = pq.read_schema(path).metadata or {}
    if _KEY.encode() not in metadata:
        raise ValueError(f"{path} does not say which episodes it holds: it was not written by a rollout.")
    return ShardRecord(**json.loads(metadata[_KEY.encode()]))

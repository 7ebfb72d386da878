# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The buffer that the dataloader reads: segments of logs and of the agent's own episodes."""

import logging
from bisect import bisect_right
from itertools import accumulate

import numpy as np
import pyarrow as pa
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from .priorities import Distribution, Prioritization
from .schedules import LinearSchedule
from .segments import Segment, SegmentTable


logger = logging.getLogger(__name__)


class _Half:
    """The offline or the online half: tables of segments with what is known of their TD errors."""

    def __init__(self, prioritization: Prioritization):
        self.prioritization = prioritization
        self.tables: list[SegmentTable] = []
        self.td_errors: list[np.ndarray] = []  # of each table's segments, NaN where unknown
        self.news: list[np.ndarray] = []  # since the buffer's version last changed
        self._distribution: Distribution | None = None

    def append(self, table: SegmentTable) -> None:
        self.tables.append(table)
        self.td_errors.append(np.full(len(table), np.nan))
        self.news.append(np.full(len(table), np.nan))

    def replace_first(self, table: SegmentTable | None) -> None:
        """The oldest table shrinks to its newest segments, or goes."""
        for parts in (self.td_errors, self.news):
            if table is None:
                del parts[0]
            else:
                parts[0] = parts[0][len(parts[0]) - len(table) :]
        if table is None:
            del self.tables[0]
        else:
            self.tables[0] = table

    def commit(self) -> None:
        """From now on count what was learned since the last time."""
        for known, new in zip(self.td_errors, self.news, strict=True):
            fresh = ~np.isnan(new)
            known[fresh] = new[fresh]
            new[:] = np.nan

    def rebuild(self) -> None:
        """From now on draw from the tables and TD errors as they are."""
        self.ends = list(accumulate(len(table) for table in self.tables))
        uniform = self.prioritization.by == "uniform" or not self.tables
        self._distribution = None if uniform else self.prioritization.distribution(self.tables, self.td_errors)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def draw(self, uniform: float) -> tuple[int, float]:
        if self._distribution is None:
            return int(uniform * len(self)), 1.0
        return self._distribution.draw(uniform)

    def segment(self, index: int) -> Segment:
        part = bisect_right(self.ends, index)
        return self.tables[part][index - (self.ends[part - 1] if part else 0)]

    def table_of(self, row: int) -> int | None:
        """Which table holds a row; `None` if it was evicted."""
        part = bisect_right([table.first_row for table in self.tables], row) - 1
        return part if part >= 0 and row < self.tables[part].first_row + self.tables[part].num_turns else None


class ReplayBuffer(TorchDataset):
    """A map-style dataset of segments of fixed length, which mixes logs with the agent's own episodes.

    The Trainer computes its dataloader and its number of steps once. So the length is virtual where online episodes
    are to come, and which segment an index means is a pure function of (seed, epoch, index, version), where the
    version changes in [`begin_epoch`] only: workers, resumed runs and ranks that hold the same episodes agree.

    Without online episodes, priorities and `segments_per_epoch` an index means itself: every turn of every episode
    stands in exactly one segment of an epoch.

    Args:
        dataset (`datasets.Dataset`, *optional*):
            Logs: turns, one row each, as [`prepare_episodes`] returns and [`validate_episodes`] accepts them. They are
            never evicted. `None` for a buffer of online episodes alone.
        segment_length (`int`, *optional*, defaults to `1`):
            Turns per segment; the last one of an episode may be shorter.
        segments_per_epoch (`int`, *optional*):
            Virtual length; by default the number of the logs' segments. Needed without logs.
        online_share (`LinearSchedule`, *optional*):
            Epochs with online episodes, this one included -> probability that an index means one of their segments;
            always 1 without logs. Defaults to one half.
        capacity_turns (`int`, *optional*):
            Online turns to keep. The oldest episodes go first; logs do not count.
        capacity_bytes (`int`, *optional*):
            Bytes of online turns to keep, images encoded.
        prioritization ([`Prioritization`], *optional*):
            How segments are drawn within their half.
        seed (`int`, *optional*, defaults to `0`):
            Source of all randomness.

    Attributes:
        version (`int`):
            Counts what changed the meaning of indices.
        epoch (`int`):
            The epoch whose segments are read.
    """

    def __init__(
        self,
        dataset: Dataset | None = None,
        segment_length: int = 1,
        *,
        segments_per_epoch: int | None = None,
        online_share: LinearSchedule | None = None,
        capacity_turns: int | None = None,
        capacity_bytes: int | None = None,
        prioritization: Prioritization | None = None,
        seed: int = 0,
    ):
        if dataset is None and segments_per_epoch is None:
            raise ValueError("Without logs an epoch has no natural length: set segments_per_epoch.")
        self.segment_length = segment_length
        self.online_share = online_share or LinearSchedule(0.5, 0.5, 0)
        self.capacity_turns, self.capacity_bytes = capacity_turns, capacity_bytes
        self.prioritization = prioritization or Prioritization()
        self.seed = seed
        self.version, self.epoch, self._has_begun = 0, 0, False
        self._offline = _Half(self.prioritization)
        if dataset is not None:
            self._offline.append(SegmentTable(dataset, segment_length))
        self._offline_rows = 0 if dataset is None else len(dataset)
        self._resumed: dict[str, np.ndarray] | None = None
        self._offline.rebuild()
        self.clear_online()
        self._length = segments_per_epoch or len(self._offline)
        self._identity = segments_per_epoch is None and self.prioritization.by == "uniform"
        self._pass: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._length

    def logged(self, name: str) -> np.ndarray:
        """A column of numbers of the logs, [offline turns]; empty without logs."""
        tables = self._offline.tables
        return (
            np.concatenate([table.dataset.with_format("numpy")[name][:] for table in tables])
            if tables
            else np.zeros(0)
        )

    # ---- What an index means ----

    def __getitem__(self, index: int) -> Segment:
        half, segment, weight = self._locate(index)
        found = half.segment(segment)
        found.weight = weight
        return found

    def _locate(self, index: int) -> tuple[_Half, int, float]:
        """Half, segment within it and importance weight of an index of the current epoch."""
        if not 0 <= index < self._length:
            raise IndexError(f"Index {index} lies outside of the {self._length} segments of an epoch.")
        if not len(self._online):
            if not len(self._offline):
                raise RuntimeError(
                    "The replay buffer is empty: without logs, training needs an OnlineRolloutCallback with start_epoch=0."
                )
            if self._identity:
                return self._offline, index, 1.0
        stream = np.random.Generator(np.random.Philox(key=self.seed, counter=[index, self.epoch, 0, 0]))
        which, where = stream.random(2)
        if which < self.current_online_share:
            return self._online, *self._online.draw(where)
        if self.prioritization.by != "uniform":
            return self._offline, *self._offline.draw(where)
        return self._offline, self._in_turn(index), 1.0

    @property
    def current_online_share(self) -> float:
        """Probability that an index of the current epoch means an online segment."""
        if not len(self._online):
            return 0.0
        return self.online_share(self.epoch - self.first_online_epoch + 1) if len(self._offline) else 1.0

    def _in_turn(self, index: int) -> int:
        """Epochs of any length walk through the logs pass after pass, each in an order of its own."""
        total = len(self._offline)
        number, place = divmod(self.epoch * self._length + index, total)
        if self._pass is None or self._pass[0] != number:
            self._pass = number, np.random.default_rng([self.seed, number]).permutation(total)
        return int(self._pass[1][place])

    # ---- What changes it ----

    def clear_online(self) -> None:
        """Forget all online episodes, for a run that begins or is resumed."""
        self.first_online_epoch: int | None = None
        self._online = _Half(self.prioritization)
        self._online.rebuild()
        self._next_row = self._offline_rows
        self._episode_bytes: list[list[int]] = []  # of each online table

    def begin_epoch(self, epoch: int) -> None:
        """
        The only moment at which indices change their meaning.

        Args:
            epoch (`int`):
                The epoch that begins, or that a resumed run goes on with.
        """
        self._restore()
        goes_on, self.epoch = epoch == self.epoch and self._has_begun, epoch
        self._has_begun = True
        self.version += not goes_on
        for half in (self._offline, self._online):
            if not goes_on:
                half.commit()
            half.rebuild()

    def add_online(self, dataset: Dataset, epoch: int) -> None:
        """
        Take over episodes of the agent itself; the oldest ones go where there is no room.

        Args:
            dataset (`datasets.Dataset`):
                Whole episodes in memory; seen from the next [`begin_epoch`] on.
            epoch (`int`):
                The epoch before which they were played.

        Raises:
            ValueError: if a single episode is larger than the capacity.
        """
        if not len(dataset):
            return
        if self._resumed is not None and epoch > self._resumed["epoch"]:
            self._restore()
        if self.first_online_epoch is None:
            self.first_online_epoch = epoch
        table = SegmentTable(dataset, self.segment_length, self._next_row)
        self._next_row += len(dataset)
        self._online.append(table)
        turns = table.dataset[:]
        bounds = table.episode_bounds
        sizes = [turns.slice(a, b - a).nbytes for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        for size, length in zip(sizes, np.diff(bounds), strict=True):
            for name, value, capacity in (
                ("capacity_bytes", size, self.capacity_bytes), ("capacity_turns", length, self.capacity_turns)
            ):  # fmt: skip
                if capacity is not None and value > capacity:
                    raise ValueError(f"An episode of {value} does not fit into {name}={capacity}: allow more.")
        self._episode_bytes.append(sizes)
        self._evict()

    def _evict(self) -> None:
        turns_over = 0 if self.capacity_turns is None else self.online_turns - self.capacity_turns
        bytes_over = 0 if self.capacity_bytes is None else self.online_bytes - self.capacity_bytes
        while turns_over > 0 or bytes_over > 0:
            table, sizes = self._online.tables[0], self._episode_bytes[0]
            gone = 0
            while gone < len(sizes) and (turns_over > 0 or bytes_over > 0):
                turns_over -= table.episode_bounds[gone + 1] - table.episode_bounds[gone]
                bytes_over -= sizes[gone]
                gone += 1
            if gone == len(sizes):
                self._online.replace_first(None)
                del self._episode_bytes[0]
            else:
                start = int(table.episode_bounds[gone])
                # A slice would keep what is evicted in memory; a copy does not.
                kept = table.dataset[:].take(pa.array(range(start, table.num_turns)))
                rest = SegmentTable(_in_memory(kept, table.dataset), self.segment_length, table.first_row + start)
                self._online.replace_first(rest)
                self._episode_bytes[0] = sizes[gone:]

    # ---- What it holds ----

    @property
    def online_turns(self) -> int:
        """Online turns that are held."""
        return sum(table.num_turns for table in self._online.tables)

    @property
    def online_bytes(self) -> int:
        """Their bytes in memory, images encoded."""
        return sum(map(sum, self._episode_bytes))

    @property
    def num_online_episodes(self) -> int:
        """Online episodes that are held."""
        return sum(map(len, self._episode_bytes))

    def describe(self, row: int) -> str:
        """Episode and turn of a row, for messages."""
        half = self._offline if row < self._offline_rows else self._online
        part = half.table_of(row)
        return f"row {row} (evicted by now)" if part is None else half.tables[part].describe(row)

    # ---- Priorities ----

    def record_td_errors(self, rows: np.ndarray, errors: np.ndarray) -> None:
        """
        What training found out; it counts from the next [`begin_epoch`] on.

        Args:
            rows (`numpy.ndarray`):
                Rows of turns, int64 [B].
            errors (`numpy.ndarray`):
                Mean |TD error| of each turn's action tokens, float64 [B].
        """
        sums: dict[tuple[bool, int, int], list[float]] = {}
        for row, error in zip(rows.tolist(), errors.tolist(), strict=True):
            online = row >= self._offline_rows
            half = self._online if online else self._offline
            part = half.table_of(row)
            if part is not None:
                segment = int(half.tables[part].segments_of(np.asarray([row]))[0])
                sums.setdefault((online, part, segment), []).append(error)
        for (online, part, segment), values in sums.items():
            (self._online if online else self._offline).news[part][segment] = np.mean(values)

    def state_dict(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs beside the episodes: epoch, version and the TD errors of all segments held."""
        state = {"epoch": np.array(self.epoch), "version": np.array(self.version)}
        for name, half in (("offline", self._offline), ("online", self._online)):
            for what in ("td_errors", "news"):
                state[f"{name}_{what}"] = np.concatenate([*getattr(half, what), np.zeros(0)])
        return state

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """
        Go on where [`state_dict`] was taken. It takes effect once the online episodes up to its epoch are added again.

        Args:
            state (`dict[str, numpy.ndarray]`):
                What [`state_dict`] returned.
        """
        self._resumed = state

    def _restore(self) -> None:
        state, self._resumed = self._resumed, None
        if state is None:
            return
        self.epoch, self.version, self._has_begun = int(state["epoch"]), int(state["version"]), True
        for name, half in (("offline", self._offline), ("online", self._online)):
            if len(state[f"{name}_td_errors"]) != sum(map(len, half.tables)):
                logger.warning("The checkpoint's priorities are those of other segments: they start anew.")
                return
        for name, half in (("offline", self._offline), ("online", self._online)):
            ends = np.cumsum([len(table) for table in half.tables], dtype=int)
            for what in ("td_errors", "news"):
                values = state[f"{name}_{what}"]
                parts = [values[end - len(table) : end] for end, table in zip(ends, half.tables, strict=True)]
                setattr(half, what, [part.copy() for part in parts])


def _in_memory(table: pa.Table, like: Dataset) -> Dataset:
    return Dataset(table, info=like.info)

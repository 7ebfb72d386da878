# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Turns cut into segments of consecutive ones: what a training example is."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset


@dataclass
class Segment:
    """Consecutive turns of one episode, and what the agent saw after the last of them.

    Args:
        rows (`list[dict]`):
            Rows of the turn schema (images encoded, as `datasets` stores them), in order, with their `row` number.
        next_prompt (`list[dict]`, *optional*):
            The following observation: the next turn's prompt, or the final one of a truncated episode. `None` if the
            episode terminated with the last row.
        next_images (`list[dict]`, *optional*):
            Its images.
        weight (`float`, *optional*, defaults to `1.0`):
            Weight of its losses: what corrects for a prioritised choice.
    """

    rows: list[dict]
    next_prompt: list[dict] | None = None
    next_images: list[dict] | None = None
    weight: float = 1.0


class SegmentTable:
    """Episodes, every turn of them in exactly one segment.

    Args:
        dataset (`datasets.Dataset`):
            Turns, one row each, as [`prepare_episodes`] returns and [`validate_episodes`] accepts them.
        segment_length (`int`, *optional*, defaults to `1`):
            Turns per segment; the last one of an episode may be shorter.
        first_row (`int`, *optional*, defaults to `0`):
            Number of the first row, where several tables are read as one.

    Attributes:
        returns (`numpy.ndarray`):
            Sum of rewards of the episode of each segment, float64 [segments].
    """

    _COLUMNS = (
        "prompt", "images", "completion", "reward", "terminated", "truncated", "final_prompt", "final_images",
        "completion_ids", "completion_stopped", "episode_id", "turn",
    )  # fmt: skip

    def __init__(self, dataset: Dataset, segment_length: int = 1, first_row: int = 0):
        if segment_length < 1:
            raise ValueError(f"segment_length must be at least 1, not {segment_length}.")
        self.first_row = first_row
        # As Arrow, so that images stay encoded until they are needed.
        self.dataset = dataset.select_columns(list(self._COLUMNS)).with_format("arrow")
        columns = dataset.select_columns(["turn", "reward"]).with_format("numpy")
        turns, rewards = np.asarray(columns["turn"]), np.asarray(columns["reward"], dtype=np.float64)
        first = np.flatnonzero(turns == 0)
        self.episode_bounds = np.append(first, len(turns))
        self.starts = np.flatnonzero(turns % segment_length == 0)
        episode = np.searchsorted(first, self.starts, side="right") - 1
        self.stops = np.minimum(self.starts + segment_length, self.episode_bounds[episode + 1])
        totals = np.add.reduceat(rewards, first) if len(first) else np.zeros(0)
        self.returns = totals[episode]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def num_turns(self) -> int:
        """Rows of the table."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Segment:
        start, stop = int(self.starts[index]), int(self.stops[index])
        columns = self.dataset[start : min(stop + 1, len(self.dataset))].to_pydict()
        rows = [
            {"row": self.first_row + start + i, **{name: values[i] for name, values in columns.items()}}
            for i in range(stop - start)
        ]
        last = rows[-1]
        if last["terminated"]:
            return Segment(rows)
        if last["truncated"]:
            return Segment(rows, last["final_prompt"], last["final_images"] or [])
        return Segment(rows, columns["prompt"][-1], columns["images"][-1])

    def segments_of(self, rows: np.ndarray) -> np.ndarray:
        """Index of the segment that holds each of these rows, int64 [rows]."""
        return np.searchsorted(self.starts, rows - self.first_row, side="right") - 1

    def describe(self, row: int) -> str:
        """Episode and turn of a row, for messages."""
        found = self.dataset[row - self.first_row].to_pylist()[0]
        return f"row {row} (episode {found['episode_id']!r}, turn {found['turn']})"

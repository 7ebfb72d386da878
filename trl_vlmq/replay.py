# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The buffer that the dataloader reads: segments of consecutive turns."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset


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
    """

    rows: list[dict]
    next_prompt: list[dict] | None = None
    next_images: list[dict] | None = None


class ReplayBuffer(TorchDataset):
    """A map-style dataset of segments: every turn of every episode in exactly one segment.

    What an index means depends on nothing but the data, so that workers, ranks and resumed runs agree.

    Args:
        dataset (`datasets.Dataset`):
            Turns, one row each, as [`prepare_episodes`] returns and [`validate_episodes`] accepts them.
        segment_length (`int`, *optional*, defaults to `1`):
            Turns per segment; the last one of an episode may be shorter.
    """

    _COLUMNS = (
        "prompt", "images", "completion", "reward", "terminated", "truncated", "final_prompt", "final_images",
        "completion_ids", "completion_stopped", "episode_id", "turn",
    )  # fmt: skip

    def __init__(self, dataset: Dataset, segment_length: int = 1):
        if segment_length < 1:
            raise ValueError(f"segment_length must be at least 1, not {segment_length}.")
        # As Arrow, so that images stay encoded until they are needed.
        self.dataset = dataset.select_columns(list(self._COLUMNS)).with_format("arrow")
        turns = np.asarray(dataset.with_format("numpy")["turn"])
        starts = np.flatnonzero(turns == 0)
        ends = np.append(starts[1:], len(turns))
        self._bounds = [
            (start, min(start + segment_length, last))
            for first, last in zip(starts.tolist(), ends.tolist(), strict=True)
            for start in range(first, last, segment_length)
        ]

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, index: int) -> Segment:
        start, stop = self._bounds[index]
        columns = self.dataset[start : min(stop + 1, len(self.dataset))].to_pydict()
        rows = [
            {"row": start + i, **{name: values[i] for name, values in columns.items()}} for i in range(stop - start)
        ]
        last = rows[-1]
        if last["terminated"]:
            return Segment(rows)
        if last["truncated"]:
            return Segment(rows, last["final_prompt"], last["final_images"] or [])
        return Segment(rows, columns["prompt"][-1], columns["images"][-1])

    def describe(self, row: int) -> str:
        """Episode and turn of a row, for messages."""
        found = self.dataset[int(row)].to_pylist()[0]
        return f"row {int(row)} (episode {found['episode_id']!r}, turn {found['turn']})"

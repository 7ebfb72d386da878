# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Segments of turns -> token-level tensors."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from .backbones import Backbone
from .roles import token_roles
from .segments import Segment
from .sharding import weights_are_sharded


class TokenTDCollator:
    """Collates segments into what [`VLMActorCritic`] computes its loss from.

    A batch of segments with B turns of at most n action tokens, R of them followed by an observation that is not in
    the batch, becomes

    - `labels` (int64 [B, n]): action tokens, -100 where there is none;
    - `inputs` (`dict`): model inputs of prompts and actions;
    - `bootstrap_inputs` (`dict`, absent if R = 0): model inputs of the R following observations;
    - `reward` (float32 [B]), `terminated` (bool [B]);
    - `next_index` (int64 [B]): where the value of the following state stands in (turns, bootstrap rows, zero);
    - `row` (int64 [B]): row of the dataset;
    - `turn_weight` (float32 [B]): importance weight, 1 unless segments are drawn by priority;
    - `role` (int64 [B, n]): [`TokenRole`] of each token.

    Args:
        backbone ([`Backbone`]):
            The adapter that encodes.
        with_bootstrap (`bool`, *optional*, defaults to `True`):
            Whether following observations are needed; SFT without a critic does not.
    """

    def __init__(self, backbone: Backbone, with_bootstrap: bool = True):
        self.backbone = backbone
        self.with_bootstrap = with_bootstrap
        self._roles: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, segments: Sequence[Segment]) -> dict:
        rows = [row for segment in segments for row in segment.rows]
        actions = [self.action(row) for row in rows]
        prompts = [self.backbone.encode(row["prompt"], row["images"]) for row in rows]
        for row, prompt, (ids, _) in zip(rows, prompts, actions, strict=True):
            self.backbone.check_length(prompt, len(ids), f"row {row['row']}")
        labels = pad_sequence([torch.tensor(ids) for ids, _ in actions], batch_first=True, padding_value=-100)
        batch = {
            "labels": labels,
            "inputs": self.backbone.collate(prompts, [ids for ids, _ in actions]),
            "reward": torch.tensor([row["reward"] for row in rows], dtype=torch.float32),
            "terminated": torch.tensor([row["terminated"] for row in rows]),
            "next_index": torch.zeros(len(rows), dtype=torch.long),
            "row": torch.tensor([row["row"] for row in rows]),
            "turn_weight": torch.tensor([s.weight for s in segments for _ in s.rows], dtype=torch.float32),
            "role": pad_sequence([torch.tensor(roles) for _, roles in actions], batch_first=True),
        }
        if self.with_bootstrap:
            self._add_bootstrap(batch, segments)
        return batch

    def _add_bootstrap(self, batch: dict, segments: Sequence[Segment]) -> None:
        followed, following, position = [], [], 0
        next_index = batch["next_index"]
        for segment in segments:
            last = position + len(segment.rows) - 1
            next_index[position:last] = torch.arange(position + 1, last + 1)
            if segment.next_prompt is not None:
                followed.append(last)
                following.append(self.backbone.encode(segment.next_prompt, segment.next_images))
            position = last + 1
        next_index[batch["terminated"]] = position + len(following)
        for i, last in enumerate(followed):
            next_index[last] = position + i
        if not following and weights_are_sharded():
            # Processes gather weights together: each runs the same forwards, needed or not.
            following.append(self.backbone.encode(segments[0].rows[0]["prompt"], segments[0].rows[0]["images"]))
            next_index[batch["terminated"]] += 1
        if following:
            batch["bootstrap_inputs"] = self.backbone.collate(following)

    def action(self, row: dict) -> tuple[list[int], list[int]]:
        """Tokens of a row's action and their roles: the sampled ones where they were stored, else of its text."""
        ids, stopped = row.get("completion_ids"), row.get("completion_stopped")
        if ids is None:
            ids, stopped = self.backbone.completion_ids(completion_text(row)), True
        key = tuple(ids)
        if key not in self._roles:
            stopped = stopped if stopped is not None else ids[-1] in self.backbone.stop_token_ids
            self._roles[key] = [int(role) for role in token_roles(ids, stopped, self.backbone.decode)]
        return ids, self._roles[key]


def completion_text(row: dict) -> str:
    """The text of a row's completion."""
    content = row["completion"][0]["content"]
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)

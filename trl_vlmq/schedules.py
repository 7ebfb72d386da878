# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What changes over the course of training: the advantage filter, exploration, the share of online data."""

import math
from dataclasses import asdict, dataclass

import torch


FILTER_STATE = "filter_state.json"

# An actor's loss is never multiplied by more than ten.
_SMALLEST_SHARE = 0.1


@dataclass(frozen=True)
class FilterSchedule:
    """The threshold beta from -inf to its end value, over the course of training.

    For the first `warmup_ratio` of training beta is -inf: plain SFT, while the critic learns; longer if the critic does
    not explain `min_explained_variance` of its targets yet, since a filter that trusts a poor critic imitates its
    mistakes. Over the next `ramp_ratio` the share of tokens that is guaranteed to be kept falls from 1 to `keep_fraction`, and

        beta = min(end, the quantile of A above which that share of tokens lies)

    so that the filter needs no knowledge of the scale of rewards on its way to `end`. `keep_fraction` = 0 gives the
    paper's rule beta -> `end` (0); `end` = inf gives a schedule over the kept fraction alone. The warm-up and the end
    value are the paper's, the gate and the ramp over quantiles are ours.

    Args:
        end (`float`):
            Threshold after the ramp, in units of the scaled reward.
        warmup_ratio (`float`):
            Share of training with beta = -inf.
        ramp_ratio (`float`):
            Share of training over which the filter tightens.
        keep_fraction (`float`):
            Share of unsure tokens that is kept whatever their advantage.
        min_explained_variance (`float`, *optional*):
            Running explained variance of the critic before the filter starts; `None` asks for nothing.
    """

    end: float
    warmup_ratio: float
    ramp_ratio: float
    keep_fraction: float
    min_explained_variance: float | None = None

    def may_start(self, progress: float, explained_variance: float) -> bool:
        """Whether the warm-up is over at `progress` in [0, 1] of training, with such a critic."""
        ready = self.min_explained_variance is None or explained_variance >= self.min_explained_variance
        return ready and progress >= self.warmup_ratio

    def guaranteed_share(self, progress: float, started: float) -> float:
        """Share of tokens kept at `progress` of training, if the filter started at `started`."""
        # Rounded, since a ramp of .1 after .9 would otherwise end a hair below 1.
        ramped = 1.0 if self.ramp_ratio == 0 else min(1.0, round((progress - started) / self.ramp_ratio, 9))
        return 1.0 + ramped * (self.keep_fraction - 1.0)


@dataclass
class FilterState:
    """What the filter of the next optimiser step depends on; part of every checkpoint.

    Updated once per optimiser step from all action tokens of that step, so that gradient accumulation, the order of
    micro-batches and an interruption change nothing.

    Args:
        beta (`float`, *optional*, defaults to `-inf`):
            Threshold on the advantage.
        quantile (`float`, *optional*):
            Running estimate of the quantile that the ramp asks for; `None` before the ramp.
        kept_share (`float`, *optional*, defaults to `1.0`):
            Running share of action tokens that the filter keeps.
        kept_unsure_share (`float`, *optional*, defaults to `1.0`):
            The same of those that are not kept for confidence.
        explained_variance (`float`, *optional*, defaults to `0.0`):
            Running share of the variance of its targets that the critic explains.
        started (`float`, *optional*):
            Progress of training at which the filter started; `None` before.
        step (`int`, *optional*, defaults to `0`):
            Optimiser steps done; random draws are hashed from it.
    """

    step: int = 0
    beta: float = -math.inf
    quantile: float | None = None
    kept_share: float = 1.0
    kept_unsure_share: float = 1.0
    explained_variance: float = 0.0
    started: float | None = None

    _MOMENTUM = 0.9

    def update(
        self,
        schedule: FilterSchedule,
        progress: float,
        unsure_advantages: torch.Tensor,
        kept_fraction: float,
        kept_unsure_fraction: float,
        explained_variance: float = 0.0,
    ) -> None:
        """Advance by one optimiser step.

        Args:
            schedule ([`FilterSchedule`]):
                The schedule.
            progress (`float`):
                Share of training that is done, in [0, 1].
            unsure_advantages (`torch.Tensor`):
                Advantages [M] of the step's action tokens that are not kept for confidence.
            kept_fraction (`float`):
                Share of the step's action tokens that the filter kept.
            kept_unsure_fraction (`float`):
                The same of those that are not kept for confidence.
            explained_variance (`float`, *optional*, defaults to `0.0`):
                Share of the variance of the step's targets that the critic explains.
        """
        self.step += 1
        momentum = self._MOMENTUM
        self.explained_variance = momentum * self.explained_variance + (1 - momentum) * explained_variance
        if self.started is None:
            if not schedule.may_start(progress, self.explained_variance):
                return
            self.started = schedule.warmup_ratio if schedule.min_explained_variance is None else progress
        share = schedule.guaranteed_share(progress, self.started)
        if unsure_advantages.numel():
            # Sorted in float64 first: the result must not depend on the order in which micro-batches arrived.
            now = torch.quantile(unsure_advantages.double().sort().values, 1.0 - share).item()
            self.quantile = now if self.quantile is None else momentum * self.quantile + (1 - momentum) * now
            # Nothing is guaranteed any more: exactly the end value, not the largest advantage seen.
            self.beta = schedule.end if share == 0 else min(schedule.end, self.quantile)
        self.kept_share = momentum * self.kept_share + (1 - momentum) * kept_fraction
        self.kept_unsure_share = momentum * self.kept_unsure_share + (1 - momentum) * kept_unsure_fraction

    def share_to_divide_by(self, actor_objective: str) -> float:
        """What `actor_normalizer="kept"` divides by, at least 0.1: the filter decides on unsure tokens alone.

        "random_filter" drops tokens of every kind alike, the other objectives none.
        """
        shares = {"afsft": self.kept_unsure_share, "random_filter": self.kept_share}
        return max(_SMALLEST_SHARE, shares.get(actor_objective, 1.0))

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class LinearSchedule:
    """From `start` to `end` over `duration` epochs, then constant.

    Args:
        start (`float`):
            Value at epoch 0.
        end (`float`):
            Value from epoch `duration` on.
        duration (`int`):
            Epochs; 0 means `end` at once.
    """

    start: float
    end: float
    duration: int

    def __call__(self, epoch: int) -> float:
        done = 1.0 if self.duration == 0 else min(1.0, max(0.0, epoch / self.duration))
        return (1 - done) * self.start + done * self.end

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How the benchmarks measure: CPU time of variants in turn, tensors alive at once, growth with size."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class Timing:
    """CPU seconds: the median of several, the fastest and the slowest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def take_turns(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, Timing]:
    """Each variant once a round, so that whatever else the machine does hits all of them.

    Args:
        variants (`dict[str, Callable]`):
            Name -> a function that returns the CPU seconds it took.
        rounds (`int`):
            How often.
    """
    seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            seconds[name].append(variant())
    return {name: Timing(statistics.median(found), min(found), max(found)) for name, found in seconds.items()}


def growth_exponent(sizes: list[int], seconds: list[float]) -> float:
    """b of the least-squares fit seconds = a * size^b: 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are still alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and id(made.untyped_storage()) not in given:
                self.alive[made.untyped_storage()] = made.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self.alive.values()))
        return result

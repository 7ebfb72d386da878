# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Prioritised sampling of segments, and the importance weights that correct for it."""

from dataclasses import dataclass

import numpy as np

from .segments import SegmentTable


PRIORITIES = ("uniform", "td_error", "return")

# Share of the mean that even a priority of zero gets, so that every segment is drawn sooner or later.
_FLOOR = 0.1


@dataclass(frozen=True)
class Prioritization:
    """How segments are drawn: Schaul et al., 2016 ("proportional"), the floor is ours.

        P(i) = p_i^alpha / sum_k p_k^alpha        p_i = x_i / mean(x) + 0.1
        w_i  = (min_k P(k) / P(i))^beta

    where x is the mean |TD error| of a segment's action tokens when it was last trained on (of one that never was, the
    largest known), or the return of its episode above the smallest.

    Args:
        by (`str`):
            `"uniform"`, `"td_error"` or `"return"`.
        alpha (`float`):
            0 is uniform, 1 proportional.
        beta (`float`):
            1 corrects the expected gradient in full, 0 not at all.
    """

    by: str = "uniform"
    alpha: float = 0.6
    beta: float = 0.4

    def distribution(self, tables: list[SegmentTable], td_errors: list[np.ndarray]) -> "Distribution":
        """
        Args:
            tables (`list[SegmentTable]`):
                What is drawn from, at least one segment.
            td_errors (`list[numpy.ndarray]`):
                For each table its segments' TD errors, float64, NaN where unknown.
        """
        if self.by == "return":
            values = np.concatenate([table.returns for table in tables])
            values = values - values.min()
        else:
            values = np.concatenate(td_errors)
            known = values[~np.isnan(values)]
            values = np.where(np.isnan(values), known.max() if len(known) else 1.0, values)
        mean = values.mean()
        shares = (values / mean + _FLOOR if mean > 0 else np.ones_like(values)) ** self.alpha
        probabilities = shares / shares.sum()
        return Distribution(np.cumsum(probabilities), (probabilities.min() / probabilities) ** self.beta)


@dataclass(frozen=True)
class Distribution:
    """Probabilities of segments.

    Args:
        cumulative (`numpy.ndarray`):
            Cumulative probabilities, float64 [segments].
        weights (`numpy.ndarray`):
            Importance weights in (0, 1], float64 [segments].
    """

    cumulative: np.ndarray
    weights: np.ndarray

    def draw(self, uniform: float) -> tuple[int, float]:
        """The segment that a uniform in [0, 1) means, and its importance weight."""
        index = int(np.searchsorted(self.cumulative, uniform * self.cumulative[-1], side="right"))
        index = min(index, len(self.weights) - 1)
        return index, float(self.weights[index])

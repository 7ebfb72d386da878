# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How sure a number measured on a few hundred episodes is."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Confidence interval of a success rate: Wilson's score interval, which stays within [0, 1] and behaves near both.

    Args:
        successes (`int`):
            How often it worked.
        n (`int`):
            How often it was tried.
        confidence (`float`, *optional*, defaults to `0.95`):
            Probability with which such intervals cover the true rate.

    Returns:
        `tuple[float, float]`: low and high; `(0.0, 1.0)` if nothing was tried.

    Raises:
        ValueError: If not `0 <= successes <= n`.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes = {successes} is not between 0 and n = {n}; count each try once.")
    if n == 0:
        return 0.0, 1.0
    z = _two_sided_z(confidence)
    rate = successes / n
    center = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    margin = z / (1 + z**2 / n) * sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return max(0.0, center - margin), min(1.0, center + margin)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """
    Mean and its confidence interval by the normal approximation, mean +- z * s / sqrt(n): for some 30 values and more.

    Args:
        values (`Sequence[float]`):
            One number per episode.
        confidence (`float`, *optional*, defaults to `0.95`):
            Probability with which such intervals cover the true mean.

    Returns:
        `tuple[float, float, float]`: mean, low, high; one value alone says nothing about its spread and has the
        interval from minus to plus infinity.

    Raises:
        ValueError: If there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise ValueError("The mean of no values is undefined; evaluate at least one episode.")
    mean = float(values.mean())
    if values.size == 1:
        return mean, -np.inf, np.inf
    margin = _two_sided_z(confidence) * float(values.std(ddof=1)) / sqrt(values.size)
    return mean, mean - margin, mean + margin


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    *,
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """
    How much better `a` is than `b` on the same episodes, with a percentile-bootstrap interval over those episodes.

    Args:
        a (`Sequence[float]`):
            Results of one policy, one per evaluation seed.
        b (`Sequence[float]`):
            Results of the other policy on the same seeds in the same order.
        samples (`int`, *optional*, defaults to `10_000`):
            Bootstrap resamples.
        seed (`int`, *optional*, defaults to `0`):
            Of the resampling; equal arguments give equal intervals.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the resampled differences between low and high.

    Returns:
        `tuple[float, float, float]`: mean of `a - b`, low, high.

    Raises:
        ValueError: If the two are empty or differ in length.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"Paired results have shapes {a.shape} and {b.shape}; give one number per seed to both.")
    difference = a - b
    # How often each *distinct* difference is drawn is multinomial: the same distribution as drawing episodes one by
    # one, and for success or failure only three numbers a resample instead of one for each episode.
    distinct, counts = np.unique(difference, return_counts=True)
    random = np.random.default_rng(seed)
    means = [random.multinomial(a.size, counts / a.size) @ distinct / a.size for _ in range(samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(difference.mean()), float(low), float(high)


def _two_sided_z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} is not between 0 and 1; 0.95 is usual.")
    return NormalDist().inv_cdf((1 + confidence) / 2)

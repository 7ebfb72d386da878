# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An interval in a report must be the one it is said to be."""

from itertools import product

import numpy as np
import pytest

from trl_vlmq.statistics import mean_interval, paired_bootstrap, wilson_interval


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_agrees_with_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_solves_the_score_equation():
    # its ends are the rates p at which (rate - p)^2 = z^2 p (1 - p) / n, z = 1.6448536... at 90%
    for bound in wilson_interval(37, 50, confidence=0.9):
        assert (37 / 50 - bound) ** 2 == pytest.approx(1.6448536269514722**2 * bound * (1 - bound) / 50)


def test_wilson_interval_of_nothing_and_of_nonsense():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(5, 5)[1] == 1.0
    with pytest.raises(ValueError, match="successes = 6 is not between 0 and n = 5"):
        wilson_interval(6, 5)
    with pytest.raises(ValueError, match="confidence = 95"):
        wilson_interval(1, 5, confidence=95)


def test_mean_interval_by_hand():
    # mean 2.5, s = sqrt(5 / 3), n = 4
    margin = 1.959963984540054 * np.sqrt(5 / 3) / 2
    assert mean_interval([1, 2, 3, 4]) == pytest.approx((2.5, 2.5 - margin, 2.5 + margin))
    assert mean_interval([3.0]) == (3.0, -np.inf, np.inf)
    with pytest.raises(ValueError, match="at least one episode"):
        mean_interval([])


def test_mean_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(size=(4_000, 100))
    covered = [low <= 1.0 <= high for _, low, high in map(mean_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_paired_bootstrap_agrees_with_all_resamples_counted_out():
    a, b = np.array([1.0, 0.5, 1.0, 0.0, 2.0]), np.array([0.0, 0.5, 0.0, 1.0, 0.0])
    every = np.array([np.mean(pick) for pick in product(a - b, repeat=5)])
    expected = np.quantile(every, [0.1, 0.9])
    difference, low, high = paired_bootstrap(a, b, samples=50_000, confidence=0.8)
    assert difference == pytest.approx(0.6)
    assert (low, high) == pytest.approx(tuple(expected), abs=1e-9)  # the quantiles are values of a discrete law


def test_paired_bootstrap_uses_the_pairing():
    luck = np.random.default_rng(1).normal(scale=100, size=200)  # of the seeds, shared by both policies
    difference, low, high = paired_bootstrap(luck + 1, luck)
    assert difference == pytest.approx(1)
    assert 0.99 < low <= high < 1.01


def test_paired_bootstrap_repeats_itself_and_refuses_unpaired_results():
    a, b = [1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 1]
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    with pytest.raises(ValueError, match=r"shapes \(6,\) and \(5,\)"):
        paired_bootstrap(a, b[:5])
    with pytest.raises(ValueError, match="one number per seed"):
        paired_bootstrap([], [])

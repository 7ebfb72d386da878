# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The filter's schedule, its state, and the random numbers that depend on nothing but a row's identity."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from trl_vlmq import AFSFTConfig
from trl_vlmq.losses import token_uniforms
from trl_vlmq.schedules import FilterSchedule, FilterState


STEPS = 200


def run(
    schedule: FilterSchedule, steps: int = STEPS, seed: int = 0, mean: float = 0.0
) -> list[tuple[float, float, float]]:
    """(progress, beta in force, kept fraction) at each step of training on fresh normal advantages."""
    generator = torch.Generator().manual_seed(seed)
    state, history = FilterState(), []
    for step in range(steps):
        advantages = torch.randn(2000, generator=generator, dtype=torch.float64) + mean
        kept = (advantages > state.beta).double().mean().item()
        history.append((step / steps, state.beta, kept))
        state.update(schedule, (step + 1) / steps, advantages, kept, kept)
    history.append((1.0, state.beta, math.nan))
    return history


@pytest.mark.parametrize("warmup", [0.0, 0.35, 0.5])
@pytest.mark.parametrize("keep_fraction", [0.0, 0.4])
def test_everything_is_kept_during_the_warm_up(warmup, keep_fraction):
    for progress, beta, kept in run(FilterSchedule(0.0, warmup, 0.25, keep_fraction)):
        if progress < warmup:
            assert beta == -math.inf and kept == 1.0
        elif progress > warmup + 0.01:
            assert beta > -math.inf


@pytest.mark.parametrize("end", [0.0, -0.3, 0.7])
def test_without_a_guaranteed_share_the_threshold_ends_exactly_at_filter_beta(end):
    """The paper's rule, whatever the advantages: also where quantiles would be far above or below it."""
    for mean in (-5.0, 0.0, 5.0):
        history = run(FilterSchedule(end, 0.35, 0.25, 0.0), mean=mean)
        assert [beta for progress, beta, _ in history if progress >= 0.6 + 1 / STEPS] == [end] * (STEPS * 2 // 5)


@pytest.mark.parametrize(
    ("warmup", "ramp"), [(0.9, 0.1), (0.7, 0.3), (0.35, 0.65), (0.0, 1.0), (0.6, 0.4), (0.05, 0.15)]
)
def test_the_ramp_ends_where_it_should_despite_rounding(warmup, ramp):
    """(1 - .9) / .1 is a little less than 1 in floating point."""
    state = FilterState()
    schedule = FilterSchedule(0.0, warmup, ramp, 0.0)
    state.update(schedule, warmup + ramp, torch.linspace(-9, -1, 50), 1.0, 1.0)
    assert schedule.guaranteed_share(warmup + ramp, warmup) == 0.0
    assert state.beta == 0.0


@pytest.mark.parametrize("keep_fraction", [0.0, 0.2, 0.8])
@pytest.mark.parametrize("mean", [-2.0, 0.0, 2.0])
def test_the_threshold_never_exceeds_filter_beta(keep_fraction, mean):
    history = run(FilterSchedule(0.1, 0.2, 0.3, keep_fraction), mean=mean)
    assert max(beta for _, beta, _ in history) <= 0.1


@pytest.mark.parametrize("keep_fraction", [0.1, 0.4])
def test_the_kept_fraction_follows_the_ramp(keep_fraction):
    """With no limit on the threshold the kept fraction is the guaranteed share, ten steps late at most."""
    warmup, ramp = 0.3, 0.5
    lag = 1 / (1 - FilterState._MOMENTUM) / STEPS
    for progress, _, kept in run(FilterSchedule(math.inf, warmup, ramp, keep_fraction))[:-1]:
        late = max(0.0, progress - lag - warmup) / ramp
        early = max(0.0, progress - warmup) / ramp
        high, low = (1 - min(1.0, ramped) * (1 - keep_fraction) for ramped in (late, early))
        assert low - 0.05 <= kept <= high + 0.08, (progress, kept, low, high)
    assert kept == pytest.approx(keep_fraction, abs=0.03)


def test_the_share_is_guaranteed_among_tokens_the_policy_is_unsure_of():
    """Tokens kept for confidence do not count towards it; the threshold is a quantile of the others."""
    state = FilterState()
    unsure = torch.arange(100, dtype=torch.float64)
    state.update(FilterSchedule(math.inf, 0.0, 0.0, 0.25), 0.5, unsure, 0.9, 0.3)
    assert (unsure > state.beta).sum() == 25
    assert state.kept_share == pytest.approx(0.9 * 1.0 + 0.1 * 0.9)
    assert state.kept_unsure_share == pytest.approx(0.9 * 1.0 + 0.1 * 0.3)


def test_the_actors_pull_stays_what_it_was_while_the_filter_tightens():
    """Divided by the share of what the filter decides on; by all that random_filter drops; by nothing else's."""
    state = FilterState(kept_share=0.9, kept_unsure_share=0.25)
    shares = {"afsft": 0.25, "random_filter": 0.9, "sft": 1.0, "awr": 1.0, "epg": 1.0}
    assert {name: state.share_to_divide_by(name) for name in shares} == shares
    assert FilterState(kept_unsure_share=0.001).share_to_divide_by("afsft") == 0.1


def test_the_filter_waits_for_a_critic_that_explains_its_targets():
    """The running explained variance passes 0.5 at its seventh step of 1: 1 - 0.9^7 > 0.5 > 1 - 0.9^6."""
    schedule, state = FilterSchedule(math.inf, 0.1, 0.2, 0.5, min_explained_variance=0.5), FilterState()
    advantages = torch.arange(1000, dtype=torch.float64)
    for step in range(20):
        state.update(schedule, 0.1 + 0.01 * step, advantages, 1.0, 1.0, 0.0)
    assert state.started is None and state.beta == -math.inf
    for step in range(1, 8):
        assert state.started is None
        state.update(schedule, 0.3 + 0.01 * step, advantages, 1.0, 1.0, 1.0)
    assert state.started == pytest.approx(0.37) and (advantages > state.beta).sum() == 999
    for step in range(60):  # what the critic does later changes nothing
        state.update(schedule, 0.37 + 0.01 * step, advantages, 1.0, 1.0, -5.0)
    assert (advantages > state.beta).double().mean() == pytest.approx(0.5, abs=0.02)


def test_a_step_without_unsure_tokens_leaves_the_threshold():
    state = FilterState()
    schedule = FilterSchedule(0.0, 0.0, 0.0, 0.5)
    state.update(schedule, 0.5, torch.tensor([-2.0, -1.0]), 1.0, 1.0)
    before = state.beta
    state.update(schedule, 0.6, torch.tensor([]), 1.0, 1.0)
    assert state.beta == before == pytest.approx(-1.5)


def test_the_order_of_micro_batches_does_not_reach_the_state():
    schedule = FilterSchedule(0.0, 0.0, 0.5, 0.3)
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(101, generator=generator) for _ in range(5)]
    states = []
    for seed in range(4):
        state = FilterState()
        for i, advantages in enumerate(steps):
            order = torch.randperm(101, generator=torch.Generator().manual_seed(seed)) if seed else slice(None)
            state.update(schedule, 0.1 * (i + 1), advantages[order], 0.5, 0.4)
        states.append(state)
    assert all(state == states[0] for state in states)


@pytest.mark.parametrize("steps", [0, 30, 120])
def test_a_state_survives_its_file(steps):
    schedule = FilterSchedule(0.0, 0.3, 0.3, 0.4)
    generator = torch.Generator().manual_seed(0)
    state = FilterState()
    for step in range(steps):
        state.update(schedule, step / 150, torch.randn(50, generator=generator), 0.7, 0.6)
    restored = FilterState(**json.loads(json.dumps(state.to_dict())))
    assert restored == state
    for each in (state, restored):
        each.update(schedule, 0.9, torch.arange(9.0), 0.5, 0.4)
    assert restored == state


def test_config_hands_its_numbers_to_the_schedule(tmp_path):
    args = AFSFTConfig(
        str(tmp_path), use_cpu=True, filter_beta=0.1, filter_warmup_ratio=0.2, filter_ramp_ratio=0.3,
        filter_keep_fraction=0.4,
    )  # fmt: skip
    assert args.filter_schedule() == FilterSchedule(end=0.1, warmup_ratio=0.2, ramp_ratio=0.3, keep_fraction=0.4)


# ---- Random numbers ----


def test_token_uniforms_are_uniform(slow):
    drawn = token_uniforms(torch.arange(2000), 50, step=0, seed=0)
    assert drawn.shape == (2000, 50) and drawn.dtype == torch.float64
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.bincount((drawn.flatten().numpy() * 100).astype(int), minlength=100)
    assert slow.chi_square_p(counts, np.full(100, drawn.numel() / 100)) > 1e-3


@pytest.mark.parametrize("over", ["row", "position", "step", "seed"])
def test_token_uniforms_are_independent_of_their_neighbours(slow, over):
    """Pairs of draws that differ by one in a coordinate fill the unit square evenly."""
    if over == "row":
        drawn = token_uniforms(torch.arange(4001), 10, step=5, seed=1)
        first, second = drawn[:-1], drawn[1:]
    elif over == "position":
        drawn = token_uniforms(torch.arange(4000), 11, step=5, seed=1)
        first, second = drawn[:, :-1], drawn[:, 1:]
    else:
        rows = torch.arange(4000)
        first = token_uniforms(rows, 10, step=5, seed=1)
        second = token_uniforms(rows, 10, **({"step": 6, "seed": 1} if over == "step" else {"step": 5, "seed": 2}))
    cells = ((first * 10).long() * 10 + (second * 10).long()).flatten().numpy()
    assert slow.chi_square_p(np.bincount(cells, minlength=100), np.full(100, len(cells) / 100)) > 1e-3


def test_one_row_drawn_over_the_steps_of_a_run_is_uniform(slow):
    """What decides how often a token is imitated: one row and position, many steps."""
    for row, position in ((0, 0), (3, 7)):
        drawn = np.array([token_uniforms(torch.tensor([row]), 8, step, 0)[0, position] for step in range(2000)])
        counts = np.bincount((drawn * 20).astype(int), minlength=20)
        assert slow.chi_square_p(counts, np.full(20, 100)) > 1e-3


def test_no_two_coordinates_share_a_number():
    rows = torch.tensor([0, 1, 2, 999, 10**6, 2**40])
    drawn = [
        token_uniforms(rows, 30, step, seed) for step, seed in itertools.product((0, 1, 2, 1000), (0, 1, 42, 2**31))
    ]
    everything = torch.stack(drawn).flatten()
    assert len(everything.unique()) == len(everything)


def test_a_row_draws_alike_in_any_batch_and_of_any_width():
    rows = torch.tensor([5, 17, 3, 8])
    whole = token_uniforms(rows, 12, step=9, seed=4)
    assert torch.equal(whole, token_uniforms(rows, 12, step=9, seed=4))
    for b, row in enumerate(rows):
        assert torch.equal(token_uniforms(row[None], 7, step=9, seed=4)[0], whole[b, :7])

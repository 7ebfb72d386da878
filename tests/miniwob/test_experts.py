# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
Scripted agents: experts solve their tasks, the others less often.

The short form of `python benchmarks/miniwob_experts.py --seeds 100`.
"""

import itertools

import numpy as np
import pytest

from trl_vlmq.envs import BehaviorUnavailableError
from trl_vlmq.envs.miniwob.experts import EXPERTS


pytestmark = pytest.mark.slow


def play(env, behavior, seed):
    agent = env.make_behavior(behavior, np.random.default_rng([seed, *env.task.encode()]))
    terminated = truncated = False
    while not (terminated or truncated):
        _, _, terminated, truncated, info = env.step(agent.act())
        assert info["action_is_valid"], info["raw_action"]
    return info["success"]


@pytest.mark.parametrize("task", EXPERTS)
def test_the_expert_solves_its_task(on, task):
    assert play(on(task, seed=0), "expert", 0)


@pytest.mark.parametrize(
    "task", ["click-test-2", "login-user", "click-tab-2", "use-slider", "drag-box", "click-checkboxes"]
)
def test_the_expert_solves_more_episodes(on, task):
    assert all(play(on(task, seed=seed), "expert", seed) for seed in (101, 102))


@pytest.mark.parametrize("seed", [3, 4])
def test_a_layout_that_names_its_fields_below_them_is_filled_in_right(on, seed):
    assert play(on("multi-layouts", seed=seed), "expert", seed)


def test_the_others_are_worse_each_in_its_way(on):
    tasks = ("enter-text", "click-option", "choose-list", "click-link", "login-user")
    successes, steps = {}, {}
    for name in ("expert", "noisy_expert", "wrong_target"):
        successes[name], steps[name] = [], 0
        for task, seed in itertools.product(tasks, range(2)):
            env = on(task, seed)
            successes[name].append(play(env, name, seed))
            steps[name] += env.elapsed_steps
    assert all(successes["expert"]) and not any(successes["wrong_target"])
    assert sum(successes["noisy_expert"]) >= 5
    assert steps["noisy_expert"] > steps["expert"]  # its detours


def test_where_nothing_can_be_mistaken_the_wrong_target_says_so(on):
    with pytest.raises(BehaviorUnavailableError, match="nothing on this page"):
        on("click-test").make_behavior("wrong_target", np.random.default_rng(0))


def test_a_random_agent_acts_validly_on_any_page(on):
    for task in ("email-inbox", "choose-list", "use-spinner", "click-pie"):
        env = on(task, seed=1)
        assert all(env.grammar.parse(action) == action for action in env.legal_actions())
        play(env, "random", 1)

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An agent for several tasks is told apart task by task: in logs, in evaluations, in the table and the figure."""

import numpy as np
import pytest
from PIL import Image

from trl_vlmq import BehaviorPolicy, EvaluationResult, evaluate_policy, play_episodes
from trl_vlmq.diagnostics import environment_table, plot_environments
from trl_vlmq.episodes import episodes_to_dataset
from trl_vlmq.statistics import wilson_interval


@pytest.fixture
def two_ways(corridor):
    """Two tasks in one environment: whose goal is on the left, and whose is on the right."""

    class TwoWays(corridor):
        @property
        def env_id(self):
            return f"trl_vlmq/Go-{'right' if self.goal else 'left'}-v0"

    return TwoWays


def test_every_episode_tells_its_own_task(two_ways):
    episodes = list(play_episodes(two_ways, BehaviorPolicy("expert"), 30, seed=3, num_envs=4))
    # The expert's first word says where its goal is.
    names = {"d": "trl_vlmq/Go-left-v0", "e": "trl_vlmq/Go-right-v0"}
    assert [e.env_id for e in episodes] == [names[e.turns[0].completion] for e in episodes]
    assert episodes_to_dataset(episodes)["env_id"] == [e.env_id for e in episodes for _ in e.turns]
    parts = evaluate_policy(two_ways, BehaviorPolicy("random"), 30, seed=3, progress=None).by_environment()
    episodes = list(play_episodes(two_ways, BehaviorPolicy("random"), 30, seed=3))
    assert list(parts) == list(names.values()) and sum(len(part.success) for part in parts.values()) == 30
    for name, part in parts.items():
        assert part.lengths.tolist() == [e.length for e in episodes if e.env_id == name]


def result_of(rates: dict[str, tuple[int, int]]) -> EvaluationResult:
    success = np.concatenate([np.arange(n) < k for k, n in rates.values()])
    ones = np.ones(len(success), int)
    env_ids = np.concatenate([np.full(n, name) for name, (_, n) in rates.items()])
    return EvaluationResult(success, success * 1.0, ones, ones, env_ids)


def test_the_table_has_each_task_of_each_policy_with_its_interval():
    results = {
        "sft": result_of({"trl_vlmq/MiniWoB-b-v0": (30, 100), "trl_vlmq/MiniWoB-a-v0": (1, 2)}),
        "afsft": result_of({"trl_vlmq/MiniWoB-a-v0": (2, 2)}),
    }
    head, _, first, second = environment_table(results).splitlines()
    assert head == "| environment | sft | afsft |"
    low, high = wilson_interval(30, 100)
    assert second == f"| MiniWoB-b | 30.0% ({low:.1%} to {high:.1%}) |  |"
    assert first.startswith("| MiniWoB-a | 50.0% (") and "| 100.0% (" in first


def test_the_figure_shows_each_policy_in_its_own_color(tmp_path):
    results = {
        "sft (greedy)": result_of({"e/a-v0": (20, 40), "e/b-v0": (0, 40)}),
        "afsft (greedy)": result_of({"e/a-v0": (40, 40)}),
    }
    plot_environments(tmp_path / "tasks.png", results, "Two tasks")
    pixels = np.asarray(Image.open(tmp_path / "tasks.png").convert("RGB")).reshape(-1, 3).astype(int)
    areas = {}
    for name, color in (("sft", (0x7F, 0x8C, 0x9B)), ("afsft", (0xC8, 0x44, 0x2B))):
        areas[name] = int((np.abs(pixels - color).max(axis=1) < 8).sum())
    assert areas["afsft"] > 50 and areas["sft"] > 1.5 * areas["afsft"]  # two points against one

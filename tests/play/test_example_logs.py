# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The logs of the examples: collected once, taken up again by the online phase, and never those of another environment."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trl_vlmq import BehaviorPolicy
from trl_vlmq.critic import CRITIC_WEIGHTS
from trl_vlmq.envs import PromptBuilder


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """`comparison(**env_kwargs)`: that of an example in one output folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    monkeypatch.delitem(sys.modules, "comparison", raising=False)
    from comparison import Comparison

    def make(**env_kwargs):
        env = {
            "make_env": "trl_vlmq/BabyAI-GoToLocalS6N2-v0", "env_kwargs": env_kwargs, "prompt_builder": PromptBuilder(),
        }  # fmt: skip
        return Comparison(None, SimpleNamespace(output_dir=tmp_path, seed=0), None, env, num_envs=2)

    return make


def test_logs_of_another_environment_are_refused_with_what_differs(comparison, tmp_path):
    random = BehaviorPolicy("random")
    comparison(max_steps=4).collect_or_load(None, random, 3)
    path = str(tmp_path / "episodes.parquet")
    for same in ({"max_steps": 4}, {"max_steps": 4, "invalid_penalty": 0.0}, {"max_steps": 4, "list_actions": True}):
        assert comparison(**same).collect_or_load(path, random, 3)["turn"][0] == 0
    with pytest.raises(
        ValueError, match=r"'max_steps': 4.*of this run is .*'max_steps': 5(.|\n)*leave out --episodes_path"
    ):
        comparison(max_steps=5).collect_or_load(path, random, 3)


def test_going_on_takes_the_logs_that_are_there_and_a_new_run_collects_its_own(comparison, tmp_path):
    def ids(policy, **kwargs):
        return comparison(max_steps=4).collect_or_load(None, BehaviorPolicy(policy), 3, **kwargs)["episode_id"][0]

    assert ids("random", go_on=True).startswith("random"), "there were none"
    assert ids("expert", go_on=True).startswith("random")
    assert ids("expert").startswith("expert")


def test_an_agent_to_go_on_from_has_its_critic(comparison, tmp_path):
    assert not comparison().has_agent
    (tmp_path / "afsft").mkdir()
    (tmp_path / "afsft" / CRITIC_WEIGHTS).touch()
    assert comparison().has_agent

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What is drawn of a critic's view of Blackjack hands belongs to those hands."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import load_backbone
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.envs.gym_cards.blackjack_oracle import best_policy
from trl_vlmq.losses import Objective


sys.path.append(str(Path(__file__).parents[2] / "examples"))
from watch_blackjack import BlackjackCritic  # noqa: E402


ENV = {"env_kwargs": {"image_size": 112, "symbolic": True}, "prompt_builder": PromptBuilder()}


@pytest.fixture(scope="module")
def critic() -> BlackjackCritic:
    return BlackjackCritic(ENV, every_steps=10, num_games=40)


def test_each_hand_s_exact_difference_is_that_of_the_hand_in_its_prompt(critic):
    for (messages, images), (total, soft, _), exact in zip(critic.prompts, critic.states, critic.exact, strict=True):
        text = messages[0]["content"][-1]["text"]
        assert f"{'soft ' if soft else ''}{total}." in text and len(images) == 1
        # By far: hitting a hard 20 is bad, hitting 11 good, whatever the dealer shows.
        if total >= 19 and not soft:
            assert exact < -0.5
        if total <= 11:
            assert exact > 0
    assert len({state for state in critic.states}) > 20


def test_the_sign_of_the_exact_difference_is_the_best_policy(critic):
    best = best_policy("return")
    assert [exact > 0 for exact in critic.exact] == [best[state] for state in critic.states]


def test_a_look_is_q_of_hitting_minus_q_of_standing_in_rewards(critic, tmp_path):
    """With Q(s, a) = a everywhere, the difference is that of two token ids."""
    backbone = load_backbone("tiny-cards")
    model = VLMActorCritic(backbone, Objective(), critic_hidden_size=4)
    model.critic.forward = lambda states: torch.arange(backbone.n_logits).float().expand(1, *states.shape[:-1], -1)
    hit, stand = (backbone.completion_ids(f'{{"action": "{word}"}}') for word in ("hit", "stand"))
    first = next(i for i, (a, b) in enumerate(zip(hit, stand, strict=False)) if a != b)
    assert len(hit) == len(stand) == first + 3, "each word is one token, then quote and stop"
    state = SimpleNamespace(global_step=10, max_steps=100, is_world_process_zero=True)
    critic.on_step_end(SimpleNamespace(reward_scale=2.0), state, None, model=model)
    critic.on_step_end(
        SimpleNamespace(reward_scale=2.0), SimpleNamespace(**vars(state) | {"global_step": 11}), None, model=model
    )
    ((step, found),) = critic.looks
    assert step == 10
    np.testing.assert_allclose(found, (hit[first] - stand[first]) / 2)
    critic.plot(tmp_path / "hands.png")
    assert (tmp_path / "hands.png").stat().st_size > 10_000

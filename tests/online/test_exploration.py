# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What epsilon means."""

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch

from trl_vlmq import EpsilonGreedyPolicy, LinearSchedule, VLMPolicy, make_backbone, play_episodes
from trl_vlmq.backbones import GeneratedAction
from trl_vlmq.policies import Situation, random_valid_action


class Stubborn:
    """Always says the same and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def name(self, seed):
        return "stubborn"

    def start(self, situation):
        pass

    def act(self, situations):
        self.asked += len(situations)
        return [GeneratedAction("d", [9], True, 0.0) for _ in situations]


def turns_of(lamp, epsilon: float, policy=None, episodes: int = 300):
    inner = policy or Stubborn()
    played = play_episodes(lamp, EpsilonGreedyPolicy(inner, epsilon), episodes, seed=1)
    return [turn for episode in played for turn in episode.turns], inner


def test_without_epsilon_the_policy_alone_acts(lamp):
    turns, inner = turns_of(lamp, 0.0, episodes=20)
    assert inner.asked == len(turns) == 60 and all(turn.completion_ids == [9] for turn in turns)


def test_at_epsilon_one_the_model_is_never_asked(lamp):
    turns, inner = turns_of(lamp, 1.0)
    assert inner.asked == 0 and all(turn.completion_ids is None for turn in turns)
    counts = Counter(turn.completion for turn in turns)
    assert set(counts) == {"d", "e"} and all(turn.action_is_valid for turn in turns)
    assert abs(counts["e"] / len(turns) - 0.5) < 4 * np.sqrt(0.25 / len(turns))


def test_epsilon_is_the_share_of_random_turns(lamp):
    turns, inner = turns_of(lamp, 0.3)
    explored = np.mean([turn.completion_ids is None for turn in turns])
    assert abs(explored - 0.3) < 4 * np.sqrt(0.21 / len(turns)) and inner.asked == sum(
        turn.completion_ids is not None for turn in turns
    )


def test_exploration_depends_on_the_episode_and_not_on_who_plays_beside_it(lamp):
    def contents(num_envs):
        policy = EpsilonGreedyPolicy(Stubborn(), 0.5)
        played = play_episodes(lamp, policy, 12, seed=3, num_envs=num_envs)
        return [[turn.completion for turn in episode.turns] for episode in played]

    assert contents(1) == contents(5)


def test_an_environment_that_does_not_say_what_is_legal_cannot_be_explored_by_actions():
    class Mute(gym.Env):
        pass

    with pytest.raises(TypeError, match=r"Mute has no legal_actions\(\).*or explore over tokens"):
        random_valid_action(Mute(), np.random.default_rng(0))


def test_tokens_are_drawn_uniformly_from_the_valid_ones_with_probability_epsilon(tiny_vlm, lamp):
    """Against exact probabilities: (1 - epsilon) pi + epsilon / number of valid tokens."""
    make, processor = tiny_vlm
    backbone = make_backbone(make(), processor)
    env = lamp()
    observation, _ = env.reset(seed=0)
    prompt = [{"role": "user", "content": [{"type": "text", "text": observation["text"]}]}]
    draws, epsilon = 4000, 0.4
    uniforms = torch.from_numpy(np.random.default_rng(0).random((1, draws)))
    encoded = [backbone.encode(prompt, [])] * draws
    actions = backbone.generate(
        encoded, max_new_tokens=1, temperature=1.0, uniforms=uniforms.__getitem__, epsilon=epsilon
    )
    valid = backbone.valid_token_mask()
    with torch.no_grad():
        _, logits = backbone.forward(backbone.collate([encoded[0]]), keep=1)
    policy = logits[0, -1].double().masked_fill(~valid, -torch.inf).softmax(-1)
    expected = (1 - epsilon) * policy + epsilon * valid / valid.sum()
    found = torch.bincount(torch.tensor([a.ids[0] for a in actions]), minlength=len(valid)) / draws
    assert (found[~valid] == 0).all()
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / draws).sqrt() + 1e-9).all()


def test_token_exploration_around_a_greedy_policy(tiny_vlm, lamp):
    make, processor = tiny_vlm
    backbone = make_backbone(make(), processor)
    env = lamp()
    observation, _ = env.reset(seed=0)
    prompt = [{"role": "user", "content": [{"type": "text", "text": observation["text"]}]}]
    situations = [Situation(seed, 0, prompt, [], env) for seed in range(200)]
    greedy = {a.ids[0] for a in VLMPolicy(backbone, max_new_tokens=1).act(situations)}
    mixed = [a.ids[0] for a in VLMPolicy(backbone, max_new_tokens=1, token_epsilon=0.3).act(situations)]
    assert len(greedy) == 1 and abs(np.mean([token in greedy for token in mixed]) - 0.7) < 0.15


def test_a_schedule_is_a_straight_line_and_then_constant():
    epsilon = LinearSchedule(1.0, 0.1, 300)
    assert [epsilon(e) for e in (0, 100, 300, 1000)] == pytest.approx([1.0, 0.7, 0.1, 0.1])
    assert LinearSchedule(1.0, 0.2, 0)(0) == 0.2

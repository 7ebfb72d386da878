# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Logs of an agent that makes mistakes in its syntax."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_vlmq import BehaviorPolicy, SloppyPolicy, play_episodes
from trl_vlmq.envs import JsonActionGrammar
from trl_vlmq.policies import spoil


def turns_of(share, episodes=400):
    policy = SloppyPolicy(BehaviorPolicy("random"), share)
    return [turn for e in play_episodes("trl_vlmq/Blackjack-v0", policy, episodes, seed=3) for turn in e.turns]


def test_the_share_of_invalid_actions_is_the_one_asked_for():
    turns = turns_of(0.3)
    invalid = np.mean([not turn.action_is_valid for turn in turns])
    assert abs(invalid - 0.3) < 4 * np.sqrt(0.21 / len(turns))
    assert all(turn.reward == -1 for turn in turns if not turn.action_is_valid)
    assert len({turn.completion for turn in turns if not turn.action_is_valid}) > 30


def test_nothing_or_everything_can_be_spoiled():
    assert all(turn.action_is_valid for turn in turns_of(0.0, 50))
    assert not any(turn.action_is_valid for turn in turns_of(1.0, 10))
    with pytest.raises(ValueError, match="between 0 and 1"):
        SloppyPolicy(BehaviorPolicy("random"), 1.5)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["hit", "10", "="]))
def test_a_spoiled_text_is_never_an_action(seed, action):
    grammar = JsonActionGrammar(["hit", "1", "10", "="])
    assert grammar.parse(spoil(grammar.format(action), grammar.parse, np.random.default_rng(seed))) is None

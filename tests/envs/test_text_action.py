# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from trl_vlmq.envs import FreeText


UP, DOWN = '{"action": "up"}', '{"action": "down"}'


def test_free_text_contains_whatever_a_model_writes():
    for text in ("", "é🂡\x00\ud800", "x" * 100_000):
        assert text in FreeText(8)
    assert 3 not in FreeText(8) and None not in FreeText(8) and b"bytes" not in FreeText(8)


def test_free_text_survives_pickling_and_copying():
    space = FreeText(8, seed=3)
    for twin in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
        assert twin == space and "\ud800" in twin
        assert twin.sample() == copy.deepcopy(space).sample()
    assert space != FreeText(9) and space != gymnasium.spaces.Text(8)


def test_free_text_samples_are_printable_and_within_the_length():
    space = FreeText(8, seed=0)
    samples = [space.sample() for _ in range(200)]
    assert {len(sample) for sample in samples} == set(range(9))
    assert all(sample.isascii() for sample in samples)


def test_gymnasiums_own_checker_passes(counter_class):
    check_env(counter_class())


def test_info_tells_what_became_of_the_text(counter_class):
    env = counter_class()
    env.reset(seed=0, options=None)
    env.number = 0
    assert env.step(DOWN)[4] == {
        "action_is_valid": True,
        "action_is_effective": False,
        "executed_action": "down",
        "raw_action": DOWN,
        "success": False,
    }
    assert env.step("rubbish")[4] == {
        "action_is_valid": False,
        "action_is_effective": False,
        "executed_action": None,
        "raw_action": "rubbish",
        "success": False,
    }
    env.number = 4
    _, reward, terminated, truncated, info = env.step(UP)
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_an_invalid_action_under_noop_takes_time_and_nothing_else(counter_class):
    env = counter_class(invalid_penalty=0.25)
    observation, _ = env.reset(seed=0)
    for step in range(1, 11):
        now, reward, terminated, truncated, _ = env.step("rubbish")
        assert now["text"] == observation["text"] and reward == -0.25
        assert (terminated, truncated) == (False, step == 10)


def test_an_invalid_action_under_default_does_the_default_action(counter_class):
    env = counter_class(invalid_action="default", default_action="up", invalid_penalty=0.25)
    env.reset(seed=0)
    env.number = 4
    _, reward, terminated, _, info = env.step("rubbish")
    assert (reward, terminated) == (0.75, True)
    assert (info["executed_action"], info["action_is_valid"], info["success"]) == ("up", False, True)


def test_an_invalid_action_under_terminate_ends_the_episode_without_success(counter_class):
    env = counter_class(invalid_action="terminate", invalid_penalty=0.25)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step("rubbish")
    assert (reward, terminated, truncated, info["success"]) == (-0.25, True, False, False)
    assert info["executed_action"] is None


def test_an_invalid_action_under_random_draws_from_the_seeded_generator(counter_class):
    def executed(seed):
        env = counter_class(invalid_action="random", max_steps=200)
        env.reset(seed=seed)
        actions = []
        for _ in range(20):
            _, _, terminated, _, info = env.step("rubbish")
            actions.append(info["executed_action"])
            if terminated:
                env.reset()
        return actions

    assert executed(0) == executed(0) != executed(1)
    assert set(executed(0)) == {"up", "down"}


def test_a_valid_action_is_never_penalised(counter_class):
    env = counter_class(invalid_penalty=0.25)
    env.reset(seed=0)
    env.number = 2
    assert env.step(UP)[1] == 0.0


def test_success_in_the_last_time_step_terminates_and_does_not_truncate(counter_class):
    env = counter_class(max_steps=1)
    env.reset(seed=0)
    env.number = 4
    assert env.step(UP)[2:4] == (True, False)


def test_stepping_without_a_running_episode_is_refused(counter_class):
    env = counter_class(max_steps=1)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(UP)
    env.reset(seed=0)
    env.step("rubbish")
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(UP)


def test_an_action_that_is_not_text_is_refused(counter_class):
    env = counter_class()
    env.reset(seed=0)
    with pytest.raises(TypeError, match="must be a str.* not int"):
        env.step(3)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"invalid_action": "ignore"}, "invalid_action='ignore' must be one of"),
        ({"invalid_action": "default"}, "give default_action exactly when"),
        ({"default_action": "up"}, "give default_action exactly when"),
        ({"invalid_action": "default", "default_action": "jump"}, "'jump' is not one of the actions"),
        ({"max_steps": 0}, "max_steps=0 must be at least 1"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(counter_class, kwargs, message):
    with pytest.raises(ValueError, match=message):
        counter_class(**kwargs)


def test_behaviors_are_made_by_name_within_an_episode(counter_class):
    env = counter_class()
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.make_behavior("random", np.random.default_rng(0))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"'expert' is not a behavior of Counter: use one of \['random'\]"):
        env.make_behavior("expert", np.random.default_rng(0))
    behavior = env.make_behavior("random", np.random.default_rng(0))
    assert {behavior.act() for _ in range(20)} == {UP, DOWN}


def test_render_returns_the_newest_image(counter_class):
    env = counter_class(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), observation["image"])
    assert counter_class().render() is None

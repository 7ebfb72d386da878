# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env


pytest.importorskip("minigrid")
from trl_vlmq.envs import check_text_action_env  # noqa: E402
from trl_vlmq.envs.babyai import ACTIONS  # noqa: E402
from trl_vlmq.envs.babyai_view import describe_view  # noqa: E402


IDS = sorted(name for name in gymnasium.registry if name.startswith("trl_vlmq/BabyAI-"))
# A local level, one with doors and keys, one that starts with an object in hand, and the largest.
LEVELS = ["GoToLocalS6N2", "UnlockPickup", "PutNextS5N2Carrying", "BossLevel"]


def say(action):
    return f'{{"action": "{action}"}}'


def raw(level, **kwargs):
    return gymnasium.make(f"BabyAI-{level}-v0", disable_env_checker=True, **kwargs).unwrapped


def texts(n, seed=0):
    """Mostly actions, some rubbish."""
    rng = np.random.default_rng(seed)
    return [say(rng.choice([*ACTIONS, "fly"], p=[0.15, 0.15, 0.4, 0.1, 0.05, 0.1, 0.05])) for _ in range(n)]


def test_every_level_of_minigrid_has_an_id():
    levels = [name for name in gymnasium.registry if name.startswith("BabyAI-")]
    assert len(IDS) == len(levels) == 96


@pytest.mark.parametrize("env_id", IDS)
def test_every_id_gives_an_environment_that_resets_and_steps(env_id):
    env = gymnasium.make(env_id)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert observation["text"].startswith("Mission: ")
    assert env.unwrapped.max_steps > 0
    observation, reward, *_ = env.step(say("turn left"))
    assert observation in env.observation_space and isinstance(reward, float)


@pytest.mark.parametrize("level", LEVELS)
def test_gymnasiums_and_our_checker_pass(level, recwarn):
    env = gymnasium.make(f"trl_vlmq/BabyAI-{level}-v0")
    check_env(env.unwrapped)
    check_text_action_env(env)
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("invalid_action", ["noop", "random"])
def test_the_same_seed_gives_the_same_episode_bit_for_bit(make_babyai, level, invalid_action):
    def trajectory():
        env = make_babyai(level, invalid_action=invalid_action)
        result = [env.reset(seed=7)]
        for text in texts(60):
            result.append(env.step(text))
            if result[-1][2] or result[-1][3]:
                result.append(env.reset())
        return result

    for one, other in zip(trajectory(), trajectory(), strict=True):
        assert one[0]["image"].tobytes() == other[0]["image"].tobytes()
        assert one[0]["text"] == other[0]["text"] and one[1:] == other[1:]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("tile_size", [4, 16])
def test_episodes_and_images_are_minigrids_own(make_babyai, level, tile_size):
    env, reference = make_babyai(level, tile_size=tile_size), raw(level)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        reference.reset(seed=seed)
        for text in texts(60, seed):
            np.testing.assert_array_equal(observation["image"], reference.get_pov_render(tile_size))
            assert f"Mission: {reference.mission}." in observation["text"]
            observation, reward, terminated, truncated, info = env.step(text)
            if info["action_is_valid"]:
                _, expected, *ended, _ = reference.step(ACTIONS[info["executed_action"]])
                assert (reward, terminated, truncated) == (float(expected > 0), *ended)
                assert info["success"] == (expected > 0)
            else:
                reference.step_count += 1
            assert env.level.hash() == reference.hash()
            if terminated or truncated:
                break


def test_returned_images_are_the_callers_to_keep(make_babyai):
    env = make_babyai("GoToLocal")
    first, _ = env.reset(seed=0)
    kept = first["image"].copy()
    for _ in range(4):
        env.step(say("turn left"))[0]["image"][:] = 0
    np.testing.assert_array_equal(first["image"], kept)
    np.testing.assert_array_equal(env.reset(seed=0)[0]["image"], kept)


def test_an_invalid_action_under_noop_leaves_the_level_as_it_is_and_costs_time(make_babyai):
    env, reference = make_babyai("GoToLocalS6N2", invalid_penalty=0.1), raw("GoToLocalS6N2")
    env.reset(seed=3)
    reference.reset(seed=3)
    before = reference.hash()
    for step in range(1, env.max_steps + 1):
        _, reward, terminated, truncated, info = env.step("turn left")
        assert env.level.hash() == before and env.level.step_count == step
        assert (reward, terminated, info["action_is_effective"]) == (-0.1, False, False)
    assert truncated and step == reference.max_steps == 36


def test_an_invalid_action_under_default_does_what_minigrid_does(make_babyai):
    env = make_babyai("GoToLocalS6N2", invalid_action="default", default_action="turn left")
    reference = raw("GoToLocalS6N2")
    env.reset(seed=3)
    reference.reset(seed=3)
    for _ in range(3):
        env.step("no")
        reference.step(ACTIONS["turn left"])
        assert env.level.hash() == reference.hash()


def test_an_invalid_action_under_random_does_what_it_reports(make_babyai):
    env, reference = make_babyai("GoToLocalS6N2", invalid_action="random"), raw("GoToLocalS6N2")
    env.reset(seed=3)
    reference.reset(seed=3)
    executed = set()
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step("no")
        reference.step(ACTIONS[info["executed_action"]])
        executed.add(info["executed_action"])
        assert env.level.hash() == reference.hash()
        ended = terminated or truncated
    assert len(executed) > 3


def test_an_invalid_action_under_terminate_ends_the_episode(make_babyai):
    env = make_babyai("GoToLocalS6N2", invalid_action="terminate")
    env.reset(seed=3)
    assert env.step("no")[2:4] == (True, False)


def test_action_is_effective_tells_whether_the_state_changed(make_babyai):
    env = make_babyai("UnlockPickup")
    seen = set()
    for seed in range(4):
        env.reset(seed=seed)
        for text in texts(150, seed):
            before = (env.level.hash(), env.level.carrying)
            _, _, terminated, truncated, info = env.step(text)
            assert info["action_is_effective"] == ((env.level.hash(), env.level.carrying) != before)
            seen.add((info["executed_action"], info["action_is_effective"]))
            if terminated or truncated:
                break
    assert {("pick up", True), ("pick up", False), ("go forward", False), ("toggle", False)} <= seen


def test_the_step_limit_can_be_set(make_babyai):
    env = make_babyai("GoToLocal", max_steps=3)
    env.reset(seed=0)
    assert [env.step("")[3] for _ in range(3)] == [False, False, True]


def test_the_reward_of_success_is_one_or_discounted_by_time(make_babyai):
    for discounted in (False, True):
        env, reference = make_babyai("GoToObj", time_discounted_reward=discounted), raw("GoToObj")
        env.reset(seed=0)
        reference.reset(seed=0)
        behavior = env.make_behavior("expert", np.random.default_rng(0))
        env.step("an invalid action takes time, too")
        reference.step_count += 1
        terminated = False
        while not terminated:
            _, reward, terminated, _, info = env.step(behavior.act())
            _, expected, *_ = reference.step(ACTIONS[info["executed_action"]])
        assert reward == (expected if discounted else 1.0) and 0 < expected < 1


def test_the_symbolic_text_describes_the_same_grid(make_babyai):
    env, plain, reference = make_babyai("GoToLocal", symbolic=True), make_babyai("GoToLocal"), raw("GoToLocal")
    env.reset(seed=0)
    reference.reset(seed=0)
    plain.reset(seed=0)
    for action in ("turn left", "go forward", "turn right", "go forward", "pick up"):
        observation = env.step(say(action))[0]
        reference.step(ACTIONS[action])
        assert f"\nView: {describe_view(reference)}.\n" in observation["text"]
        assert "View" not in plain.step(say(action))[0]["text"]
        # and independently of the describing code: each object that minigrid's encoding shows is named
        for kind, color, _ in reference.gen_obs()["image"].reshape(-1, 3):
            if kind in (5, 6, 7):
                words = {5: "key", 6: "ball", 7: "box"}[kind]
                assert f"{['red', 'green', 'blue', 'purple', 'yellow', 'grey'][color]} {words}" in observation["text"]


def test_the_prompt_text_is_short(make_babyai):
    observation, _ = make_babyai("GoToLocal").reset(seed=0)
    assert len(observation["text"]) < 160
    assert observation["text"].splitlines()[1:] == [
        "Actions: turn left, turn right, go forward, pick up, drop, toggle.",
        'Answer with {"action": "..."}',
    ]
    short, _ = make_babyai("GoToLocal", list_actions=False).reset(seed=0)
    assert short["text"] == observation["text"].splitlines()[0]


def test_generating_levels_prints_nothing(capfd):
    for level in ("PutNextS4N1", "SynthSeq", "MiniBossLevel"):  # levels that reject many samples
        env = gymnasium.make(f"trl_vlmq/BabyAI-{level}-v0")
        for seed in range(30):
            env.reset(seed=seed)
    assert capfd.readouterr() == ("", "")


def test_environments_in_other_processes_give_the_same_texts_and_images():
    make = [lambda: gymnasium.make("trl_vlmq/BabyAI-GoToLocal-v0", tile_size=8)] * 2
    options = {"shared_memory": False, "autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
    vector = gymnasium.vector.AsyncVectorEnv(make, **options)
    try:
        alone = [gymnasium.make("trl_vlmq/BabyAI-GoToLocal-v0", tile_size=8) for _ in range(2)]
        observation, _ = vector.reset(seed=[1, 2])
        expected = [env.reset(seed=seed)[0] for env, seed in zip(alone, [1, 2], strict=True)]
        for texts_ in [(say("turn left"), "é🂡\x00"), ("", say("go forward"))]:
            assert list(observation["text"]) == [one["text"] for one in expected]
            np.testing.assert_array_equal(observation["image"], np.stack([one["image"] for one in expected]))
            observation, _, _, _, info = vector.step(texts_)
            expected = [env.step(text)[0] for env, text in zip(alone, texts_, strict=True)]
            assert list(info["raw_action"]) == list(texts_)
            assert list(info["action_is_valid"]) == [text.startswith("{") for text in texts_]
    finally:
        vector.close()


def test_importing_the_package_without_minigrid_works():
    code = (
        "import sys; sys.modules['minigrid'] = None\n"
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n, *a: None if n == 'minigrid' else find(n, *a)\n"
        "import gymnasium, trl_vlmq.envs\n"
        "assert not [name for name in gymnasium.registry if name.startswith('trl_vlmq/BabyAI')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import itertools
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from trl_vlmq import BehaviorPolicy, play_episodes
from trl_vlmq.envs import PromptBuilder, ToolEnv, check_text_action_env


sys.path.insert(0, str(Path(__file__).parent))
from tool_classes import Island, Types, call, grammar_of, make_far_island, make_island  # noqa: E402


# The contract


@pytest.mark.parametrize("image", [None, lambda island: np.full((4, 6, 3), 40 * island.place[0], np.uint8)])
def test_the_checkers_have_nothing_to_say_about_an_environment_of_tools(image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_text_action_env(make_island(image=image))
    check_env(make_island(image=image))
    try:
        gymnasium.register("Island-v0", make_island)
        check_text_action_env(gymnasium.make("Island-v0", image=image))
    finally:
        gymnasium.registry.pop("Island-v0", None)


def test_episodes_without_images_can_be_played():
    assert PromptBuilder().build(make_island().reset(seed=0)[0])[1] == []
    episodes = list(play_episodes(make_island, BehaviorPolicy("random"), 6, seed=3, num_envs=3))
    assert len(episodes) == 6
    assert all(turn.images == [] and turn.action_is_valid for episode in episodes for turn in episode.turns)
    assert {turn.prompt[0]["content"][0]["type"] for episode in episodes for turn in episode.turns} == {"text"}


def test_the_image_is_what_the_environment_shows_now():
    env = make_far_island(image=lambda island: np.full((2, 3, 3), island.place[0], np.uint8), render_mode="rgb_array")
    env.reset(seed=0)
    observation = env.step(call("move", direction="south", steps=2))[0]
    assert observation["image"].shape == (2, 3, 3) and (observation["image"] == 2).all()
    np.testing.assert_array_equal(env.render(), observation["image"])


def test_a_seed_decides_what_reset_is_given():
    def treasures(seed):
        env = make_island()
        env.reset(seed=seed)
        return [(env.reset(), env.environment.treasure)[1] for _ in range(10)]

    assert treasures(0) == treasures(0) != treasures(1)


# What the agent reads and gets


def test_rewards_are_what_the_score_gained_and_add_up_to_it():
    env = make_far_island(invalid_penalty=0.5)
    env.reset(seed=0)
    steps = [  # counted by hand on the way from [0, 0] to [3, 3]
        (call("move", direction="south", steps=2), 2.0),
        (call("look", carefully=True), 0.0),
        (call("move", direction="north"), -1.0),
        ("I go south", -0.5),
        (call("move", direction="west"), 0.0),  # the sea
        (call("move", direction="south", steps=2), 2.0),
        (call("move", direction="east", steps=2), 2.0),
        (call("move", direction="east"), 1.0),
    ]
    outcomes = [env.step(text) for text, _ in steps]
    assert [outcome[1] for outcome in outcomes] == [reward for _, reward in steps]
    assert sum(reward for _, reward in steps) == 6.0 - 0.5
    assert [outcome[2] for outcome in outcomes] == [False] * 7 + [True] and not outcomes[-1][3]
    assert [outcome[4]["success"] for outcome in outcomes] == [False] * 7 + [True]


def test_the_agent_reads_the_task_and_then_what_its_newest_call_returned():
    env = make_far_island(list_tools=False)
    assert env.reset(seed=0)[0]["text"] == "Find the treasure."
    assert env.step(call("look", carefully=True))[0]["text"] == "Find the treasure.\nlook: 6 steps"
    assert env.step("rubbish")[0]["text"] == "Find the treasure.\nlook: 6 steps"
    text = "Find the treasure.\nmove: You are at [0, 1]."
    assert env.step(call("move", direction="east"))[0]["text"] == text
    assert env.reset(seed=0)[0]["text"] == "Find the treasure."


def test_the_tools_are_listed_with_the_form_of_an_answer():
    assert make_far_island().reset(seed=0)[0]["text"].splitlines() == [
        "Find the treasure.",
        "Tools:",
        "look(carefully: boolean): Look for the treasure.",
        "  carefully: Take your time.",
        'move(direction: "north" | "south" | "east" | "west", steps?: 1 | 2): Walk over the island.',
        "  direction: Where to go.",
        "  steps: How far.",
        'Answer with {"name": "...", "arguments": {...}}',
    ]


def test_a_tool_that_raises_shows_its_error_and_the_episode_goes_on():
    env = make_far_island(list_tools=False, invalid_penalty=1.0)
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(call("move", direction="west"))
    assert observation["text"].endswith("move: {'error': 'There is the sea.'}")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["action_is_valid"], info["action_is_effective"]) == (True, False)
    assert env.step(call("move", direction="south"))[4]["action_is_effective"]


def test_a_call_that_does_not_fit_is_invalid_and_reaches_no_tool():
    env = make_far_island()
    env.reset(seed=0)
    info = env.step(call("move", direction="up"))[4]
    assert not info["action_is_valid"] and info["executed_action"] is None and env.environment.place == [0, 0]


def test_success_is_what_the_user_says_it_is():
    env = make_far_island(success=lambda island: island.place[0] == 2)
    env.reset(seed=0)
    assert env.step(call("move", direction="south", steps=2))[4]["success"]
    assert not env.step(call("move", direction="south"))[4]["success"]


def test_an_ending_without_a_score_is_no_success():
    env = ToolEnv(Island, lambda island: 0.0, lambda island: True, max_steps=3)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(call("look", carefully=True))
    assert (reward, terminated, info["success"]) == (0.0, True, False)


class Echo:
    def reset(self) -> None:
        pass

    def say(self, text: str):
        """
        Say something.

        Args:
            text: What.
        """
        return {"blocks": [{"type": "image", "image": None}, {"type": "text", "text": "seen"}], "list": []}.get(
            text, text
        )


@pytest.mark.parametrize(
    "said, shown",
    [
        ("hello", "say: hello"),
        ("<image> <|image_pad|> 1 < 2 > 0", "say: (image) (|image_pad|) 1 < 2 > 0"),
        ("blocks", "say: seen"),
        ("list", "say: []"),
    ],
)
def test_results_are_shown_as_text_without_smuggling_in_a_placeholder(said, shown):
    env = ToolEnv(Echo, lambda echo: 0.0, lambda echo: False, max_steps=3, list_tools=False)
    assert env.reset(seed=0)[0]["text"] == ""
    assert env.step(call("say", text=said))[0]["text"] == shown


@pytest.mark.parametrize("score", [None, float("nan"), "1"])
def test_a_reward_that_is_no_finite_number_is_refused(score):
    env = ToolEnv(Echo, lambda echo: score, lambda echo: False, max_steps=3)
    with pytest.raises(ValueError, match=r"reward\(environment\) returned .*: return a finite float"):
        env.reset(seed=0)


# Legal actions


def test_all_calls_of_tools_with_fixed_choices_are_listed():
    moves = [
        call("move", direction=direction, steps=steps)
        for direction, steps in itertools.product(["north", "south", "east", "west"], [1, 2])
    ]
    looks = [call("look", carefully=carefully) for carefully in (False, True)]
    assert sorted(make_island().legal_actions()) == sorted(looks + moves)
    assert grammar_of(Types, "take").calls() == [call("take", one=1), call("take", one=2)]


def test_tools_with_free_arguments_have_legal_actions_only_if_the_user_lists_them():
    settings = {"reward": lambda echo: 0.0, "done": lambda echo: False, "max_steps": 3}
    env = ToolEnv(Echo, **settings)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="'say' cannot be listed: 'text' is any string.*give ToolEnv legal_actions="):
        env.legal_actions()
    with pytest.raises(ValueError, match="'say' cannot be listed"):
        ToolEnv(Echo, **settings, invalid_action="random")

    def legal_actions(echo):
        return [{"name": "say", "arguments": {"text": text}} for text in ("é", "b")]

    env = ToolEnv(Echo, **settings, invalid_action="random", legal_actions=legal_actions)
    env.reset(seed=0)
    assert env.legal_actions() == ['{"name": "say", "arguments": {"text": "é"}}', call("say", text="b")]
    assert env.step("rubbish")[4]["executed_action"] in env.legal_actions()
    check_text_action_env(env)


def test_a_listed_action_that_no_tool_takes_is_refused():
    env = make_island(legal_actions=lambda island: [{"name": "move", "arguments": {"direction": "up"}}])
    with pytest.raises(ValueError, match="direction='up' of 'move' must be: \"north\" | \"south\""):
        env.legal_actions()


# What is refused at once


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_steps": 0}, "max_steps=0 must be at least 1"),
        ({"max_steps": -1}, "max_steps=-1 must be at least 1"),
        ({"max_steps": None}, "max_steps=None must be a number"),
        ({"render_mode": "rgb_array"}, "needs image="),
        ({"image": lambda island: np.zeros((4, 4))}, r"float64 of shape \(4, 4\): return uint8 \[height, width, 3\]"),
        ({"invalid_action": "ignore"}, "invalid_action='ignore' must be one of"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_island(**settings)


def test_the_tools_are_those_that_trl_would_expose():
    class Child(Island):
        @staticmethod
        def wave() -> str:
            """Wave."""
            return "hello"

    env = ToolEnv(Child, lambda _: 0.0, lambda _: False, max_steps=3, list_tools=False)
    assert set(env.grammar.tools) == {"look", "move", "wave"}
    env.reset(seed=0)
    assert env.step(call("wave"))[0]["text"].endswith("wave: hello")

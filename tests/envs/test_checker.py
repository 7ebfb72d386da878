# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import random
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from trl_vlmq.envs import EnvironmentCheckError, FreeText, JsonActionGrammar, check_text_action_env, image_space


class Plain(gymnasium.Env):
    """Keeps the contract without the base class; each test breaks one thing in it."""

    behaviors = ("up",)

    def __init__(self):
        self.observation_space = spaces.Dict({"image": image_space(4, 6), "text": FreeText()})
        self.action_space = FreeText()
        self.grammar = JsonActionGrammar(["up", "down"])
        self.max_steps = 10

    def legal_actions(self):
        return ["up", "down"]

    def make_behavior(self, name, rng):
        class Up:
            def act(self):
                return '{"action": "up"}'

        return Up()

    def observe(self):
        return {"image": np.full((4, 6, 3), self.number, np.uint8), "text": f"{self.number}"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.t = int(self.np_random.integers(100)), 0
        return self.observe(), {}

    def step(self, text):
        action = self.parse(text)
        self.t += 1
        self.number += {"up": 1, "down": -1, None: 0}[action]
        info = {
            "action_is_valid": action is not None,
            "action_is_effective": action is not None,
            "executed_action": action,
            "raw_action": text,
            "success": False,
        }
        return self.observe(), 0.0, False, self.t >= self.max_steps, info

    def parse(self, text):
        return self.grammar.parse(text)


def test_a_correct_environment_passes_silently(counter_class):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_text_action_env(Plain())
        check_text_action_env(counter_class())


def test_the_base_class_passes_under_every_invalid_action_policy(counter_class):
    for policy in ("noop", "random", "terminate"):
        check_text_action_env(counter_class(invalid_action=policy))
    check_text_action_env(counter_class(invalid_action="default", default_action="down"))


def test_an_environment_without_legal_actions_passes():
    class Anything(Plain):
        legal_actions = property()  # hides the inherited one: hasattr is False

    check_text_action_env(Anything())


def changes_step(change):
    """An environment whose step returns what `change` makes of the right thing."""

    class Broken(Plain):
        def step(self, text):
            return change(self, *super().step(text))

    return Broken


def changes_observation(change):
    class Broken(Plain):
        def observe(self):
            return change(self, super().observe())

    return Broken


def info_without(key):
    def change(self, observation, reward, terminated, truncated, info):
        del info[key]
        return observation, reward, terminated, truncated, info

    return changes_step(change)


def info_with(**values):
    return changes_step(lambda self, o, r, te, tr, info: (o, r, te, tr, {**info, **values}))


def reward(value):
    return changes_step(lambda self, o, r, te, tr, info: (o, value, te, tr, info))


class NarrowActions(Plain):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Text(64)


class WrongObservationSpace(Plain):
    def __init__(self):
        super().__init__()
        self.observation_space = image_space(4, 6)


class WrongImageSize(Plain):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict({"image": image_space(6, 4), "text": FreeText()})


class CrashesOnGarbage(Plain):
    def parse(self, text):
        return {"up": "up", "down": "down"}[text.split('"')[3]]


class CrashesOnTheEmptyString(Plain):
    def parse(self, text):
        assert text[0] is not None
        return super().parse(text)


class FlagsGarbageValid(Plain):
    def parse(self, text):
        return super().parse(text) or "up"


class RefusesALegalAction(Plain):
    def legal_actions(self):
        return ["up", "left"]

    def __init__(self):
        super().__init__()
        self.grammar = JsonActionGrammar(["up", "down", "left"])

    def parse(self, text):
        return JsonActionGrammar(["up", "down"]).parse(text)


class NoLegalActions(Plain):
    def legal_actions(self):
        return []


class UnseededReset(Plain):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = int(np.random.default_rng().integers(2**62)) % 251
        return self.observe(), {}


class UnseededStep(Plain):
    def step(self, text):
        result = super().step(text)
        self.number = int(np.random.default_rng().integers(2**62)) % 251
        return self.observe(), *result[1:]


class GlobalRandom(Plain):
    def step(self, text):
        random.random()
        return super().step(text)


class SeedsNumpy(Plain):
    def reset(self, *, seed=None, options=None):
        np.random.seed(seed)
        return super().reset(seed=seed)


class ReusesItsImage(Plain):
    buffer = np.zeros((4, 6, 3), np.uint8)

    def observe(self):
        self.buffer[:] = self.number
        return {"image": self.buffer, "text": ""}


class ReusesItsDict(Plain):
    kept = {}

    def observe(self):
        self.kept.update(super().observe())
        return self.kept


class InvalidActionsTakeNoTime(Plain):
    def step(self, text):
        result = super().step(text)
        if result[4]["action_is_valid"]:
            return result
        self.t -= 1
        return result[0], 0.0, False, False, result[4]


class BehaviorReturnsANumber(Plain):
    def make_behavior(self, name, rng):
        class Number:
            def act(self):
                return 1

        return Number()


class BehaviorIsNotMade(Plain):
    def make_behavior(self, name, rng):
        raise KeyError(name)


class OldStep(Plain):
    def step(self, text):
        observation, reward, terminated, truncated, info = super().step(text)
        return observation, reward, terminated or truncated, info


class OldReset(Plain):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


def wrong_text(self, observation):
    return {**observation, "text": 3}


def float_image(self, observation):
    return {**observation, "image": observation["image"] / 255}


def list_image(self, observation):
    return {**observation, "image": observation["image"].tolist()}


def grey_image(self, observation):
    return {**observation, "image": observation["image"][..., 0]}


def growing_image(self, observation):
    return {**observation, "image": np.zeros((4 + self.t, 6, 3), np.uint8)}


def no_image(self, observation):
    return {"text": observation["text"]}


@pytest.mark.parametrize(
    "broken, sentence",
    [
        *[
            (info_without(key), f"info without '{key}': add it")
            for key in ("action_is_valid", "action_is_effective", "executed_action", "raw_action", "success")
        ],
        (info_with(success=np.bool_(True)), "info['success'] is of type numpy.bool: make it a bool"),
        (info_with(action_is_valid=1), "info['action_is_valid'] is of type int: make it a bool"),
        (info_with(executed_action=3), "info['executed_action'] is of type int: make it a str, or None"),
        (info_with(raw_action="other"), "info['raw_action'] is not the text that was given"),
        (reward(float("nan")), "the reward nan: return a finite float"),
        (reward(float("inf")), "the reward inf: return a finite float"),
        (reward(None), "the reward None: return a finite float"),
        (changes_step(lambda self, o, r, te, tr, i: (o, r, 0, tr, i)), "terminated of type int: return a bool"),
        (
            changes_step(lambda self, o, r, te, tr, i: (o, r, te, np.bool_(tr), i)),
            "truncated of type numpy.bool: return a bool",
        ),
        (changes_observation(wrong_text), "observation['text'] of type int: return a str"),
        (changes_observation(float_image), "an image of type numpy.ndarray of float64: return a numpy array of uint8"),
        (changes_observation(list_image), "an image of type list: return a numpy array of uint8"),
        (changes_observation(grey_image), "an image of shape (4, 6): return [height, width, 3]"),
        (changes_observation(growing_image), "The image shapes change from [(4, 6, 3)] to [(5, 6, 3)]"),
        (changes_observation(no_image), "an observation dict with the keys 'image' and 'text'"),
        (OldStep, "step() must return (observation, reward, terminated, truncated, info)"),
        (OldReset, "reset() must return (observation, info)"),
        (NarrowActions, "does not contain every str: use FreeText()"),
        (WrongObservationSpace, "use Dict(image=image_space(height, width), text=FreeText())"),
        (WrongImageSize, "an observation outside observation_space"),
        (CrashesOnGarbage, "no text may make an environment fail"),
        (CrashesOnTheEmptyString, "step('') raises IndexError"),
        (FlagsGarbageValid, "info['action_is_valid'] is True for '', which is no action"),
        (RefusesALegalAction, "info['action_is_valid'] is False for '{\"action\": \"left\"}'"),
        (NoLegalActions, "legal_actions() returned []: return a non-empty list"),
        (UnseededReset, "'observation' of reset differs between two runs with seed=0"),
        (UnseededStep, "'observation' of step 1 differs between two runs with seed=0"),
        (GlobalRandom, "step() draws from or seeds a global random generator"),
        (SeedsNumpy, "reset() draws from or seeds a global random generator"),
        (ReusesItsImage, "An observation changes after it was returned"),
        (ReusesItsDict, "An observation changes after it was returned"),
        (InvalidActionsTakeNoTime, "The episode goes on after 10 invalid actions"),
        (BehaviorReturnsANumber, "Behavior 'up' returns int from act(): return the text"),
        (BehaviorIsNotMade, "Behavior 'up' is listed in `behaviors` but fails: KeyError"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_each_mistake_is_found_and_named_once(broken, sentence):
    with pytest.raises(EnvironmentCheckError) as caught:
        check_text_action_env(broken())
    assert [sentence in mistake for mistake in caught.value.mistakes].count(True) == 1, caught.value
    assert len(caught.value.mistakes) <= 3, caught.value  # no avalanche after one mistake
    assert all("\n" not in mistake for mistake in caught.value.mistakes)


def test_several_mistakes_are_reported_together():
    class Broken(GlobalRandom):
        def make_behavior(self, name, rng):
            raise KeyError(name)

    with pytest.raises(EnvironmentCheckError, match=r"Broken has 2 mistake\(s\)") as caught:
        check_text_action_env(Broken())
    assert len(caught.value.mistakes) == 2


def test_a_missing_step_limit_is_a_warning():
    class Endless(Plain):
        def __init__(self):
            super().__init__()
            del self.max_steps

        def step(self, text):
            self.max_steps = 10**9
            result = super().step(text)
            del self.max_steps
            return result

    env = Endless()
    with pytest.warns(UserWarning, match="there is no step limit: set max_steps"):
        check_text_action_env(env)


def test_missing_behaviors_are_a_warning():
    class NoBehaviors(Plain):
        behaviors = ()

    with pytest.warns(UserWarning, match="no scripted behaviors"):
        check_text_action_env(NoBehaviors())


def test_wrapped_environments_can_be_checked(counter_class):
    check_text_action_env(gymnasium.wrappers.OrderEnforcing(counter_class()))
    check_text_action_env(gymnasium.wrappers.TimeLimit(counter_class(max_steps=None), 10))

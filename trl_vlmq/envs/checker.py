# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Tells the author of an environment what is wrong with it, one sentence for each mistake."""

import copy
import math
import random
import traceback
import warnings
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trl_vlmq.envs.text_action import BehaviorUnavailableError


INFO_KEYS = {"action_is_valid": bool, "action_is_effective": bool, "raw_action": str, "success": bool}

# What models write before they have learned the grammar. None of it is an action in any environment.
GARBAGE = ("", " ", "\n\n", "sure! I will now", '{"action": ', '{"action": null}', "[" * 5000, "\x00\u202e\ud800 é 🂡")

# Up to this limit it is worth walking through a whole episode of invalid actions.
LONGEST_IDLE_EPISODE = 2000


class EnvironmentCheckError(ValueError):
    """
    The environment breaks the contract.

    Attributes:
        mistakes (`list[str]`):
            One sentence for each mistake, with its cure.
    """

    def __init__(self, env: gymnasium.Env, mistakes: list[str]):
        self.mistakes = mistakes
        listed = "\n".join(f"- {mistake}" for mistake in mistakes)
        super().__init__(f"{_name(env)} has {len(mistakes)} mistake(s):\n{listed}")


def check_text_action_env(env: gymnasium.Env, *, episodes: int = 3, steps: int = 50, seed: int = 0) -> None:
    """
    Checks an environment against the contract of this package by acting in it, and says what to change.

    It need not be a [`~trl_vlmq.envs.text_action.TextActionEnv`]. If it has `legal_actions()`, these are tried, as
    `grammar.format` writes them where there is a `grammar`, else as they are; if it has `behaviors`, so are they.

    Args:
        env (`gymnasium.Env`):
            The environment. It is reset and stepped, and left in the middle of an episode.
        episodes (`int`, *optional*, defaults to `3`):
            Episodes to act in, with the seeds `seed`, `seed + 1`, ...
        steps (`int`, *optional*, defaults to `50`):
            Most steps in each.
        seed (`int`, *optional*, defaults to `0`):
            First seed.

    Raises:
        EnvironmentCheckError: there are mistakes; it lists all that were found. What may be intended is a warning.
    """
    _Check(env, steps).run(range(seed, seed + episodes))


class _Stop(Exception):
    """A mistake after which there is nothing to go on with."""


class _Check:
    def __init__(self, env: gymnasium.Env, steps: int):
        self.env = env
        self.base = env.unwrapped
        self.steps = steps
        self.mistakes: dict[str, str] = {}
        self.image_shapes: list[tuple[int, ...]] | None = None
        self.an_episode_ended = False

    def run(self, seeds: range) -> None:
        checks = [self.check_spaces]
        checks += [partial(self.check_episode, seed) for seed in seeds]
        checks += [
            partial(check, seeds[0])
            for check in (self.check_reproducible, self.check_actions, self.check_time_limit, self.check_behaviors)
        ]
        for check in checks:
            try:
                check()
            except _Stop:
                pass
        if self.mistakes:
            raise EnvironmentCheckError(self.env, list(self.mistakes.values()))

    # What is checked

    def check_spaces(self) -> None:
        action_space, observation_space = self.env.action_space, self.env.observation_space
        if not all(text in action_space for text in GARBAGE):
            self.mistake(
                f"action_space is {action_space}, which does not contain every str: use FreeText(), since a model can "
                "write anything."
            )
        self.space_is_dict = isinstance(observation_space, spaces.Dict)
        if not self.space_is_dict or set(observation_space.keys()) != {"image", "text"}:
            self.mistake(
                f"observation_space is {observation_space}: use Dict(image=image_space(height, width), text=FreeText())."
            )

    def check_episode(self, seed: int) -> None:
        """One episode of legal and garbage actions in turn, with everything that it returns."""
        rng = np.random.default_rng(seed)
        observation = self.reset(seed)
        for t in range(self.steps):
            text = self.draw_text(rng, t)
            before, kept = copy.deepcopy(observation), observation
            observation, ended = self.step(text)
            self.check_not_reused(before, kept, observation)
            if ended:
                self.an_episode_ended = True
                return

    def check_reproducible(self, seed: int) -> None:
        first, second = self.record(seed), self.record(seed)
        for t, (one, other) in enumerate(zip(first, second, strict=False)):
            for name in one:
                if not _equal(one[name], other[name]):
                    where = "reset" if t == 0 else f"step {t}"
                    self.mistake(
                        f"{name!r} of {where} differs between two runs with seed={seed} and the same actions: draw from "
                        "self.np_random only, and call super().reset(seed=seed) first in reset."
                    )
                    return
        if len(first) != len(second):
            self.mistake(
                f"Two runs with seed={seed} and the same actions differ in length: draw from self.np_random only."
            )

    def check_actions(self, seed: int) -> None:
        """Garbage must be flagged as invalid and legal actions as valid."""
        accepted = [text for text in GARBAGE if self.validity_after_reset(seed, text)]
        if accepted and self.legal_texts():
            self.mistake(
                f"info['action_is_valid'] is True for {accepted[0][:40]!r}, which is no action: set it to False whenever "
                "the text does not parse, whatever is then done about it."
            )
        elif len(accepted) == len(GARBAGE):
            self.warn("info['action_is_valid'] is True for every garbage text: is there really no invalid action?")
        self.reset(seed)
        for text in self.legal_texts():
            if self.validity_after_reset(seed, text) is False:
                self.mistake(
                    f"info['action_is_valid'] is False for {text!r}, which legal_actions() lists: make the parser accept "
                    "it or take it off the list."
                )

    def check_time_limit(self, seed: int) -> None:
        self.reset(seed)
        spec_limit = self.env.spec.max_episode_steps if self.env.spec is not None else None
        limits = [limit for limit in (getattr(self.base, "max_steps", None), spec_limit) if limit]
        if not limits:
            if not self.an_episode_ended:
                self.warn(
                    f"No episode ended within {self.steps} steps and there is no step limit: set max_steps (or "
                    "max_episode_steps in gymnasium.register), or an agent that writes garbage never stops."
                )
            return
        limit = min(limits)
        if limit <= LONGEST_IDLE_EPISODE and not any(self.step(GARBAGE[3])[1] for _ in range(limit)):
            self.mistake(
                f"The episode goes on after {limit} invalid actions although the step limit is {limit}: count a time step "
                "for an invalid action, too."
            )

    def check_behaviors(self, seed: int) -> None:
        names = getattr(self.base, "behaviors", None)
        if not names or not hasattr(self.base, "make_behavior"):
            self.warn(
                "There are no scripted behaviors: without `behaviors` and `make_behavior(name, rng)` no dataset can be "
                "collected here except with a model."
            )
            return
        for name in names:
            self.reset(seed)
            try:
                behavior = self.base.make_behavior(name, np.random.default_rng(seed))
                for _ in range(self.steps):
                    text = behavior.act()
                    if not isinstance(text, str):
                        self.mistake(f"Behavior {name!r} returns {_kind(text)} from act(): return the text to send.")
                        break
                    if self.step(text)[1]:
                        break
            except BehaviorUnavailableError:
                continue
            except (_Stop, KeyboardInterrupt):
                raise
            except Exception as error:
                self.mistake(f"Behavior {name!r} is listed in `behaviors` but fails: {_describe(error)}.")

    # How: each call of the environment goes through here

    def reset(self, seed: int) -> Any:
        result = self._call(lambda: self.env.reset(seed=seed), f"reset(seed={seed})")
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            self.mistake("reset() must return (observation, info) with info a dict.")
            raise _Stop
        self.check_observation(result[0], "reset")
        self._reset_info = result[1]
        return result[0]

    def step(self, text: str) -> tuple[Any, bool]:
        shown = repr(text if len(text) <= 40 else text[:40] + "...")
        result = self._call(lambda: self.env.step(text), f"step({shown})")
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
            self.mistake("step() must return (observation, reward, terminated, truncated, info) with info a dict.")
            raise _Stop
        observation, reward, terminated, truncated, info = result
        self.check_observation(observation, "step")
        is_number = isinstance(reward, (int, float, np.integer, np.floating)) and not isinstance(reward, bool)
        if not is_number or not math.isfinite(reward):
            self.mistake(f"step() returned the reward {reward!r}: return a finite float.", once="reward")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool):
                self.mistake(f"step() returned {name} of type {_kind(flag)}: return a bool, as bool({name}) does.")
        self.check_info(info, text)
        self._transition = {
            "observation": observation,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "info": info,
        }
        return observation, bool(terminated or truncated)

    def check_observation(self, observation: Any, where: str) -> None:
        if not isinstance(observation, dict) or not {"image", "text"} <= set(observation):
            self.mistake(f"{where}() must return an observation dict with the keys 'image' and 'text'.")
            raise _Stop
        if not isinstance(observation["text"], str):
            kind = _kind(observation["text"])
            self.mistake(f"{where}() returned observation['text'] of type {kind}: return a str.", once="text")
        image = observation["image"]
        images = image if isinstance(image, tuple) else (image,)
        for one in images:
            if not isinstance(one, np.ndarray) or one.dtype != np.uint8:
                kind = f"numpy.ndarray of {one.dtype}" if isinstance(one, np.ndarray) else _kind(one)
                self.mistake(
                    f"{where}() returned an image of type {kind}: return a numpy array of uint8 in 0..255.",
                    once="image",
                )
                return
            if one.ndim != 3 or one.shape[2] != 3:
                self.mistake(
                    f"{where}() returned an image of shape {one.shape}: return [height, width, 3].", once="image"
                )
                return
        shapes = [one.shape for one in images]
        if self.image_shapes is None:
            self.image_shapes = shapes
        elif shapes != self.image_shapes:
            self.mistake(
                f"The image shapes change from {self.image_shapes} to {shapes}: always return the same ones.",
                once="shapes",
            )
        elif self.space_is_dict and observation not in self.env.observation_space:
            self.mistake(
                f"{where}() returned an observation outside observation_space: make the space's shapes and types those of "
                "what is returned.",
                once="space",
            )

    def check_info(self, info: dict[str, Any], text: str) -> None:
        for key, kind in INFO_KEYS.items():
            if key not in info:
                self.mistake(f"step() returned an info without {key!r}: add it (a {kind.__name__}).")
            elif not isinstance(info[key], kind):
                self.mistake(f"info[{key!r}] is of type {_kind(info[key])}: make it a {kind.__name__}.")
        if "executed_action" not in info:
            self.mistake(
                "step() returned an info without 'executed_action': add it (a str, or None if none was executed)."
            )
        elif not isinstance(info["executed_action"], str | None):
            kind = _kind(info["executed_action"])
            self.mistake(f"info['executed_action'] is of type {kind}: make it a str, or None if none was executed.")
        if isinstance(info.get("raw_action"), str) and info["raw_action"] != text:
            self.mistake("info['raw_action'] is not the text that was given to step(): return it unchanged.")

    def check_not_reused(self, before: Any, kept: Any, now: Any) -> None:
        shared = kept is now or any(np.shares_memory(a, b) for a in _arrays(kept) for b in _arrays(now))
        if shared or not _equal(before, kept):
            self.mistake(
                "An observation changes after it was returned, or shares memory with the next one: return a new dict and "
                "new arrays each time, as array.copy() does."
            )

    def legal_texts(self) -> list[str]:
        if not hasattr(self.base, "legal_actions"):
            return []
        actions = self.base.legal_actions()
        if not actions or not all(isinstance(action, str) for action in actions):
            self.mistake(
                f"legal_actions() returned {actions!r}: return a non-empty list of str while an episode runs."
            )
            raise _Stop
        grammar = getattr(self.base, "grammar", None)
        return [grammar.format(action) for action in actions] if grammar is not None else list(actions)

    def draw_text(self, rng: np.random.Generator, t: int) -> str:
        """Two legal actions, then garbage."""
        texts = (self.legal_texts() if t % 3 else None) or GARBAGE
        return texts[int(rng.integers(len(texts)))]

    def validity_after_reset(self, seed: int, text: str) -> bool | None:
        self.reset(seed)
        self.step(text)
        return self._transition["info"].get("action_is_valid")

    def record(self, seed: int) -> list[dict[str, Any]]:
        """An episode whose actions depend on the seed alone."""
        rng = np.random.default_rng(seed)
        trace = [{"observation": copy.deepcopy(self.reset(seed)), "info": self._reset_info}]
        for t in range(self.steps):
            _, ended = self.step(self.draw_text(rng, t))
            trace.append(copy.deepcopy(self._transition))
            if ended:
                break
        return trace

    def mistake(self, sentence: str, once: str | None = None) -> None:
        """Notes a mistake, once for each sentence or, where sentences have changing values in them, for each `once`."""
        self.mistakes.setdefault(once or sentence, sentence)

    def warn(self, sentence: str) -> None:
        warnings.warn(f"{_name(self.env)}: {sentence}", stacklevel=4)

    def _call(self, function, call: str) -> Any:
        """Calls the environment: it may neither raise nor touch the generators of the whole process."""
        state, numpy_state = random.getstate(), np.random.get_state()
        try:
            result = function()
        except Exception as error:
            self.mistake(f"{call} raises {_describe(error)}: no text may make an environment fail.", once="raises")
            raise _Stop from error
        if random.getstate() != state or not _equal(np.random.get_state(), numpy_state):
            self.mistake(
                f"{call.split('(')[0]}() draws from or seeds a global random generator (`random` or `numpy.random`): draw "
                "from self.np_random."
            )
        return result


def _arrays(observation: Any) -> list[np.ndarray]:
    image = observation["image"]
    return [one for one in (image if isinstance(image, tuple) else (image,)) if isinstance(one, np.ndarray)]


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other) or (one != one and other != other)  # a NaN is equal to itself here


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _describe(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} ({error}) in {frame.name}, line {frame.lineno}"


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
The environment contract: images and text in, text out.

    obs, info = env.reset(seed=0)                 # obs = {"image": uint8 [H, W, 3] (or a tuple of them), "text": str}
    obs, reward, terminated, truncated, info = env.step('{"action": "turn left"}')
    info: action_is_valid, action_is_effective, executed_action, raw_action, success

[`TextActionEnv`] keeps that contract for its subclasses, which only say what happens in their world.
"""

import string
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from trl_vlmq.envs.grammar import ActionGrammar


INVALID_ACTION_POLICIES = ("noop", "random", "default", "terminate")

Image = np.ndarray | tuple[np.ndarray, ...]


class FreeText(spaces.Text):
    """
    The space of all strings.

    Gymnasium's `Text` has a length limit and a character set, and what a model writes violates both sooner or later.
    Samples are printable ASCII, of 0 to `max_length` characters.

    Args:
        max_length (`int`, *optional*, defaults to `64`):
            Length limit of the samples. It does not limit what the space contains.
        seed (`int`, *optional*):
            Seed of the samples.
    """

    def __init__(self, max_length: int = 64, seed: int | None = None):
        super().__init__(max_length, min_length=0, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeText) and self.max_length == other.max_length

    def __repr__(self) -> str:
        return f"FreeText({self.max_length})"


def image_space(height: int, width: int) -> spaces.Box:
    """The space of uint8 RGB images of one size. See [`TextActionEnv`]."""
    return spaces.Box(0, 255, (height, width, 3), np.uint8)


class Outcome(NamedTuple):
    """
    What an action did to the world. A hook may return the plain tuple.

    Args:
        reward (`float`, *optional*, defaults to `0.0`):
            Reward of this time step.
        terminated (`bool`, *optional*, defaults to `False`):
            Whether the task ended.
        truncated (`bool`, *optional*, defaults to `False`):
            Whether something outside the task ended the episode (the base class adds the limit `max_steps`).
        effective (`bool`, *optional*, defaults to `True`):
            Whether the state of the world changed.
        success (`bool`, *optional*, defaults to `False`):
            Whether the task is accomplished as of now.
    """

    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    effective: bool = True
    success: bool = False


class RolloutSettings(NamedTuple):
    """
    How an environment is best played in, where nobody says otherwise.

    Args:
        num_envs (`int`, *optional*):
            Environments at once, where many are too many (a browser each); `None` leaves it to who plays.
        step_timeout (`float`, *optional*):
            Seconds a step may take; with it environments work side by side, each in a thread. `None` sets no limit.
        max_lost_share (`float`, *optional*, defaults to `0.0`):
            Share of the episodes that may be lost to environments that raise or hang.
    """

    num_envs: int | None = None
    step_timeout: float | None = None
    max_lost_share: float = 0.0


class Behavior(Protocol):
    """A scripted agent. It is made after a reset and lives for one episode."""

    def act(self) -> str:
        """The completion text to send to `step` now."""


class BehaviorUnavailableError(ValueError):
    """This episode does not allow the behaviour (a `wrong_goal` where every object is a right one): draw another."""


class RandomBehavior:
    """Uniform over the legal actions. Works in every [`TextActionEnv`]."""

    def __init__(self, env: "TextActionEnv", rng: np.random.Generator):
        self.env, self.rng = env, rng

    def act(self) -> str:
        return self.env.write(self.env.draw_legal_action(self.rng))


class TextActionEnv(gymnasium.Env, ABC):
    """
    Base class of environments that show images and text and are acted on by text.

    A subclass implements `_reset`, `_observe`, `_execute` and `legal_actions`. This class parses, decides what an
    invalid action does, counts time steps, fills in `info` and refuses calls out of order.

    Args:
        grammar ([`~trl_vlmq.envs.grammar.ActionGrammar`]):
            Turns text into actions and back.
        image_space (`gymnasium.spaces.Box` or `gymnasium.spaces.Tuple`):
            Space of the image, see [`image_space`], or a `Tuple` of them when there are several.
        max_steps (`int`, *optional*):
            Time steps after which the episode is truncated; `_reset` may assign `self.max_steps` anew for each episode.
            `None` if the task always ends by itself.
        invalid_action (`str`, *optional*, defaults to `"noop"`):
            What text that does not parse does: `"noop"` (time passes, nothing else), `"random"` (a legal action is drawn),
            `"default"` (`default_action` is executed) or `"terminate"` (the episode ends without success).
        invalid_penalty (`float`, *optional*, defaults to `0.0`):
            Subtracted from the reward of a step whose action is invalid.
        default_action (`str`, *optional*):
            The action of `invalid_action="default"`.
        render_mode (`str`, *optional*):
            `"rgb_array"` lets `render` return the newest image.

    Attributes:
        rollout_settings ([`RolloutSettings`]):
            Of the class: how it is best played in.
    """

    rollout_settings = RolloutSettings()
    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    behaviors: tuple[str, ...] = ("random",)
    env_id: str | None = None  # of the running episode, where one environment plays several tasks

    def __init__(
        self,
        grammar: ActionGrammar,
        image_space: spaces.Box | spaces.Tuple,
        *,
        max_steps: int | None = None,
        invalid_action: str = "noop",
        invalid_penalty: float = 0.0,
        default_action: str | None = None,
        render_mode: str | None = None,
    ):
        if invalid_action not in INVALID_ACTION_POLICIES:
            raise ValueError(f"invalid_action={invalid_action!r} must be one of {list(INVALID_ACTION_POLICIES)}.")
        if (invalid_action == "default") != (default_action is not None):
            raise ValueError(
                f"invalid_action={invalid_action!r} with default_action={default_action!r}: give default_action exactly "
                "when invalid_action is 'default'."
            )
        if default_action is not None and grammar.parse(grammar.format(default_action)) != default_action:
            raise ValueError(f"default_action={default_action!r} is not an action of the grammar.")
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps={max_steps} must be at least 1, or None for no limit.")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} must be None or 'rgb_array'.")
        self.grammar = grammar
        self.max_steps = max_steps
        self.invalid_action = invalid_action
        self.invalid_penalty = invalid_penalty
        self.default_action = default_action
        self.render_mode = render_mode
        self.observation_space = spaces.Dict({"image": image_space, "text": FreeText(256)})
        self.action_space = FreeText()
        self.elapsed_steps = 0
        self.executed_action: str | None = None  # of the newest step, so that a behaviour learns what really happened
        self._in_episode = False

    # What a subclass says about its world

    @abstractmethod
    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any] | None:
        """
        Starts an episode, drawing from `self.np_random` only. Returns what goes into `info`.

        `self.np_random` is seeded already: `seed` is there for a simulator that must be given one.
        """

    @abstractmethod
    def _observe(self) -> tuple[Image, str]:
        """The image (a new array each time, or a tuple of them) and the text that the agent sees now."""

    @abstractmethod
    def _execute(self, action: str) -> Outcome | tuple[float, bool, bool, bool, bool]:
        """Executes a parsed action for one time step."""

    @abstractmethod
    def legal_actions(self) -> list[str]:
        """The actions that make sense now: what `"random"` draws from. The grammar must accept each."""

    def _idle(self) -> Outcome | tuple[float, bool, bool, bool, bool]:
        """
        One time step in which nothing is done: what an invalid action under `"noop"` is.

        The base class counts the step by itself. Override where the world moves or costs something meanwhile.
        """
        return Outcome(effective=False)

    def _make_behavior(self, name: str, rng: np.random.Generator) -> Behavior:
        """Makes the behaviours that `behaviors` lists beyond `"random"`."""
        raise NotImplementedError(f"{type(self).__name__} lists the behavior {name!r} without making it.")

    # The contract

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._in_episode = False  # and so it stays if _reset raises
        info = self._reset(seed, options) or {}
        self.elapsed_steps = 0
        self.executed_action = None
        self._in_episode = True
        return self._observation(), info

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if not self._in_episode:
            raise gymnasium.error.ResetNeeded("There is no running episode: call reset() before step().")
        if not isinstance(action, str):
            raise TypeError(f"The action must be a str, the text that the agent wrote, not {type(action).__name__}.")
        parsed = self.grammar.parse(action)
        executed = parsed if parsed is not None else self._substitute()
        if executed is not None:
            outcome = Outcome(*self._execute(executed))
        elif self.invalid_action == "terminate":
            outcome = Outcome(terminated=True, effective=False)
        else:
            outcome = Outcome(*self._idle())

        self.elapsed_steps += 1
        self.executed_action = executed
        terminated = bool(outcome.terminated)
        out_of_time = self.max_steps is not None and self.elapsed_steps >= self.max_steps
        # An episode that ends by itself in its last time step has no future to bootstrap from: terminated only.
        truncated = not terminated and (bool(outcome.truncated) or out_of_time)
        self._in_episode = not (terminated or truncated)
        reward = float(outcome.reward) - (self.invalid_penalty if parsed is None else 0.0)
        info = {
            "action_is_valid": parsed is not None,
            "action_is_effective": bool(outcome.effective),
            "executed_action": executed,
            "raw_action": action,
            "success": bool(outcome.success),
        }
        return self._observation(), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        image, _ = self._observe()
        return image[-1] if isinstance(image, tuple) else image

    def make_behavior(self, name: str, rng: np.random.Generator) -> Behavior:
        """
        Makes a scripted agent for the running episode.

        Args:
            name (`str`):
                One of `behaviors`.
            rng (`numpy.random.Generator`):
                Source of all its randomness.

        Raises:
            ValueError: `name` is not in `behaviors`.
            BehaviorUnavailableError: this episode does not allow the behaviour.
        """
        if name not in self.behaviors:
            raise ValueError(
                f"{name!r} is not a behavior of {type(self).__name__}: use one of {list(self.behaviors)}."
            )
        if not self._in_episode:
            raise gymnasium.error.ResetNeeded("A behavior lives for one episode: call reset() before make_behavior().")
        return RandomBehavior(self, rng) if name == "random" else self._make_behavior(name, rng)

    def write(self, action: str) -> str:
        """The completion text with which a scripted agent takes this action now."""
        return self.grammar.format(action)

    def draw_legal_action(self, rng: np.random.Generator) -> str:
        """One of the legal actions, uniformly."""
        actions = self.legal_actions()
        return actions[int(rng.integers(len(actions)))]

    def _substitute(self) -> str | None:
        """The action executed in place of an invalid one, if any."""
        if self.invalid_action == "random":
            return self.draw_legal_action(self.np_random)
        return self.default_action

    def _observation(self) -> dict[str, Any]:
        image, text = self._observe()
        return {"image": image, "text": text}

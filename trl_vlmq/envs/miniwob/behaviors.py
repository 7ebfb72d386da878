# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Scripted agents of graded quality, made of an expert."""

from typing import Protocol

import numpy as np

from trl_vlmq.envs.miniwob.actions import Call, write_call
from trl_vlmq.envs.miniwob.elements import Element
from trl_vlmq.envs.miniwob.experts.view import Expert, View
from trl_vlmq.envs.text_action import BehaviorUnavailableError


NOISE = 0.3  # share of random actions of `noisy_expert`


class Episode(Protocol):
    """What a behaviour needs of the environment."""

    goal: str
    page: list[Element]

    def write(self, action: str) -> str: ...

    def draw_legal_action(self, rng: np.random.Generator) -> str: ...


class ExpertBehavior:
    """
    Does what the expert says, and something at random where it knows nothing.

    Args:
        env ([`~trl_vlmq.envs.miniwob.env.MiniWoBEnv`]):
            The environment, after a reset.
        expert (`Expert`):
            The expert of its task.
        rng (`numpy.random.Generator`):
            Source of all randomness.
        epsilon (`float`, *optional*, defaults to `0.0`):
            Probability of a random action in place of the expert's.
    """

    def __init__(self, env: Episode, expert: Expert, rng: np.random.Generator, epsilon: float = 0.0):
        self.env, self.expert, self.rng, self.epsilon = env, expert, rng, epsilon
        self._memory: dict = {}

    def act(self) -> str:
        if self.epsilon > 0 and self.rng.random() < self.epsilon:
            return self.env.write(self.env.draw_legal_action(self.rng))
        call = self._choose()
        return self.env.write(self.env.draw_legal_action(self.rng) if call is None else write_call(call))

    def _choose(self) -> Call | None:
        try:
            return self.expert(View(self.env.goal, self.env.page, self._memory))
        except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
            return None  # after a random action the page may look as no expert expects


class NoisyExpert(ExpertBehavior):
    """The expert with 30% random actions."""

    def __init__(self, env: Episode, expert: Expert, rng: np.random.Generator):
        super().__init__(env, expert, rng, epsilon=NOISE)


class WrongTarget(ExpertBehavior):
    """
    Competent but mistaken: does what the expert does, to other elements and with other words.

    Which element it takes for which is drawn once, among those of the same role; buttons that end a form stay what they
    are. What it should write, it writes backwards, and what it should choose, it replaces by a neighbour.

    Raises:
        BehaviorUnavailableError: (when made) on this page the expert's first action has no wrong counterpart.
    """

    def __init__(self, env: Episode, expert: Expert, rng: np.random.Generator):
        super().__init__(env, expert, rng)
        self._taken_for: dict[str, str] = {}
        call = self._choose_right()
        if call is None or self._mistake(call) == call:
            raise BehaviorUnavailableError("'wrong_target' finds nothing on this page to mistake the right thing for.")
        self._memory.clear()

    def _choose(self) -> Call | None:
        call = self._choose_right()
        return None if call is None else self._mistake(call)

    def _choose_right(self) -> Call | None:
        return super()._choose()

    def _mistake(self, call: Call) -> Call:
        if call.name == "fill" and call.arguments[1]:
            return Call("fill", (call.arguments[0], _other_text(call.arguments[1])))
        if call.name == "select_option":
            return Call("select_option", (call.arguments[0], (self._neighbour(*call.arguments),)))
        if call.name in ("click", "hover"):
            return Call(call.name, (self._other_element(call.arguments[0]),))
        if call.name == "mouse_drag_and_drop":
            x0, y0, x1, y1 = call.arguments
            return Call(call.name, (x0, y0, min(max(2 * x0 - x1, 1.0), 158.0), min(max(2 * y0 - y1, 52.0), 208.0)))
        return call

    def _other_element(self, ref: str) -> str:
        if ref not in self._taken_for:
            right = next(element for element in self.env.page if element.ref == ref)
            others = [
                element.ref
                for element in self.env.page
                if element.role == right.role
                and element.ref != ref
                and element.classes == right.classes
                and element.name != right.name
            ]
            self._taken_for[ref] = others[int(self.rng.integers(len(others)))] if others else ref
        return self._taken_for[ref]

    def _neighbour(self, ref: str, labels: tuple[str, ...]) -> str:
        options = [label for label, _ in next(e for e in self.env.page if e.ref == ref).options]
        return next((label for label in reversed(options) if label not in labels), labels[0])


def _other_text(text: str) -> str:
    return text[::-1] if text != text[::-1] else f"{text}0"


BEHAVIORS = {"expert": ExpertBehavior, "noisy_expert": NoisyExpert, "wrong_target": WrongTarget}

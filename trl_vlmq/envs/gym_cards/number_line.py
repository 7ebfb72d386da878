# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""NumberLine."""

from typing import Any

import numpy as np

from trl_vlmq.envs.text_action import Behavior, Outcome

from .behaviors import NOISE, ScriptedBehavior
from .card_env import GymCardsEnv
from .painting import check_image_size, paint_number_line


class NumberLineEnv(GymCardsEnv):
    """
    Bring the current number to the target, one up (`+`) or down (`-`) at a time.

    A move that does not get closer costs 1. The target ends the episode with +1. Start and target are drawn as in
    RL4VLM: two independent numbers; a target that equals the start becomes `(start + 1) % last`.

    Args:
        last (`int`, *optional*, defaults to `5`):
            Numbers go from 0 to this one. The episode is truncated after twice as many steps.
        kwargs:
            Those of [`~trl_vlmq.envs.gym_cards.GymCardsEnv`].
    """

    behaviors = ("random", "expert", "noisy_expert", "wrong_way")

    def __init__(self, last: int = 5, **kwargs):
        if not 2 <= last <= 9:
            raise ValueError(f"last={last} must be from 2 to 9: the line has to fit into the picture.")
        self.last = last
        super().__init__(["+", "-"], "Bring the current number to the target.", **{"max_steps": 2 * last} | kwargs)
        check_image_size(self.image_size)

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        self.episode_return = 0.0
        self.number, self.target = (int(number) for number in self.np_random.integers(self.last + 1, size=2))
        if self.number == self.target:
            self.target = (self.number + 1) % self.last

    def _observe(self) -> tuple[np.ndarray, str]:
        return paint_number_line(self.number, self.target, self.last, self.image_size).copy(), self._prompt()

    def describe(self) -> str:
        return f"Target: {self.target}. Current: {self.number}."

    def _execute(self, action: str) -> Outcome:
        before = self.number
        self.number = min(max(before + (1 if action == "+" else -1), 0), self.last)
        arrived = self.number == self.target
        closer = abs(self.number - self.target) < abs(before - self.target)
        reward = 1.0 if arrived else 0.0 if closer else -1.0
        return Outcome(reward, terminated=arrived, effective=self.number != before)

    def legal_actions(self) -> list[str]:
        return ["+", "-"]

    def _make_behavior(self, name: str, rng: np.random.Generator) -> Behavior:
        towards, away = ("+", "-"), ("-", "+")
        words = away if name == "wrong_way" else towards
        choose = lambda: words[0] if self.target > self.number else words[1]  # noqa: E731
        return ScriptedBehavior(self, rng, choose, noise=NOISE if name == "noisy_expert" else 0.0)


def random_success(last: int = 5) -> float:
    """
    The exact success rate of the random policy: an episode has a return above 0 only if every move gets closer.

    Args:
        last (`int`, *optional*, defaults to `5`):
            As in [`NumberLineEnv`].
    """
    pairs = [(start, target) for start in range(last + 1) for target in range(last + 1)]
    distances = [abs(start - (target if target != start else (start + 1) % last)) for start, target in pairs]
    return sum(0.5**distance for distance in distances) / len(pairs)

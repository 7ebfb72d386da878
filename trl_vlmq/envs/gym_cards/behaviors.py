# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Scripted players."""

from collections.abc import Callable

import numpy as np

from trl_vlmq.envs.text_action import TextActionEnv


NOISE = 0.3  # share of random actions of `noisy_expert`


class ScriptedBehavior:
    """
    Plays what a rule says, or with some probability a random legal action.

    Args:
        env ([`~trl_vlmq.envs.TextActionEnv`]):
            The game.
        rng (`numpy.random.Generator`):
            Source of all randomness.
        choose (`Callable[[], str | None]`):
            The rule: the action in the game's present state; `None` where it has nothing to say, which makes it random.
        noise (`float`, *optional*, defaults to `0.0`):
            Probability of a random action.
    """

    def __init__(
        self, env: TextActionEnv, rng: np.random.Generator, choose: Callable[[], str | None], noise: float = 0.0
    ):
        self.env, self.rng, self.choose, self.noise = env, rng, choose, noise

    def act(self) -> str:
        action = self.choose() if self.rng.random() >= self.noise else None
        return self.env.write(self.env.draw_legal_action(self.rng) if action is None else action)

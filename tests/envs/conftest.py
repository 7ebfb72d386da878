# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import gymnasium
import numpy as np
import pytest

import trl_vlmq.envs  # noqa: F401 (registers the environments)
from trl_vlmq.envs import JsonActionGrammar, Outcome, TextActionEnv, image_space


@pytest.fixture
def make_babyai():
    pytest.importorskip("minigrid")
    return lambda level, **kwargs: gymnasium.make(f"trl_vlmq/BabyAI-{level}-v0", **kwargs).unwrapped


class Counter(TextActionEnv):
    """A number to be brought from a random start to 5 by "up" and "down": the smallest environment there is."""

    def __init__(self, **kwargs):
        super().__init__(JsonActionGrammar(["up", "down"]), image_space(4, 6), **{"max_steps": 10} | kwargs)

    def _reset(self, seed, options):
        self.number = int(self.np_random.integers(5))

    def _observe(self):
        return np.full((4, 6, 3), self.number, np.uint8), f"Number: {self.number}. {self.grammar.describe()}"

    def _execute(self, action):
        before = self.number
        self.number = max(0, before + (1 if action == "up" else -1))
        done = self.number == 5
        return Outcome(float(done), terminated=done, effective=self.number != before, success=done)

    def legal_actions(self):
        return ["up", "down"]


@pytest.fixture
def counter_class():
    return Counter

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A corridor to walk in: the smallest environment in which a random language model does something."""

import numpy as np
import pytest

from trl_vlmq.backbones import Backbone, make_backbone
from trl_vlmq.envs import BehaviorUnavailableError, Outcome, TextActionEnv, image_space


class FirstLetter:
    """Every text is an action, or not: its first letter says."""

    def format(self, action: str) -> str:
        return {"left": "d", "right": "e"}[action]

    def parse(self, text: str) -> str | None:
        return [None, "left", "right"][ord(text[0]) % 3] if text else None

    def describe(self) -> str:
        return "Say something."


class Corridor(TextActionEnv):
    """Five cells, a start in the middle, and a goal at one end; six steps at most."""

    behaviors = ("random", "expert", "goes_left")
    made: list["Corridor"] = []

    def __init__(self, **kwargs):
        super().__init__(FirstLetter(), image_space(16, 16), **{"max_steps": 6} | kwargs)
        self.closed = 0
        self.made.append(self)

    def _reset(self, seed, options):
        self.position, self.goal = 2, 4 * int(self.np_random.integers(2))

    def _observe(self):
        image = np.full((16, 16, 3), 40, np.uint8)
        image[:, 3 * self.position : 3 * self.position + 3] = (200, 10 * self.elapsed_steps, 0)
        return image, f"Goal {self.goal}, you {self.position}."

    def _execute(self, action):
        before = self.position
        self.position = min(4, max(0, before + (1 if action == "right" else -1)))
        arrived = self.position == self.goal
        return Outcome(float(arrived), arrived, effective=self.position != before, success=arrived)

    def legal_actions(self):
        return ["left", "right"]

    def _make_behavior(self, name, rng):
        if name == "goes_left" and self.goal != 0:
            raise BehaviorUnavailableError("The goal is on the right.")
        return Walker(self)

    def close(self):
        self.closed += 1


class Walker:
    def __init__(self, env: Corridor):
        self.env = env

    def act(self) -> str:
        return self.env.grammar.format("right" if self.env.goal > self.env.position else "left")


@pytest.fixture
def corridor(monkeypatch) -> type[Corridor]:
    """The environment's class; its `made` holds those of this test, which must have been closed once by its end."""
    monkeypatch.setattr(Corridor, "made", [])
    yield Corridor
    assert [env.closed for env in Corridor.made] == [1] * len(Corridor.made)


@pytest.fixture(scope="session")
def backbone(tiny_vlm) -> Backbone:
    make, processor = tiny_vlm
    return make_backbone(make(seed=1), processor)

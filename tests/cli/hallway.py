# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A user's own environment, in a module of his working directory: a hallway in which every text is an action."""

import gymnasium
import numpy as np

from trl_vlmq.envs import BehaviorUnavailableError, Outcome, TextActionEnv, image_space


class FirstLetter:
    """The first letter of a text says what it does, so that an untrained model walks, too."""

    def format(self, action):
        return {"left": "d", "right": "e"}[action]

    def parse(self, text):
        return [None, "left", "right"][ord(text[0]) % 3] if text else None

    def describe(self):
        return "Say something."


class Hallway(TextActionEnv):
    """Five cells, a start in the middle, and a goal at one end; the text names the cell, as pictures are for the trained."""

    behaviors = ("random", "expert", "goes_left")

    def __init__(self, **kwargs):
        super().__init__(FirstLetter(), image_space(16, 16), **{"max_steps": 5} | kwargs)

    def _reset(self, seed, options):
        self.place, self.goal = 2, 4 * int(self.np_random.integers(2))

    def _observe(self):
        image = np.full((16, 16, 3), 40 * self.place, np.uint8)
        return image, f"Goal {self.goal}, you {self.place}."

    def _execute(self, action):
        before = self.place
        self.place = min(4, max(0, before + (1 if action == "right" else -1)))
        there = self.place == self.goal
        return Outcome(float(there), there, effective=self.place != before, success=there)

    def legal_actions(self):
        return ["left", "right"]

    def _make_behavior(self, name, rng):
        if name == "goes_left" and self.goal:
            raise BehaviorUnavailableError("The goal is on the right.")
        return Walker(self)


class Walker:
    def __init__(self, env):
        self.env = env

    def act(self):
        return self.env.grammar.format("right" if self.env.goal else "left")


gymnasium.register("Hallway-v0", Hallway)

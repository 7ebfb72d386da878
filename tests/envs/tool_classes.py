# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Classes as TRL's `environment_factory` takes them, for the tests of tools."""

import json
from typing import Literal

from transformers.utils import get_json_schema

from trl_vlmq.envs import ToolEnv
from trl_vlmq.envs.tools import ToolGrammar


class Island:
    """A 4 x 4 island with a treasure, as a user would give it to GRPOTrainer(environment_factory=Island)."""

    def reset(self, treasure: int = 15, **kwargs) -> str:
        self.place, self.treasure = [0, 0], divmod(treasure, 4)
        return "Find the treasure."

    def move(self, direction: Literal["north", "south", "east", "west"], steps: Literal[1, 2] = 1) -> str:
        """
        Walk over the island.

        Args:
            direction: Where to go.
            steps: How far.
        """
        axis, sign = {"north": (0, -1), "south": (0, 1), "east": (1, 1), "west": (1, -1)}[direction]
        place = self.place[axis] + sign * steps
        if not 0 <= place <= 3:
            raise ValueError("There is the sea.")
        self.place[axis] = place
        return f"You are at {self.place}."

    def look(self, carefully: bool) -> str:
        """
        Look for the treasure.

        Args:
            carefully: Take your time.
        """
        return f"{self._distance()} steps" if carefully else "palms"

    def get_reward(self) -> float:
        return 6.0 - self._distance()

    @property
    def found(self):
        return self._distance() == 0

    def _distance(self):
        return sum(abs(here - there) for here, there in zip(self.place, self.treasure, strict=True))


def make_island(**kwargs):
    settings = {"max_steps": 8, "reset_kwargs": lambda rng: {"treasure": int(rng.integers(1, 16))}}
    return ToolEnv(Island, Island.get_reward, lambda island: island.found, **settings | kwargs)


def make_far_island(**kwargs):
    return make_island(reset_kwargs=None, **kwargs)  # the treasure is 6 steps away


def call(tool, **arguments):
    return json.dumps({"name": tool, "arguments": arguments})


class Types:
    """One argument of each kind that a tool can declare."""

    def reset(self) -> None:
        self.got = None

    def take(
        self,
        text: str = "",
        count: int = 0,
        share: float = 0.0,
        mixed: int | str = 0,
        perhaps: int | None = None,
        numbers: list[int] = (),
        pair: tuple[int, str] = (0, ""),
        table: dict[str, bool] = (),
        union: Literal["a"] | list[int] = "a",
        one: Literal[1, 2] = 1,
    ):
        """
        Take something.

        Args:
            text: A
            count: B
            share: C
            mixed: D
            perhaps: E
            numbers: F
            pair: G
            table: H
            union: I
            one: J
        """
        self.got = {name: value for name, value in locals().items() if name != "self"}


def grammar_of(environment, *tools):
    return ToolGrammar([get_json_schema(getattr(environment(), tool)) for tool in tools])

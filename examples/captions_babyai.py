# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Pictures of BabyAI with questions and answers about them, for examples/pretrain_tiny_vlm.py.

Four kinds of question: describe everything, where is a named object, what is at a named place, and in which direction lies
the (nearest) object that a mission names.
"""

import contextlib
import io
import random
from dataclasses import dataclass

import gymnasium as gym
import minigrid  # noqa: F401  (registers the levels)
import numpy as np
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import Ball, Box, Key
from tqdm.auto import tqdm

from trl_vlmq.envs.babyai_view import describe_view, place, view_cells, visible_objects


DESCRIBE = "Describe what you see."
VOCABULARY = 640
LEVELS = (
    "GoToLocalS5N2", "GoToLocalS6N2", "GoToLocalS6N4", "GoToLocalS7N5", "GoToLocalS8N7", "PickupLoc", "GoToDoor",
    "OpenDoor", "GoToObjDoor", "ActionObjDoor", "GoTo", "UnlockLocal",
)  # fmt: skip
KINDS = ("ball", "box", "key", "door")
# Wording that environments use, for the tokenizer's merges only; the weights are never trained on it.
TOKENIZER_TEXTS = (
    '{"action": "turn left"}', '{"action": "turn right"}', '{"action": "go forward"}', '{"action": "pick up"}',
    '{"action": "drop"}', '{"action": "toggle"}', "Mission: go to the red ball.\n", "Mission: pick up a grey box.\n",
    "Mission: open the blue door.\n", "Mission: put the green key next to the purple box.\n",
    "Actions: turn left, turn right, go forward, pick up, drop, toggle.\n", 'Answer: {"action": "..."}',
    "Earlier: turn left; go forward.", "on your left", "on your right", "in front of you", "behind you",
    "then", "after you", "and",
)  # fmt: skip


@dataclass
class View:
    """One picture with the facts that captions are made of."""

    image: np.ndarray | None  # uint8 [112, 112, 3]
    description: str
    objects: list[tuple[str, str, str]]  # (state + colour + kind, kind, place), nearest first
    cells: dict[str, str]  # place -> name of what is there
    text: str = ""  # nothing is told beside the picture


def generate_views(num_layouts: int, rng: random.Random, views_per_layout: int = 6) -> list[View]:
    """Random levels, random agent placements, sometimes an open door or a carried object."""
    envs = {}
    views = []
    for _ in tqdm(range(num_layouts), desc="views", mininterval=2):
        level = rng.choice(LEVELS)
        env = envs.setdefault(level, gym.make(f"BabyAI-{level}-v0").unwrapped)
        with contextlib.redirect_stdout(io.StringIO()):
            env.reset(seed=rng.randrange(2**31))
        grid = env.grid
        free = [(i, j) for i in range(grid.width) for j in range(grid.height) if grid.get(i, j) is None]
        for _ in range(views_per_layout):
            env.agent_pos, env.agent_dir = rng.choice(free), rng.randrange(4)
            for cell in grid.grid:
                if cell is not None and cell.type == "door":
                    cell.is_locked = rng.random() < 0.2
                    cell.is_open = not cell.is_locked and rng.random() < 0.5
            env.carrying = rng.choice((Ball, Box, Key))(rng.choice(COLOR_NAMES)) if rng.random() < 0.15 else None
            seen = view_cells(env)
            cells = {}
            for forward in range(7):
                for right in range(-3, 4):
                    if (forward, right) in seen and (forward, right) != (0, 0):
                        cell = seen[forward, right]
                        cells[place(forward, right)] = "nothing" if cell is None else cell.type
            objects = []
            for thing in visible_objects(env):
                where = place(thing.forward, thing.right)
                cells[where] = thing.name
                objects.append((thing.name, thing.kind, where))
            image = env.get_pov_render(tile_size=16)
            views.append(View(image, describe_view(env), objects, cells))
    return views


def ask(view: View, rng: random.Random) -> tuple[str, str]:
    """A question about the view, and its answer."""
    kind_of_question = rng.random()
    if kind_of_question < 0.05:
        return DESCRIBE, view.description
    if kind_of_question < 0.2 and view.cells:
        named = [where for where, name in view.cells.items() if name != "nothing"]
        where = rng.choice(named if named and rng.random() < 0.7 else list(view.cells))
        return f"What is {where}?", view.cells[where]
    if view.objects and rng.random() < 0.75:
        name, kind, _ = rng.choice(view.objects)
        wanted = kind if rng.random() < 0.15 else " ".join(name.split()[-2:])
    else:
        wanted = f"{rng.choice(COLOR_NAMES)} {rng.choice(KINDS)}"
    found = [where for name, kind, where in view.objects if kind == wanted or name.endswith(wanted)]
    if kind_of_question < 0.6:
        return f"Where is {rng.choice(('the', 'a'))} {wanted}?", found[0] if found else "not in view"
    answer = direction(found[0]) if found else "not in view"
    if rng.random() < 0.5:
        return f"Which way is {rng.choice(('the', 'a'))} {wanted}?", answer
    mission = rng.choice(("go to", "pick up", "open"))
    return f"Mission: {mission} {rng.choice(('the', 'a'))} {wanted}. Which way?", answer


def direction(where: str) -> str:
    """Words for the direction of a place: what matters of it for walking there."""
    side = "left" if "left" in where else "right" if "right" in where else ""
    if not side:
        return "in front of you"
    return f"ahead {side}" if "ahead" in where else f"on your {side}"


def kind_of(question: str) -> str:
    """Which of the four kinds a question is."""
    return "which" if question.endswith("Which way?") else question.split()[0].lower()

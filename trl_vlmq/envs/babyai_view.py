# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a BabyAI agent sees, in words: the symbolic option of the environment and the captions of the tiny VLM."""

from dataclasses import dataclass

import gymnasium as gym


@dataclass(frozen=True)
class VisibleObject:
    """An object in the agent's field of view.

    Args:
        color (`str`):
            MiniGrid colour name, e.g. `"red"`.
        kind (`str`):
            MiniGrid object type: `"ball"`, `"box"`, `"key"` or `"door"`.
        forward (`int`):
            Cells in front of the agent (0 is the agent's own row).
        right (`int`):
            Cells to the right of the agent (negative: to the left).
        state (`str`, *optional*, defaults to `""`):
            `"open"`, `"closed"` or `"locked"` for a door.
    """

    color: str
    kind: str
    forward: int
    right: int
    state: str = ""

    @property
    def name(self) -> str:
        return " ".join(word for word in (self.state, self.color, self.kind) if word)


def place(forward: int, right: int) -> str:
    """Words for a cell relative to the agent, e.g. `"2 ahead 1 left"`; `"here"` for its own cell."""
    words = []
    if forward:
        words.append(f"{forward} ahead")
    if right:
        words.append(f"{abs(right)} {'right' if right > 0 else 'left'}")
    return " ".join(words) or "here"


def view_cells(env: gym.Env) -> dict[tuple[int, int], object]:
    """The visible cells of a MiniGrid environment: `(forward, right)` -> world object or `None` for an empty cell.

    The agent stands in the middle of the bottom row of its view and looks up; what it carries lies in its own cell.
    """
    grid, visible = env.unwrapped.gen_obs_grid()
    middle, bottom = grid.width // 2, grid.height - 1
    return {
        (bottom - j, i - middle): grid.get(i, j)
        for i in range(grid.width)
        for j in range(grid.height)
        if visible[i, j]
    }


def visible_objects(env: gym.Env) -> list[VisibleObject]:
    """Objects in view (walls and floor apart, a carried object apart), nearest first."""
    found = []
    for (forward, right), cell in view_cells(env).items():
        if cell is None or cell.type in ("wall", "floor") or (forward, right) == (0, 0):
            continue
        state = ""
        if cell.type == "door":
            state = "open" if cell.is_open else "locked" if cell.is_locked else "closed"
        found.append(VisibleObject(cell.color, cell.type, forward, right, state))
    return sorted(found, key=lambda o: (o.forward + abs(o.right), o.forward, o.right))


def describe_view(env: gym.Env) -> str:
    """One sentence that names every visible object with its place, the wall ahead and what is carried."""
    parts = [f"{o.name} {place(o.forward, o.right)}" for o in visible_objects(env)]
    carried = env.unwrapped.carrying
    if carried is not None:
        parts.append(f"carrying {carried.color} {carried.type}")
    cells = view_cells(env)
    walls = [forward for (forward, right), cell in cells.items() if right == 0 and cell and cell.type == "wall"]
    if walls:
        parts.append(f"wall {min(walls)} ahead")
    return ", ".join(parts) if parts else "nothing"

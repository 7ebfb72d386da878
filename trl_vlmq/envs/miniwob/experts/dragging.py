# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Experts for tasks in which something is dragged: boxes, shapes, items, sliders, a selection."""

import re

from trl_vlmq.envs.miniwob.actions import Call
from trl_vlmq.envs.miniwob.elements import Element
from trl_vlmq.envs.miniwob.experts.view import Expert, View, click, drag, submit


DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def box_into_box(view: View) -> Call | None:
    small, large = view.first("text", name="s"), view.first("text", name="L")
    if small is None or large is None:
        return None
    gap = max(abs(small.x - large.x), abs(small.y - large.y))
    if gap < (large.width - small.width) / 2 - 2:
        return submit(view)
    if gap < (large.width + small.width) / 2:  # the large one may lie on the middle of the small one
        away = 20 if small.x > 80 else 140, 75 if small.y > 110 else 140
        return drag((large.x, large.y), away)
    return drag((small.x, small.y), (large.x, large.y))


def shape_in_a_direction(view: View) -> Call | None:
    moved = view.first("circle", "rect", "polygon")
    if moved is None:
        return None
    x, y = DIRECTIONS[re.search(r"left|right|up|down", view.goal)[0]]
    start = view.memory.setdefault("start", (moved.x, moved.y))
    if x * (moved.x - start[0]) + y * (moved.y - start[1]) > 3:
        return submit(view)
    return drag((moved.x, moved.y), (moved.x + 20 * x, moved.y + 20 * y))


def shapes_into_the_box(view: View) -> Call | None:
    kind = {"circles": "circle", "rectangles": "rect", "triangles": "polygon"}[re.search(r"all (\w+)", view.goal)[1]]
    box = view.first(id="shape-container")
    if box is None:
        return None

    def is_inside(shape):
        return (
            abs(shape.x - box.x) < (box.width - shape.width) / 2
            and abs(shape.y - box.y) < (box.height - shape.height) / 2
        )

    outside = [e for e in view.all(tag=kind) if e.id != box.id and not is_inside(e)]
    if not outside:
        return submit(view)
    # Side by side, so that none covers the next one.
    inside = sum(is_inside(e) for e in view.all(tag=kind) if e.id != box.id)
    return drag(
        (outside[0].x, outside[0].y), (box.x - box.width / 2 + 14 + 15 * (inside % 4), box.y + 8 * (inside // 4))
    )


def item_to_a_place(view: View) -> Call | None:
    items = view.all("listitem")
    name = re.match(r"Drag (\S+) ", view.goal)[1]
    label = view.first("text", name=name)
    if label is None:
        return None
    start = next(i for i, item in enumerate(items) if item.ref == label.parent)
    place = re.search(r"(\d)(?:st|nd|rd|th)|top|bottom|up|down", view.goal)
    end = (
        int(place[1]) - 1
        if place[1]
        else {"top": 0, "bottom": len(items) - 1, "up": start - 1, "down": start + 1}[place[0]]
    )
    return _move(items, start, end)


def sorted_numbers(view: View) -> Call | None:
    items = view.all("listitem")
    numbers = [int(view.after(item, "text").name) for item in items]
    for end, number in enumerate(sorted(numbers)):
        if numbers[end] != number:
            return _move(items, len(numbers) - 1 - numbers[::-1].index(number), end)
    return submit(view)


def _move(items: list[Element], start: int, end: int) -> Call:
    """Drags an item of a vertical list past the one whose place it takes."""
    beyond = 6 if end > start else -6
    return drag((items[start].x, items[start].y), (items[start].x, items[end].y + beyond))


def one_slider(view: View) -> Call | None:
    wanted = view.number(r"Select (-?\d+)")
    return _slide(view, view.first("slider"), view.first("text"), wanted) or submit(view)


def three_sliders(view: View) -> Call | None:
    wanted = map(int, re.search(r"\[(.*)\]", view.goal)[1].split(","))
    for handle, number in zip(view.all("slider"), wanted, strict=True):
        action = _slide(view, handle, view.after(handle, "text"), number)
        if action is not None:
            return action
    return submit(view)


def slider_and_checkbox(view: View) -> Call | None:
    wanted = view.number(r"Select (-?\d+)")
    action = _slide(view, view.first("slider"), view.first("text"), wanted)
    if action is not None:
        return action
    box = view.all("checkbox")[view.number(r"(\d)(?:st|nd|rd) checkbox") - 1]
    return click(box) if not box.checked else submit(view)


def _slide(view: View, handle: Element | None, shown: Element | None, wanted: int) -> Call | None:
    """
    Brings a slider to a value; `None` once it is there.

    It learns from where the handle was at which value how far to drag it, and goes the last steps with the keyboard.
    """
    if handle is None or shown is None or int(shown.name) == wanted:
        return None
    value, track = int(shown.name), view.memory.setdefault(view.all("slider").index(handle), {})
    track[value] = (handle.x, handle.y)
    steps = wanted - value
    if abs(steps) <= 2:
        return Call("press", (handle.ref, "ArrowRight" if steps > 0 else "ArrowLeft"))
    low, high = min(track), max(track)
    if low == high:
        return Call("press", (handle.ref, "PageUp" if steps > 0 else "PageDown"))
    (x0, y0), (x1, y1) = track[low], track[high]
    share = (wanted - low) / (high - low)
    return drag((handle.x, handle.y), (x0 + share * (x1 - x0), y0 + share * (y1 - y0)))


def highlighted_text(view: View) -> Call | None:
    if view.memory.get("done"):
        return submit(view)
    view.memory["done"] = True
    texts = [e for e in view.all("text")]
    text = texts[view.number(r"(\d)(?:st|nd|rd)") - 1] if "paragraph below" not in view.goal else texts[0]
    left, top = text.x - text.width / 2, text.y - text.height / 2
    return drag((max(left, 1), top + 2), (left + text.width - 1, top + text.height - 2))


EXPERTS: dict[str, Expert] = {
    "drag-box": box_into_box,
    "drag-circle": shape_in_a_direction,
    "drag-single-shape": shape_in_a_direction,
    "drag-shapes": shapes_into_the_box,
    "drag-items": item_to_a_place,
    "drag-sort-numbers": sorted_numbers,
    "use-slider": one_slider,
    "use-slider-2": three_sliders,
    "form-sequence": slider_and_checkbox,
    "highlight-text": highlighted_text,
    "highlight-text-2": highlighted_text,
}

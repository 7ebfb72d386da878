# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The elements of a page, and how they are told to an agent that reads."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


LONGEST_NAME = 300

# Tags of what the mouse aims at by its place: the list says where it is, as it does for sliders and what has no name.
PLACED = ("circle", "ellipse", "rect", "polygon", "polyline", "path", "line", "text", "image", "svg", "canvas")

# Classes of a library's looks, which do not tell what an element is.
_LOOKS = re.compile(r"ui-(widget|corner|state|button|helper|front|icon$).*")


@dataclass(frozen=True)
class Element:
    """
    A visible element.

    Args:
        ref (`str`):
            Its number, from 1 in the order in which elements are first seen; it keeps it throughout the episode.
        parent (`str`, *optional*):
            Number of the nearest element around it that is listed, too.
        group (`bool`):
            Whether it only holds others together (a table, a list, a dialog): told in the tree, not in the list.
        tag (`str`):
            HTML tag, in lower case.
        role (`str`):
            ARIA role where there is one, else what the tag amounts to.
        name (`str`):
            Its label or text.
        id, classes (`str`):
            HTML attributes.
        value (`str`, *optional*):
            What a field contains.
        checked (`bool`, *optional*):
            Of a checkbox or radio button.
        selected, disabled, readonly, focused, in_view (`bool`):
            Its state; `in_view` is false for what must be scrolled to.
        type (`str`):
            Of an input.
        options (`list`):
            `[label, selected]` of each option of a select.
        color (`str`):
            CSS colour of its background, or of a shape.
        x, y, width, height (`float`):
            Middle and size in CSS pixels.
    """

    ref: str
    parent: str | None
    group: bool
    tag: str
    role: str
    name: str
    id: str
    classes: str
    value: str | None
    checked: bool | None
    selected: bool
    disabled: bool
    readonly: bool
    focused: bool
    type: str
    options: list[list[Any]]
    color: str
    in_view: bool
    x: float
    y: float
    width: float
    height: float


def describe_elements(elements: Sequence[Element], form: str, scale: float = 1.0) -> str:
    """
    One line for each element.

    Args:
        elements (`Sequence[Element]`):
            In the order of the page.
        form (`str`):
            `"list"`, or `"tree"`: with the elements that hold others together, indented.
        scale (`float`, *optional*, defaults to `1.0`):
            Pixels of the image per CSS pixel: places are told in pixels of the image.
    """
    if form == "list":
        return "\n".join(_line(element, scale) for element in elements if not element.group)
    depth: dict[str | None, int] = {None: -1}
    lines = []
    for element in elements:
        depth[element.ref] = depth[element.parent] + 1
        lines.append("  " * depth[element.ref] + _line(element, scale))
    return "\n".join(lines)


def _line(element: Element, scale: float) -> str:
    name = element.name if len(element.name) <= LONGEST_NAME else element.name[:LONGEST_NAME] + "..."
    parts = [f"[{element.ref}] {element.role}"]
    if name:
        parts.append(f'"{name}"')
    elif not element.group:
        telling = [name for name in element.classes.split() if not _LOOKS.fullmatch(name)]
        parts += [f"#{element.id}"] if element.id else ["." + ".".join(telling[:2])] if telling else []
    if element.value is not None and not element.options:
        parts.append(f"value={json.dumps(element.value, ensure_ascii=False)}")
    if element.options:
        # A long list in full would drown the rest; what a wrong choice answers shows more of it.
        shown = [f"{label}*" if selected else label for label, selected in element.options[:30]]
        parts.append(f"options: {', '.join(shown)}{', ...' if len(element.options) > 30 else ''}")
    if element.checked is not None:
        parts.append("checked" if element.checked else "unchecked")
    if element.tag in PLACED or element.role == "slider" or not (name or element.group or element.value is not None):
        color = hex_color(element.color)
        parts += [color] if color else []
        parts.append(f"at ({round(element.x * scale)}, {round(element.y * scale)})")
    states = {"selected": element.selected, "disabled": element.disabled, "focused": element.focused}
    parts += [state for state, holds in states.items() if holds]
    if not element.in_view:
        parts.append("out of view")
    return " ".join(parts)


def hex_color(css: str) -> str:
    """`"#ff0000"` of `"rgb(255, 0, 0)"`; empty for anything else."""
    match = re.match(r"rgba?\((\d+), (\d+), (\d+)", css)
    return "#" + "".join(f"{int(part):02x}" for part in match.groups()) if match else ""

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What an expert looks at, and the actions it writes."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from trl_vlmq.envs.miniwob.actions import Call
from trl_vlmq.envs.miniwob.elements import Element


@dataclass
class View:
    """
    What there is to see: no more than the text observation tells, places included.

    Args:
        goal (`str`):
            What is to be done.
        page (`list[Element]`):
            The elements of the page.
        memory (`dict`):
            The expert's own notes of this episode.
    """

    goal: str
    page: list[Element]
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def quoted(self) -> list[str]:
        """What the goal has in double quotes."""
        return re.findall(r'"([^"]*)"', self.goal)

    def all(self, *roles: str, **attributes: Any) -> list[Element]:
        """The elements of these roles (any, if none is given) with these attributes."""
        return [
            element
            for element in self.page
            if (not roles or element.role in roles) and all(getattr(element, k) == v for k, v in attributes.items())
        ]

    def first(self, *roles: str, **attributes: Any) -> Element | None:
        """The first of [`all`], or `None`."""
        return next(iter(self.all(*roles, **attributes)), None)

    def marked(self, name: str, **attributes: Any) -> Element | None:
        """The first element that has this class."""
        return next((e for e in self.all(**attributes) if name in e.classes.split()), None)

    def after(self, element: Element | None, *roles: str) -> Element | None:
        """The first element of these roles behind another one."""
        if element is None:
            return None
        return next((e for e in self.page[self.page.index(element) + 1 :] if e.role in roles), None)

    def number(self, pattern: str) -> int:
        """The number that a group of the pattern finds in the goal."""
        return int(re.search(pattern, self.goal)[1])


# What is to be done next, or `None` if it does not know.
Expert = Callable[[View], Call | None]


def click(element: Element | None) -> Call | None:
    return None if element is None else Call("click", (element.ref,))


def fill(wanted: Iterable[tuple[Element | None, str]]) -> Call | None:
    """Fills the first field that does not contain what it should; `None` if all do."""
    for element, text in wanted:
        if element is not None and element.value != text:
            return Call("fill", (element.ref, text))
    return None


def submit(view: View) -> Call | None:
    """Clicks the button that all forms have."""
    names = ("submit", "login", "search", "go!", "ok")
    return click(next((e for e in view.all("button", "text") if e.name.lower() in names), None))


def drag(start: tuple[float, float], end: tuple[float, float]) -> Call:
    """Drags between two places in CSS pixels of the task area, as far as it goes."""
    x, y = min(max(end[0], 1.0), 158.0), min(max(end[1], 1.0), 208.0)
    return Call("mouse_drag_and_drop", (*map(float, start), x, y))


def ordinal(view: View) -> int:
    """2 of "the 2nd word"."""
    return view.number(r"(\d+)(?:st|nd|rd|th)")

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What each action of the dialect does in the browser."""

from collections.abc import Callable

from trl_vlmq.envs.miniwob.actions import KEYS, MODIFIERS, Call, split_key
from trl_vlmq.envs.miniwob.browser import HEIGHT, WIDTH, Browser


class ActionError(ValueError):
    """The action cannot be done on the page as it is; the message is for the agent."""


def execute(browser: Browser, call: Call, scale: float) -> None:
    """
    Does what an action says.

    Args:
        browser ([`~trl_vlmq.envs.miniwob.browser.Browser`]):
            Where.
        call ([`~trl_vlmq.envs.miniwob.actions.Call`]):
            What.
        scale (`float`):
            Pixels of the image, in which the agent gives places, per CSS pixel.

    Raises:
        ActionError: it cannot be done.
        BrowserError: the browser died or hangs.
    """
    _Hand(browser, scale).do(call)


class _Hand:
    def __init__(self, browser: Browser, scale: float):
        self.browser, self.scale = browser, scale

    def do(self, call: Call) -> None:
        action: Callable[..., None] = getattr(self, call.name)
        action(*call.arguments)

    def noop(self) -> None:
        pass

    def click(self, ref: str) -> None:
        self.browser.click(*self._point(ref))

    def dblclick(self, ref: str) -> None:
        self.browser.click(*self._point(ref), times=2)

    def hover(self, ref: str) -> None:
        self.browser.move_mouse(*self._point(ref))

    def focus(self, ref: str) -> None:
        self._call("focus", ref)

    def fill(self, ref: str, text: str) -> None:
        if not self._call("prepareFill", ref, text)["done"]:
            self.browser.insert_text(text)

    def select_option(self, ref: str, options: tuple[str, ...]) -> None:
        self._call("select", ref, list(options))

    def press(self, ref: str, key: str) -> None:
        self._call("focus", ref)
        self.keyboard_press(key)

    def drag_and_drop(self, from_ref: str, to_ref: str) -> None:
        way = self._call("way", from_ref, to_ref)
        self.browser.drag(*((place["x"], place["y"]) for place in (way["from"], way["to"])))

    def scroll(self, dx: float, dy: float) -> None:
        self._call("scroll", *self.browser.mouse, dx / self.scale, dy / self.scale)

    def keyboard_press(self, key: str) -> None:
        *modifiers, last = split_key(key)
        self.browser.press_keys([MODIFIERS[modifier] for modifier in modifiers], KEYS.get(last, last))

    def keyboard_type(self, text: str) -> None:
        self.browser.type_keys(text.replace("\n", KEYS["Enter"]).replace("\t", KEYS["Tab"]))

    def mouse_click(self, x: float, y: float) -> None:
        self.browser.click(*self._place(x, y))

    def mouse_dblclick(self, x: float, y: float) -> None:
        self.browser.click(*self._place(x, y), times=2)

    def mouse_move(self, x: float, y: float) -> None:
        self.browser.move_mouse(*self._place(x, y))

    def mouse_down(self) -> None:
        self.browser.press_mouse(True)

    def mouse_up(self) -> None:
        self.browser.press_mouse(False)

    def mouse_drag_and_drop(self, from_x: float, from_y: float, to_x: float, to_y: float) -> None:
        self.browser.drag(self._place(from_x, from_y), self._place(to_x, to_y))

    def _call(self, function: str, *arguments) -> dict:
        result = self.browser.call(function, *arguments)
        if "error" in result:
            raise ActionError(result["error"])
        return result

    def _point(self, ref: str) -> tuple[float, float]:
        place = self._call("point", ref)
        return place["x"], place["y"]

    def _place(self, x: float, y: float) -> tuple[float, float]:
        x, y = x / self.scale, y / self.scale
        if not (0 <= x < WIDTH and 0 <= y < HEIGHT):
            size = f"{round(WIDTH * self.scale)} x {round(HEIGHT * self.scale)}"
            raise ActionError(f"({x * self.scale:g}, {y * self.scale:g}) lies outside of the image of {size} pixels")
        return x, y

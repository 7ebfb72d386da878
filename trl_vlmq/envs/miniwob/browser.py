# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What one does with a browser: open the page of a task, look at it, point and type."""

import base64
import io
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from urllib3.exceptions import HTTPError

from trl_vlmq.envs.miniwob.process import BrowserError, BrowserProcess


# CSS pixels of the task area. The viewport is just that: what the agent sees is all that there is, but for scrolling.
WIDTH, HEIGHT = 160, 210

# Milliseconds of the page's own time that pass with each action: enough for every animation and delay of these pages.
STEP_MILLISECONDS = 1000

PAGE_SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")


class Browser:
    """
    A browser with one page. Coordinates are CSS pixels of the task area.

    Args:
        process ([`~trl_vlmq.envs.miniwob.process.BrowserProcess`]):
            The running browser.
        scale (`float`):
            Pixels of a screenshot per CSS pixel.

    Raises:
        BrowserError: (every method) the browser died or hangs.
    """

    def __init__(self, process: BrowserProcess, scale: float):
        self.process, self.driver = process, process.driver
        self.mouse = (WIDTH / 2, HEIGHT / 2)
        self._held = False
        try:
            with _lost_if_it_fails():
                self._cdp("Page.addScriptToEvaluateOnNewDocument", source=PAGE_SCRIPT)
                self._cdp(
                    "Emulation.setDeviceMetricsOverride",
                    width=WIDTH, height=HEIGHT, deviceScaleFactor=scale, mobile=False,
                )  # fmt: skip
        except BrowserError:
            self.close()
            raise

    def open(self, page: Path, seed: int) -> dict[str, Any]:
        """Loads the page anew and starts the task. Returns what [`settle`] does."""
        with _lost_if_it_fails():
            if self._held:
                self.press_mouse(False)
            self.mouse = (WIDTH / 2, HEIGHT / 2)
            self.driver.get(page.as_uri())
            self._cdp("Runtime.evaluate", expression="vlmq.emptyClipboard()", userGesture=True)
            self.driver.execute_script("return vlmq.start(arguments[0])", seed)
        return self.settle()

    def settle(self) -> dict[str, Any]:
        """
        Lets the page's own time pass, and reports.

        Returns:
            `left` (the page went elsewhere), `done` and `reward` (the task's own, after its end), or `goal` and
            `elements` (before it).
        """
        with _lost_if_it_fails():
            return self.driver.execute_script(
                "return window.vlmq ? vlmq.settle(arguments[0]) : {left: true}", STEP_MILLISECONDS
            )

    def screenshot(self) -> np.ndarray:
        """uint8 [HEIGHT * scale, WIDTH * scale, 3]."""
        with _lost_if_it_fails():
            png = self._cdp("Page.captureScreenshot", format="png", optimizeForSpeed=True)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).copy()

    def call(self, function: str, *arguments: Any) -> dict[str, Any]:
        """Calls a function of page.js."""
        with _lost_if_it_fails():
            script = f"return window.vlmq ? vlmq.{function}(...arguments) : {{error: 'the page was left'}}"
            return self.driver.execute_script(script, *arguments)

    def move_mouse(self, x: float, y: float) -> None:
        with _lost_if_it_fails():
            builder = ActionBuilder(self.driver, duration=0)
            builder.pointer_action.move_to_location(round(x), round(y))
            builder.perform()
        self.mouse = (x, y)

    def click(self, x: float, y: float, times: int = 1) -> None:
        with _lost_if_it_fails():
            builder = ActionBuilder(self.driver, duration=0)
            builder.pointer_action.move_to_location(round(x), round(y))
            for _ in range(times):
                builder.pointer_action.pointer_down().pointer_up()
            builder.perform()
        self.mouse, self._held = (x, y), False

    def press_mouse(self, down: bool) -> None:
        with _lost_if_it_fails():
            builder = ActionBuilder(self.driver, duration=0)
            pointer = builder.pointer_action.move_to_location(*map(round, self.mouse))
            pointer.pointer_down() if down else pointer.pointer_up()
            builder.perform()
        self._held = down

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Presses at `start`, moves in ten steps, releases at `end`."""
        with _lost_if_it_fails():
            builder = ActionBuilder(self.driver, duration=0)
            pointer = builder.pointer_action
            pointer.move_to_location(*map(round, start)).pointer_down()
            for i in range(1, 11):
                pointer.move_to_location(*(round(a + (b - a) * i / 10) for a, b in zip(start, end, strict=True)))
            pointer.pointer_up()
            builder.perform()
        self.mouse, self._held = end, False

    def press_keys(self, modifiers: list[str], key: str) -> None:
        """Presses a key, as a WebDriver key code or character, while the modifiers are held."""
        with _lost_if_it_fails():
            builder = ActionBuilder(self.driver, duration=0)
            keyboard = builder.key_action
            for modifier in modifiers:
                keyboard.key_down(modifier)
            keyboard.key_down(key).key_up(key)
            for modifier in reversed(modifiers):
                keyboard.key_up(modifier)
            builder.perform()

    def type_keys(self, text: str) -> None:
        """Types character by character."""
        with _lost_if_it_fails():
            builder = ActionBuilder(self.driver, duration=0)
            for character in text:
                builder.key_action.key_down(character).key_up(character)
            builder.perform()

    def insert_text(self, text: str) -> None:
        """Replaces what is selected in the field that has the focus, as one input."""
        with _lost_if_it_fails():
            if text:
                self._cdp("Input.insertText", text=text)
            else:
                self.driver.execute_script("document.execCommand('delete')")

    def close(self) -> None:
        self.process.close()

    def _cdp(self, command: str, **parameters: Any) -> dict[str, Any]:
        return self.driver.execute("executeCdpCommand", {"cmd": command, "params": parameters})["value"]


@contextmanager
def _lost_if_it_fails():
    try:
        yield
    except (WebDriverException, HTTPError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise BrowserError(
            f"the browser died or hangs ({type(error).__name__}: {reason}). This episode is lost; reset() starts another browser."
        ) from error

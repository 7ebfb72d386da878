# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""MiniWoB++ tasks as text-action environments."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from trl_vlmq.envs.miniwob.actions import BrowserActionGrammar, Call, read_call, write_call
from trl_vlmq.envs.miniwob.behaviors import BEHAVIORS
from trl_vlmq.envs.miniwob.browser import HEIGHT, WIDTH, Browser
from trl_vlmq.envs.miniwob.elements import Element, describe_elements
from trl_vlmq.envs.miniwob.execution import ActionError, execute
from trl_vlmq.envs.miniwob.experts import EXPERTS
from trl_vlmq.envs.miniwob.process import (
    BINARIES,
    BINARY_VARIABLE,
    DRIVER_VARIABLE,
    DRIVERS,
    BrowserError,
    BrowserProcess,
    find_executable,
)
from trl_vlmq.envs.miniwob.tasks import check_tasks, page_folder
from trl_vlmq.envs.placeholders import without_placeholders
from trl_vlmq.envs.text_action import Behavior, Outcome, RolloutSettings, TextActionEnv, image_space


REWARDS = ("binary", "raw", "decayed")


class MiniWoBEnv(TextActionEnv):
    """
    A MiniWoB++ task in a real browser: the agent sees the task area and reads its goal, and clicks, types and drags.

    A seed gives the task that `Math.seedrandom(seed)` gives it, on a page that is loaded anew. The page's own clock
    stands still but for one second after each action, so that neither rewards nor time limits nor animations depend on
    how fast anything is; the limit is `max_steps`.

    The terminal observation is that before the last action: the page covers itself when its task ends.

    Args:
        task (`str` or `Iterable[str]`):
            A task (see [`~trl_vlmq.envs.miniwob.tasks.task_names`]), e.g. `"click-test"`. Of several, the seed decides
            which one an episode is; they share the browser.
        elements (`str`, *optional*, defaults to `"list"`):
            How the text tells the elements of the page: `"list"`, `"tree"` (indented, with what holds them together),
            or `None` for agents that see only.
        image_scale (`float`, *optional*, defaults to `1.0`):
            The image is 160 x 210 pixels times this, in steps of 0.1. Places, too, are given in its pixels.
        reward (`str`, *optional*, defaults to `"binary"`):
            `"binary"` is 1 on success and 0 otherwise; `"raw"` the task's own, between -1 and 1, without its decay over
            time; `"decayed"` the same, a positive one times `1 - steps_before / max_steps`.
        max_steps (`int`, *optional*, defaults to `20`):
            Time steps after which an episode is truncated.
        list_actions (`bool`, *optional*, defaults to `True`):
            List the actions in the text.
        chrome_binary, chromedriver (`str`, *optional*):
            Paths of Chromium and its driver. By default those of the environment variables `MINIWOB_CHROME_BINARY` and
            `MINIWOB_CHROMEDRIVER`, or else on the `PATH`.
        browser_timeout (`float`, *optional*, defaults to `60.0`):
            Seconds after which a browser that does not answer counts as hung.
        kwargs:
            `invalid_action`, `invalid_penalty`, `default_action` and `render_mode` of
            [`~trl_vlmq.envs.text_action.TextActionEnv`].

    Attributes:
        task, env_id (`str` or `None`):
            The task of the running episode, and its Gymnasium id, which the rows of logs and evaluations tell; `None`
            before the first.
        goal (`str`):
            What is to be done.
        page (`list[Element]`):
            The elements of the page.

    Raises:
        BrowserError: (`reset`, `step`) the browser died, hangs or does not start. The next `reset` starts another one.
    """

    # Some 500 MiB each. The time for a step lies above that after which a browser counts as hung.
    rollout_settings = RolloutSettings(num_envs=4, step_timeout=90.0, max_lost_share=0.1)

    def __init__(
        self,
        task: str | Iterable[str],
        *,
        elements: str | None = "list",
        image_scale: float = 1.0,
        reward: str = "binary",
        max_steps: int = 20,
        list_actions: bool = True,
        chrome_binary: str | None = None,
        chromedriver: str | None = None,
        browser_timeout: float = 60.0,
        **kwargs,
    ):
        self._browser: Browser | None = None  # first, so that close works whatever raises below
        self.task: str | None = None
        self.tasks = check_tasks(task)
        if elements not in ("list", "tree", None):
            raise ValueError(f"elements={elements!r} must be 'list', 'tree' or None.")
        if reward not in REWARDS:
            raise ValueError(f"reward={reward!r} must be one of {list(REWARDS)}.")
        if not 0.5 <= image_scale <= 8 or abs(10 * image_scale - round(10 * image_scale)) > 1e-9:
            raise ValueError(f"image_scale={image_scale} must be between 0.5 and 8, in steps of 0.1 (whole pixels).")
        if not browser_timeout > 0:
            raise ValueError(f"browser_timeout={browser_timeout} must be a positive number of seconds.")
        if max_steps is None:
            raise ValueError("max_steps=None must be a number: most tasks wait for ever.")
        self.elements, self.image_scale, self.reward = elements, image_scale, reward
        self._start = {
            "chrome_binary": find_executable(chrome_binary, BINARY_VARIABLE, BINARIES),
            "chromedriver": find_executable(chromedriver, DRIVER_VARIABLE, DRIVERS),
            "timeout": browser_timeout,
        }
        grammar = BrowserActionGrammar()
        size = round(HEIGHT * image_scale), round(WIDTH * image_scale)
        super().__init__(grammar, image_space(*size), max_steps=max_steps, **kwargs)
        self._help = f"\n{grammar.describe()}" if list_actions else ""

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any]:
        self.task = self.tasks[int(self.np_random.integers(len(self.tasks)))] if len(self.tasks) > 1 else self.tasks[0]
        page_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._error = None
        try:
            if self._browser is None:
                self._browser = Browser(BrowserProcess(**self._start), self.image_scale)
            self._look(self._browser.open(page_folder() / f"{self.task}.html", page_seed))
        except BrowserError:
            self.close()
            raise
        return {"task": self.task}

    def _observe(self) -> tuple[np.ndarray, str]:
        error = "" if self._error is None else f"\nError: {self._error}."
        told = "" if self.elements is None else f"\n{describe_elements(self.page, self.elements, self.image_scale)}"
        return self._image.copy(), without_placeholders(f"Goal: {self.goal}{error}{told}") + self._help

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._error = self.grammar.problem(action) if isinstance(action, str) else None
        return super().step(action)

    def _execute(self, action: str) -> Outcome:
        return self._act(read_call(action))

    def _idle(self) -> Outcome:
        return self._act(Call("noop", ()))

    def legal_actions(self) -> list[str]:
        actions = [
            Call("noop", ()),
            Call("scroll", (0.0, 50.0)),
            Call("scroll", (0.0, -50.0)),
            Call("keyboard_press", ("Enter",)),
        ]
        for element in self.page:
            if element.group or element.disabled:
                continue
            if element.options:
                actions += [Call("select_option", (element.ref, (label,))) for label, _ in element.options[:30]]
            elif element.value is not None and element.role in ("textbox", "spinbutton") and not element.readonly:
                actions += [Call("fill", (element.ref, word)) for word in self._words()]
            actions.append(Call("click", (element.ref,)))
        return [write_call(action) for action in actions]

    @property
    def env_id(self) -> str | None:
        return None if self.task is None else f"trl_vlmq/MiniWoB-{self.task}-v0"

    def close(self) -> None:
        self._in_episode = False
        browser, self._browser = self._browser, None
        if browser is not None:
            browser.close()

    @property
    def behaviors(self) -> tuple[str, ...]:
        """All of them if every task has an expert."""
        return ("random", *BEHAVIORS) if set(self.tasks) <= set(EXPERTS) else ("random",)

    def _make_behavior(self, name: str, rng: np.random.Generator) -> Behavior:
        return BEHAVIORS[name](self, EXPERTS[self.task], rng)

    def _words(self) -> list[str]:
        """What a random agent writes into fields: words of the goal."""
        words = [word.strip("\"'.,:;!?") for word in self.goal.split()]
        return list(dict.fromkeys(word for word in words if word))[:20]

    def _act(self, call: Call) -> Outcome:
        before = (self.page, self._image)
        try:
            try:
                execute(self._browser, call, self.image_scale)
            except ActionError as error:
                self._error = str(error)
            return self._judge(self._browser.settle(), before)
        except BrowserError:
            self.close()
            raise

    def _judge(self, report: dict[str, Any], before: tuple[list[Element], np.ndarray]) -> Outcome:
        if report["left"] or report.get("done"):
            raw = 0.0 if report["left"] else report["reward"]
            success = raw > 0.999  # a sum of thirds, in places
            reward = float(success) if self.reward == "binary" else raw
            if self.reward == "decayed" and raw > 0:
                reward *= 1 - self.elapsed_steps / self.max_steps
            return Outcome(reward, terminated=True, success=success)
        self._look(report)
        page, image = before
        return Outcome(effective=self.page != page or not np.array_equal(self._image, image))

    def _look(self, report: dict[str, Any]) -> None:
        self.goal = report["goal"]
        self.page = [Element(**element) for element in report["elements"]]
        self._image = self._browser.screenshot()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""One environment under supervision: what raises, hangs or dies is reported and replaced."""

import logging
import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym


logger = logging.getLogger(__name__)

# Making and resetting an environment (a browser, say) may take this many times as long as a step.
_SLOW_FACTOR = 10


class EnvironmentFailureError(RuntimeError):
    """More episodes were lost to failing environments than is tolerated."""


@dataclass
class FaultTolerance:
    """How many episodes may be lost to environments that raise, hang or die.

    Args:
        max_lost (`float`):
            Episodes that may be lost; the next one raises.
        play_again (`bool`, *optional*, defaults to `False`):
            Play them again, from the same seed, instead of leaving them out.
        lost (`list[str]`):
            What happened to each episode that was lost, with its traceback.
    """

    max_lost: float
    play_again: bool = False
    lost: list[str] = field(default_factory=list)

    def add(self, what: str, error: BaseException) -> None:
        """
        Count one more.

        Raises:
            EnvironmentFailureError: if that is one too many.
        """
        trace = "".join(traceback.format_exception(error)).rstrip()
        self.lost.append(f"{what}: {trace}")
        then = "played again in a new environment" if self.play_again else "dropped and its environment restarted"
        logger.warning("%s: %s: %s. The episode is %s.", what, type(error).__name__, error, then)
        if len(self.lost) > self.max_lost:
            raise EnvironmentFailureError(
                f"{len(self.lost)} episodes were lost to failing environments and at most {self.max_lost:g} may be. "
                f"The last one: {self.lost[-1]}"
            ) from error


class EnvWorker:
    """
    An environment whose calls can be given a deadline.

    With a deadline the environment lives in a thread of its own, in which it is made, reset, stepped and closed; steps
    of several workers then run side by side. Python cannot stop a thread that hangs: it is left behind and a new one
    takes its place.

    Args:
        make (`Callable[[], gymnasium.Env]`):
            Makes the environment.
        step_timeout (`float`, *optional*):
            Seconds a step may take; making and resetting may take ten times as long. `None` sets no limit and uses no
            thread.

    Attributes:
        env (`gymnasium.Env`):
            The environment of the moment, for scripted behaviours.
    """

    def __init__(self, make: Callable[[], gym.Env], step_timeout: float | None = None):
        self._make, self.step_timeout = make, step_timeout
        self._calls: queue.SimpleQueue | None = None
        self._step: Future | None = None
        self.env: gym.Env | None = None

    def reset(self, seed: int) -> dict[str, Any]:
        """The first observation of an episode; makes the environment where there is none.

        Raises:
            TimeoutError: if it took too long.
        """
        slow = None if self.step_timeout is None else _SLOW_FACTOR * self.step_timeout
        try:
            if self.env is None:
                self.env = self._call(self._make).result(slow)
            return self._call(lambda: self.env.reset(seed=seed)).result(slow)[0]
        except TimeoutError as error:
            raise TimeoutError(f"making or resetting took more than {slow:g} seconds") from error

    def begin_step(self, text: str) -> None:
        """Start a step; [`end_step`] waits for it."""
        self._step = self._call(lambda: self.env.step(text))

    def end_step(self) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """What the step returned.

        Raises:
            TimeoutError: if it took too long.
        """
        try:
            return self._step.result(self.step_timeout)
        except TimeoutError as error:
            raise TimeoutError(f"the step took more than {self.step_timeout:g} seconds") from error

    def abandon(self) -> None:
        """Close an environment that failed, as far as it lets itself be closed; the next reset makes another one."""
        env, self.env = self.env, None
        if env is not None:
            self._call(lambda: _close_quietly(env))
        self._end_thread()

    def close(self) -> None:
        """Close the environment; one that hangs is left behind."""
        env, self.env = self.env, None
        if env is not None:
            try:
                self._call(env.close).result(None if self.step_timeout is None else _SLOW_FACTOR * self.step_timeout)
            except TimeoutError:
                logger.warning("An environment does not close and is left behind.")
        self._end_thread()

    def _call(self, function: Callable[[], Any]) -> Future:
        future: Future = Future()
        if self.step_timeout is None:
            _run(function, future)
            return future
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._calls,), daemon=True, name="environment").start()
        self._calls.put((function, future))
        return future

    def _end_thread(self) -> None:
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


def _serve(calls: queue.SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        _run(*call)


def _run(function: Callable[[], Any], future: Future) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)


def _close_quietly(env: gym.Env) -> None:
    try:
        env.close()
    except Exception:
        logger.warning("An environment that failed could not be closed either:", exc_info=True)

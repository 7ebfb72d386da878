# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import os
import time
from collections.abc import Callable

import psutil
import pytest

from trl_vlmq.envs.miniwob.tasks import page_folder, task_names


# Set where the browser must be there, as on CI: its absence then fails the tests that need it instead of skipping them.
REQUIRED = "TRL_VLMQ_REQUIRE_BROWSER"


@pytest.fixture(scope="session")
def chromium() -> None:
    """Skips the test where there is no browser."""
    reason = None
    if page_folder() is None:
        reason = "miniwob is not installed: pip install 'trl_vlmq[miniwob]'"
    else:
        from trl_vlmq.envs.miniwob.process import BINARIES, BINARY_VARIABLE, DRIVER_VARIABLE, DRIVERS, find_executable

        try:
            find_executable(None, BINARY_VARIABLE, BINARIES)
            find_executable(None, DRIVER_VARIABLE, DRIVERS)
        except FileNotFoundError as error:
            reason = str(error)
    if reason is not None:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(reason)


@pytest.fixture
def make(chromium):
    """Makes environments that are closed after the test."""
    from trl_vlmq.envs.miniwob.env import MiniWoBEnv

    made = []

    def factory(task="click-test", **kwargs):
        made.append(MiniWoBEnv(task, **kwargs))
        return made[-1]

    yield factory
    for env in made:
        env.close()


@pytest.fixture(scope="module")
def _shared(chromium):
    from trl_vlmq.envs.miniwob.env import MiniWoBEnv

    env = MiniWoBEnv(task_names())
    yield env
    env.close()


@pytest.fixture
def on(_shared) -> Callable:
    """`on(task, seed=0)`: an environment with default options, after a reset; the tests of a file share its browser."""

    def start(task, seed=0):
        _shared.tasks = (task,)
        _shared.reset(seed=seed)
        return _shared

    return start


@pytest.fixture
def ref() -> Callable:
    """`ref(env, role, name)`: the number of an element."""

    def find(env, role, name=None):
        return next(e.ref for e in env.page if e.role == role and name in (None, e.name))

    return find


@pytest.fixture
def processes() -> Callable:
    """`processes(env, name)`: those of its browser with this in their name, `"chromium"` or `"chromedriver"`; parents first."""

    def find(env, name=""):
        guard = psutil.Process(env._browser.process.pid)
        return [process for process in [guard, *guard.children(recursive=True)] if name in process.name()]

    return find


@pytest.fixture
def all_gone() -> Callable:
    """`all_gone(pids)`: whether they end within some seconds. A process that nobody buried counts as ended."""

    def check(pids):
        for _ in range(100):
            if not any(
                psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids
            ):
                return True
            time.sleep(0.1)
        return False

    return check

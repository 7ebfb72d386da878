# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Browsers end with what started them, leave no files, and do not grow."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


pytestmark = pytest.mark.slow

# A Python with a browser of its own. It prints where that is, and waits to be killed.
OWNER = """
import psutil
from trl_vlmq.envs.miniwob.env import MiniWoBEnv

env = MiniWoBEnv("click-test")
env.reset(seed=0)
guard = psutil.Process(env._browser.process.pid)
print(env._browser.process.folder, *[p.pid for p in [guard, *guard.children(recursive=True)]], flush=True)
input()
"""


def test_closing_leaves_no_process_and_no_file(make, processes, all_gone):
    env = make()
    env.reset(seed=0)
    pids, folder = [process.pid for process in processes(env)], env._browser.process.folder
    assert len(pids) > 4 and os.path.isdir(folder)
    env.close()
    assert all_gone(pids) and not os.path.exists(folder)
    env.close()  # twice does no harm
    env.reset(seed=0)  # and it can be used again


def test_a_python_that_is_killed_leaves_no_process_and_no_file(chromium, all_gone):
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        folder, *pids = owner.stdout.readline().split()
        assert len(pids) > 4 and os.path.isdir(folder)
        owner.kill()
    assert all_gone(map(int, pids))
    for _ in range(100):
        if not os.path.exists(folder):
            break
        time.sleep(0.1)
    assert not os.path.exists(folder)


def test_a_browser_that_does_not_start_leaves_nothing_and_says_why(make, tmp_path, monkeypatch):
    from trl_vlmq.envs.miniwob.process import BrowserError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("trl_vlmq.envs.miniwob.process.START_TIMEOUT", 3.0)
    env = make(chrome_binary="/bin/false")
    with pytest.raises(BrowserError, match="/bin/false does not start with .*chromedriver.*chromium-driver"):
        env.reset(seed=0)
    assert list(Path(tmp_path).iterdir()) == []


def test_what_a_driver_says_that_cannot_run_is_told(make, tmp_path, monkeypatch):
    from trl_vlmq.envs.miniwob.process import BrowserError

    driver = tmp_path / "driver"
    driver.write_text("#!/bin/sh\necho 'libnss3.so is missing' >&2\nexit 127\n")
    driver.chmod(0o700)
    monkeypatch.setattr("selenium.webdriver.common.service.sleep", lambda seconds: time.sleep(0.02))
    env = make(chromedriver=str(driver))
    with pytest.raises(BrowserError, match="libnss3.so is missing"):
        env.reset(seed=0)


def test_many_resets_leave_no_page_behind(on, processes):
    """The short form of `python benchmarks/miniwob_cost.py --resets 1000`."""

    def counts(env):
        env._browser._cdp("HeapProfiler.collectGarbage")
        return env._browser._cdp("Memory.getDOMCounters")

    first = counts(on("click-checkboxes", 0))
    for seed in range(30):
        on("click-checkboxes", seed)
    last = counts(on("click-checkboxes", 0))
    # Chromium keeps a few pages for its "back" button.
    assert last["documents"] < first["documents"] + 12
    assert sum(p.memory_full_info().pss for p in processes(on("click-checkboxes", 0)) if p.is_running()) < 700 * 2**20

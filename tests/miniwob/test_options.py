# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which tasks there are, and what is said about wrong options, before any browser starts."""

import subprocess
import sys

import gymnasium
import pytest

import trl_vlmq.envs  # noqa: F401 (registers the environments)


pytest.importorskip("miniwob")
from trl_vlmq.envs.miniwob.env import MiniWoBEnv  # noqa: E402
from trl_vlmq.envs.miniwob.experts import EXPERTS  # noqa: E402
from trl_vlmq.envs.miniwob.process import BINARY_VARIABLE, DRIVER_VARIABLE, find_executable  # noqa: E402
from trl_vlmq.envs.miniwob.tasks import page_folder, task_names  # noqa: E402


@pytest.fixture(autouse=True)
def some_executables(monkeypatch):
    for variable in (BINARY_VARIABLE, DRIVER_VARIABLE):
        monkeypatch.setenv(variable, sys.executable)


def test_every_page_of_miniwob_has_an_id():
    pages = {page.stem for page in page_folder().glob("*.html")}
    ids = {name for name in gymnasium.registry if name.startswith("trl_vlmq/MiniWoB-")}
    assert len(pages) >= 125 and ids == {f"trl_vlmq/MiniWoB-{page}-v0" for page in pages} | {"trl_vlmq/MiniWoB-v0"}
    # Farama's own list, those apart that need a server.
    import miniwob  # noqa: F401

    farama = {name.split("/")[1][:-3] for name in gymnasium.registry if name.startswith("miniwob/")}
    assert {name for name in farama if not name.startswith("flight")} <= set(task_names())


def test_importing_the_environments_imports_no_browser():
    code = "import sys, trl_vlmq.envs; print([m for m in ('selenium', 'miniwob') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"task": "clik-test"}, "did you mean 'click-test'"),
        ({"task": ["click-test", "login"]}, "'login' is not one of the 1[23][0-9] tasks"),
        ({"task": []}, "names no task"),
        ({"elements": "axtree"}, "'list', 'tree' or None"),
        ({"reward": "time"}, r"\['binary', 'raw', 'decayed'\]"),
        ({"image_scale": 0}, "between 0.5 and 8"),
        ({"browser_timeout": 0}, "positive number of seconds"),
        ({"max_steps": None}, "must be a number"),
        ({"max_steps": 0}, "at least 1"),
        ({"invalid_action": "ignore"}, "invalid_action='ignore'"),
        ({"invalid_action": "default", "default_action": "click(me)"}, "click"),
    ],
)
def test_a_wrong_option_says_what_is_right(kwargs, said):
    with pytest.raises(ValueError, match=said):
        MiniWoBEnv(**{"task": "click-test"} | kwargs)


def test_without_a_browser_the_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv(BINARY_VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install chromium chromium-driver"):
        MiniWoBEnv("click-test")
    with pytest.raises(FileNotFoundError, match="'/no/such/browser' is not an executable.*MINIWOB_CHROME_BINARY"):
        MiniWoBEnv("click-test", chrome_binary="/no/such/browser")


def test_an_executable_is_found_by_argument_then_variable_then_path(monkeypatch, tmp_path):
    for name in ("given", "chromedriver"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_executable(str(tmp_path / "given"), DRIVER_VARIABLE, ("chromedriver",)) == str(tmp_path / "given")
    assert find_executable(None, DRIVER_VARIABLE, ("chromedriver",)) == sys.executable
    monkeypatch.delenv(DRIVER_VARIABLE)
    assert find_executable(None, DRIVER_VARIABLE, ("chromedriver",)) == str(tmp_path / "chromedriver")


def test_experts_are_for_tasks_that_there_are_and_are_offered_where_all_tasks_have_one():
    assert set(EXPERTS) <= set(task_names()) and len(EXPERTS) >= 20
    assert MiniWoBEnv("click-test").behaviors == ("random", "expert", "noisy_expert", "wrong_target")
    assert MiniWoBEnv(["click-test", "terminal"]).behaviors == ("random",)

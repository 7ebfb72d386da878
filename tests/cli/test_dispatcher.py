# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq` itself: finding commands, exit codes, what is printed when something goes wrong."""

import importlib
import os
import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest

import trl_vlmq
from trl_vlmq.cli.errors import UserError
from trl_vlmq.cli.main import COMMANDS, main


@pytest.fixture
def raising(monkeypatch):
    """`raising(error)`: the command `collect` raises this."""

    def install(error: BaseException) -> None:
        def command(argv):
            raise error

        real = importlib.import_module
        monkeypatch.setattr(
            importlib,
            "import_module",
            lambda name, *a: SimpleNamespace(main=command) if name == "trl_vlmq.cli.collect" else real(name, *a),
        )

    return install


def test_help_lists_the_commands_without_loading_torch():
    code = "import sys; from trl_vlmq.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(f"  {name} " in done.stdout for name in ("collect", "import", "train", "evaluate"))


def test_every_command_exists():
    for module, _ in COMMANDS.values():
        assert callable(importlib.import_module(f"trl_vlmq.cli.{module}").main)


def test_version(run):
    assert run("--version") == (0, f"trl-vlmq {trl_vlmq.__version__}\n", "")


def test_the_installed_script_is_this_main():
    (script,) = entry_points(group="console_scripts", name="trl-vlmq")
    assert script.load() is main


def test_an_unknown_command_is_a_usage_error_that_lists_the_known_ones(run):
    code, out, err = run("colect")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "did you mean collect?" in err and "import, train, evaluate" in err


def test_no_command_shows_the_help_and_fails(run):
    code, out, _ = run("")
    assert code == 2 and "commands:" in out


def test_a_users_mistake_is_one_line_and_exit_code_1(run, raising):
    raising(UserError("the file is missing"))
    assert run("collect") == (1, "", "error: the file is missing\n")


def test_the_traceback_of_a_mistake_is_shown_on_demand(run, raising, monkeypatch):
    raising(UserError("the file is missing"))
    monkeypatch.setenv("TRL_VLMQ_DEBUG", "1")
    code, _, err = run("collect")
    assert code == 1 and "Traceback" in err and err.endswith("error: the file is missing\n")


def test_a_bug_keeps_its_traceback(run, raising):
    raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        run("collect")


def test_ctrl_c_is_130(run, raising):
    raising(KeyboardInterrupt())
    assert run("collect") == (130, "", "interrupted\n")

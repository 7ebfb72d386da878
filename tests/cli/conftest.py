# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The commands as a user runs them: in a folder of his own, with an environment in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trl_vlmq
from trl_vlmq.cli.main import main


ENV = "hallway:Hallway-v0"


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess]:
    """`command(folder, *argv)`: a real process, in that folder."""

    def run(folder: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess:
        paths = {"PYTHONPATH": str(Path(trl_vlmq.__file__).parents[1])}
        return subprocess.run(
            [sys.executable, "-m", "trl_vlmq.cli", *map(str, argv)],
            cwd=folder,
            env=os.environ | paths | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def user_folder(tmp_path_factory) -> Path:
    """Where the user works: his environment lies there."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(Path(__file__).with_name("hallway.py"), folder)
    return folder


@pytest.fixture(scope="session")
def pipeline(user_folder, command) -> dict[str, subprocess.CompletedProcess]:
    """Collect, train and evaluate, each in a process of its own; leaves e.parquet, agent/ and results.json."""
    steps = {
        "collect": f"collect --env {ENV} --behaviors expert:1,random:2 --episodes 20 --seed 3 --history 1 "
        "--output e.parquet",
        "train": "train --dataset e.parquet --output_dir agent --max_steps 4 --per_device_train_batch_size 4 "
        f"--save_steps 2 --eval_share 0.2 --logging_steps 1 --env {ENV} --curve_episodes 3 --curve_steps 2",
        "evaluate": f"evaluate --env {ENV} --model agent --behavior random expert --episodes 12 --temperature 1 "
        "--max_new_tokens 3 --output results.json",
    }
    results = {}
    for name, line in steps.items():
        results[name] = command(user_folder, *line.split())
        assert results[name].returncode == 0, results[name].stderr
    return results


@pytest.fixture
def run(user_folder, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`run(line)`: a command in this process, in the user's folder -> exit code, stdout, stderr."""
    monkeypatch.chdir(user_folder)
    monkeypatch.syspath_prepend(user_folder)

    def call(line: str, *more: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([*line.split(), *map(str, more)])
        except SystemExit as exit:
            code = exit.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call

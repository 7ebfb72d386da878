# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Two processes train what one trains, save all of it and go on from it: under every launcher that is documented."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import trl_vlmq
from trl_vlmq import save_episodes


ROOT = Path(trl_vlmq.__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture
def data(episodes, tmp_path) -> Path:
    path = tmp_path / "episodes.parquet"
    save_episodes(episodes, path)
    return path


@pytest.fixture
def untrained(make_trainer, tmp_path):
    """`untrained("adapter" | "model")` -> folder of what every training starts from: how a launcher draws first weights is its own."""

    def save(what: str) -> Path:
        make_trainer(lora=what == "adapter").save_model(str(tmp_path / what))
        return tmp_path / what

    return functools.cache(save)


@pytest.fixture
def run(untrained, data, tmp_path):
    """`run(launcher, what, *argv)` -> output folder; a launcher is the name of a configuration, or None for one process."""

    def start(launcher: str | None, what: str, *argv: str) -> Path:
        folder = tmp_path / "-".join(["run", launcher or "alone", *(["resumed"] if argv else [])])
        config = ROOT / "examples" / "accelerate_configs" / f"{launcher}.yaml"
        command = ["-m", "accelerate.commands.launch", "--config_file", str(config)] if launcher else []
        script = str(Path(__file__).with_name("launched.py"))
        done = subprocess.run(
            [sys.executable, *command, script, "--model", str(untrained(what)), "--episodes", str(data), "--output_dir", str(folder), *argv],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-6000:]
        return folder

    return start


def steps(folder: Path) -> list[dict]:
    """What was logged at each step, without clocks."""
    entries = [entry for entry in json.loads((folder / "log.json").read_text()) if "loss" in entry]
    return [{k: v for k, v in entry.items() if "per_second" not in k} for entry in entries]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the adapter or the model, as it loads (ZeRO-3 lets transformers write other names), and of the critic."""
    adapter = folder / "adapter_model.safetensors"
    agent = (
        load_file(adapter) if adapter.is_file() else AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    )
    return agent | {f"critic/{name}": tensor for name, tensor in load_file(folder / "critic.safetensors").items()}


def assert_same_training(one: Path, other: Path, tolerance: float) -> None:
    for a, b in zip(steps(one), steps(other), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance), (a["step"], name)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    ("launcher", "what"), [("ddp", "adapter"), ("zero2", "adapter"), ("zero3", "adapter"), ("zero3", "model")]
)
def test_two_processes_train_as_one_and_go_on_from_what_they_saved(run, launcher, what):
    together = run(launcher, what)
    assert len(steps(together)) == 6
    assert_same_training(together, run(None, what), tolerance=2e-3)
    before, after = weights(together / "checkpoint-3"), weights(together)
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert weight.numel() and weight.shape == before[name].shape
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved >= {name for name in after if "lora_" in name or name.startswith("critic/")}

    resumed = run(launcher, what, "--resume", str(together / "checkpoint-3"))
    assert_same_training(resumed, together, tolerance=1e-6)

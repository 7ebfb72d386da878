# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Each family trains in two processes as in one, under every launcher that is documented."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import LAUNCHED_FAMILIES

import trl_vlmq


ROOT = Path(trl_vlmq.__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def trained(tiny_llm, tmp_path_factory) -> Callable[[str | None], Path]:
    """`trained(launcher)`: folder in which every family was trained; a launcher is the name of a configuration, or None."""
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    tiny_llm[1].save_pretrained(tokenizer)

    @cache  # of what failed as well
    def run(launcher: str | None) -> tuple[subprocess.CompletedProcess, Path]:
        folder = tmp_path_factory.mktemp("families")
        config = ROOT / "examples" / "accelerate_configs" / f"{launcher}.yaml"
        command = ["-m", "accelerate.commands.launch", "--config_file", str(config)] if launcher else []
        script = str(Path(__file__).with_name("families_launched.py"))
        done = subprocess.run(
            [sys.executable, *command, script, "--tokenizer", str(tokenizer), "--output_dir", str(folder)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        return done, folder

    def folder(launcher: str | None) -> Path:
        done, folder = run(launcher)
        assert done.returncode == 0, done.stderr[-6000:]
        return folder

    return folder


def steps(folder: Path, name: str) -> list[dict]:
    """What a family logged at each step, without clocks."""
    log = json.loads((folder / "report.json").read_text())[name]["log"]
    return [{k: v for k, v in entry.items() if "per_second" not in k} for entry in log if "loss" in entry]


@pytest.mark.parametrize("launcher", ["ddp", "zero2", "zero3", "fsdp2"])
@pytest.mark.parametrize("name", LAUNCHED_FAMILIES)
def test_each_family_trains_in_two_processes_as_in_one(trained, name, launcher):
    alone, together = steps(trained(None), name), steps(trained(launcher), name)
    assert len(alone) == 2
    for a, b in zip(alone, together, strict=True):
        assert a.keys() == b.keys()
        for metric in a:
            assert a[metric] == pytest.approx(b[metric], rel=2e-3, abs=2e-3), (a["step"], metric)
    for file in ("adapter_model.safetensors", "critic.safetensors"):
        one, two = (load_file(trained(way) / name / file) for way in (None, launcher))
        assert one.keys() == two.keys()
        for tensor in one:
            torch.testing.assert_close(two[tensor], one[tensor], rtol=2e-3, atol=2e-3, msg=tensor)


@pytest.mark.parametrize("name", LAUNCHED_FAMILIES)
def test_fsdp2_gathers_each_family_layer_by_layer(trained, name):
    units = json.loads((trained("fsdp2") / "report.json").read_text())[name]["units"]
    assert units[0] == "FSDPVLMActorCritic"
    assert sum("DecoderLayer" in unit for unit in units) == 2

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Two processes train what one trains, save all of it and go on from it: under every launcher that is documented."""

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
from collections import Counter
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
        make_trainer(lora=what == "adapter", critic_hidden_size=512).save_model(str(tmp_path / what))
        return tmp_path / what

    return functools.cache(save)


@pytest.fixture
def run(untrained, data, tmp_path):
    """`run(launcher, what, *argv)` -> output folder; a launcher is the name of a configuration, or None for one process."""

    def start(launcher: str | None, what: str, *argv: str) -> Path:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        config = ROOT / "examples" / "accelerate_configs" / f"{launcher}.yaml"
        command = ["-m", "accelerate.commands.launch", "--config_file", str(config)] if launcher else []
        script = str(Path(__file__).with_name("launched.py"))
        done = subprocess.run(
            [sys.executable, *command, script, "--model", str(untrained(what)), "--episodes", str(data), "--output_dir", str(folder), *argv],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-6000:]
        return folder

    return start


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


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


def assert_same_log(one: Path, other: Path, tolerance: float) -> None:
    for a, b in zip(steps(one), steps(other), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance), (a["step"], name)


def assert_same_training(one: Path, other: Path, tolerance: float) -> None:
    assert_same_log(one, other, tolerance)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=name)


def assert_each_holds_its_part(folder: Path) -> None:
    """Of every weight, frozen ones, critic and target critic among them, two processes hold a half each."""
    held = [json.loads((folder / f"held-{rank}.json").read_text()) for rank in range(2)]
    layers = {"FSDPLlamaDecoderLayer": 2, "FSDPCLIPEncoderLayer": 2, "FSDPCLIPVisionEmbeddings": 1}
    assert held[0]["units"] == held[1]["units"]
    assert Counter(held[0]["units"]) == {"FSDPVLMActorCritic": 1} | layers  # gathered layer by layer
    one, other = (process["weights"] for process in held)
    assert {"critic.down_weight", "target_critic.down_weight"} <= set(one) == set(other)
    for name, (part, whole) in one.items():
        rest, _ = other[name]
        assert part + rest == whole, name
        assert 0 < rest <= part < whole, name


@pytest.mark.parametrize(
    ("launcher", "what"),
    [
        ("ddp", "adapter"),
        ("zero2", "adapter"),
        ("zero3", "adapter"),
        ("zero3", "model"),
        ("fsdp2", "adapter"),
        ("fsdp2", "model"),
    ],
)
def test_two_processes_train_as_one_and_go_on_from_what_they_saved(run, launcher, what):
    together = run(launcher, what)
    assert len(steps(together)) == 6
    assert_same_training(together, run(None, what), tolerance=2e-3)
    before, after = weights(together / "checkpoint-3"), weights(together)
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert weight.numel() and weight.shape == before[name].shape
    for rank in range(2):  # each step reads the head for its turns, and mostly for what follows them
        assert json.loads((together / f"held-{rank}.json").read_text())["streamed"] >= 6
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved >= {name for name in after if "lora_" in name or name.startswith("critic/")}

    if launcher == "fsdp2":
        assert_each_holds_its_part(together)

    resumed = run(launcher, what, "--resume", str(together / "checkpoint-3"))
    assert_same_training(resumed, together, tolerance=1e-6)


@pytest.mark.parametrize("launcher", ["zero2", "zero3", "fsdp2"])
def test_the_target_critic_moves_in_bfloat16(run, untrained, launcher):
    before = load_file(untrained("adapter") / "critic.safetensors")
    together = run(launcher, "adapter", "--bf16")
    after = load_file(together / "critic.safetensors")
    targets = [name for name in after if name.startswith("target.")]
    assert len(targets) == 4
    for name in targets:
        assert after[name].dtype == torch.float32
        assert not torch.equal(after[name], before[name])
        # An average that moves by a tenth of a difference would stall in bfloat16.
        assert not torch.equal(after[name], after[name].bfloat16().float())
    if launcher == "fsdp2":  # which computes under autocast, as one process does
        assert_same_log(together, run(None, "adapter", "--bf16"), tolerance=1e-2)


def test_fsdp2_evaluates_on_the_way_and_loads_the_best_checkpoint_at_the_end(run):
    folder = run("fsdp2", "adapter", "--keep_best")
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    evaluated = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert len(evaluated) == 2 and evaluated[0] < evaluated[1]
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-3"
    ours, first, last = (weights(folder / path) for path in (".", "checkpoint-3", "checkpoint-6"))
    assert ours.keys() == first.keys() and all(torch.equal(ours[name], first[name]) for name in ours)
    assert any(not torch.equal(ours[name], last[name]) for name in ours)


# gloo's threads can take the interpreter only where the main thread waits, so that a short moment becomes a long one.
ENDING = """
import os, sys, torch, torch.distributed as dist
from accelerate import PartialState
from trl_vlmq.launch import end_processes

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for attempt in range(4):
    children = []
    for rank in range(2):
        if child := os.fork():
            children.append(child)
            continue
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"MASTER_PORT": sys.argv[1 + attempt]}
        PartialState(cpu=True)
        held = dist.distributed_c10d._get_default_group()  # as DeepSpeed holds it: destroyed groups keep their threads
        sys.setswitchinterval(100)
        for _ in range(20):
            part, whole = torch.ones(1000), torch.zeros(2000)
            dist.all_gather_into_tensor(whole, part)
            del part, whole
        end_processes()
        sys.exit(0)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0], codes
"""


def test_processes_whose_work_is_done_do_not_abort_while_they_leave():
    done = subprocess.run(
        [sys.executable, "-c", ENDING, *map(str, free_ports(4))],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""FSDP2: what is refused, and what processes begin with; whole trainings are in test_launchers.py."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

import trl_vlmq
from trl_vlmq.critic import TokenCritic
from trl_vlmq.launch import refuse_empty_saves


ROOT = Path(trl_vlmq.__file__).parents[1]


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"fsdp_version": 1}, "set `fsdp_version: 2`"),
        ({"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT"}, "Set `fsdp_state_dict_type: FULL_STATE_DICT`"),
    ],
)
def test_fsdp_that_would_not_save_the_agent_is_refused(settings, cure):
    plugin = FullyShardedDataParallelPlugin(**settings)
    with pytest.raises(ValueError, match=cure):
        refuse_empty_saves(SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=None, fsdp_plugin=plugin)))


def test_fsdp2_that_gathers_what_it_saves_is_not():
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="FULL_STATE_DICT")
    refuse_empty_saves(SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=None, fsdp_plugin=plugin)))


def test_fsdp_on_a_cpu_says_that_it_is_ddp(make_trainer, monkeypatch, caplog):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    make_trainer()
    assert "on CPUs accelerate trains with DDP" in caplog.text


def test_zero_3_gathers_language_head_and_critic_for_what_reads_them(make_trainer, monkeypatch):
    """Whoever made the model, the trainer's or one from before ZeRO-3 was asked for."""
    gathered = []
    monkeypatch.setattr("trl_vlmq.sharding.is_deepspeed_zero3_enabled", lambda: True)
    register = "deepspeed.zero.register_external_parameter"
    monkeypatch.setattr(register, lambda reader, weight: gathered.append((reader, weight)))
    model = make_trainer().model
    readers, weights = zip(*gathered, strict=True)
    assert set(readers) == {model.head_reader}
    read = [model.model.get_output_embeddings().weight, *model.critic.parameters()]
    assert {id(weight) for weight in weights} == {id(weight) for weight in read}


# Each process draws a critic of its own, of three heads with odd sizes, and reports what it then holds.
DRAWN_APART = """
import sys
import torch
from accelerate import Accelerator, PartialState
from fsdp_on_cpu import shard_on_cpu
from safetensors.torch import save_file
from trl_vlmq.critic import TargetCritic, TokenCritic
from trl_vlmq.launch import end_processes
from trl_vlmq.sharding import prepare_for_fsdp, reshard

rank = PartialState(cpu=True).process_index
shard_on_cpu()
torch.manual_seed(rank)
model = torch.nn.Module()
model.critic = TokenCritic(state_size=5, vocab_size=7, hidden_size=3, num_critics=3)
model.target_critic = TargetCritic(model.critic)
model.forward = lambda states: (model.critic(states) - model.target_critic(states) - 1).square().sum()
accelerator = Accelerator()
prepare_for_fsdp(model, accelerator)
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.critic.parameters(), lr=0.0))
loss = model(torch.ones(2, 5))
assert loss.item() == 2 * 3 * 7, loss  # critic and target agree in every value
accelerator.backward(loss)
state = accelerator.get_state_dict(model)
if rank == 0:
    save_file(state, sys.argv[1])
end_processes()
"""


@pytest.mark.slow
def test_processes_that_drew_different_weights_begin_with_those_of_the_first(tmp_path):
    script = tmp_path / "drawn_apart.py"
    script.write_text(DRAWN_APART)
    launch = ["-m", "accelerate.commands.launch", "--config_file", "examples/accelerate_configs/fsdp2.yaml"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path / "state.safetensors")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    state = load_file(tmp_path / "state.safetensors")
    torch.manual_seed(0)
    first = TokenCritic(state_size=5, vocab_size=7, hidden_size=3, num_critics=3).state_dict()
    assert state.keys() == {f"{part}.{name}" for part in ("critic", "target_critic") for name in first}
    for name, tensor in first.items():
        assert torch.equal(state[f"critic.{name}"], tensor), name
        assert torch.equal(state[f"target_critic.{name}"], tensor), name

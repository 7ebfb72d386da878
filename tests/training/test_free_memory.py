# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A long run on a CPU does not grow by what its steps have let go of."""

import platform
import subprocess
import sys

import pytest

from trl_vlmq.hardware import ReturnFreeMemory


# Small tensors that stay between large ones that go, as pictures' features between those of a step.
CODE = """
import torch
from transformers import TrainerState
from trl_vlmq.hardware import ReturnFreeMemory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

large, small = [], []
for _ in range(4000):
    large.append(torch.ones(25_000))  # 100 kB
    small.append(torch.ones(100))
before = resident()
large.clear()
gone = resident()
callback, state = ReturnFreeMemory(), TrainerState()
state.global_step = 99
callback.on_step_end(None, state, None)
early = resident()
state.global_step = 100
callback.on_step_end(None, state, None)
print(before, gone, early, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep other books")
def test_what_steps_let_go_of_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, gone, early, after = map(float, done.stdout.split())
    assert min(before, gone, early) - after > 300  # MiB of 380; without the call they stay


def test_a_trainer_on_a_cpu_does_it(make_trainer):
    trainer = make_trainer()
    assert any(isinstance(callback, ReturnFreeMemory) for callback in trainer.callback_handler.callbacks)

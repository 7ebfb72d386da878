# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What suits a machine without a GPU."""

import ctypes
import os

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainingArguments


def use_all_cores() -> None:
    """`accelerate launch` gives a process one thread; a single process on a CPU may use every core."""
    launched = "ACCELERATE_USE_CPU" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and not torch.cuda.is_available() and PartialState().num_processes == 1:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def choose_cpu_precision(args: TrainingArguments) -> None:
    """Where there is no GPU and `bf16` is left open: bfloat16 if the processor multiplies it by itself.

    There it is twice as fast as float32, elsewhere slower. To be called before `TrainingArguments.__post_init__`.
    """
    if args.bf16 is None and not torch.cuda.is_available():
        args.use_cpu = True
        args.bf16 = bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def default_attention() -> str | None:
    """Attention implementation to load a model with: eager is faster on a CPU, elsewhere the model decides."""
    return None if torch.cuda.is_available() else "eager"


class ReturnFreeMemory(TrainerCallback):
    """
    Gives the system back, every hundred steps, what the C library keeps of tensors that are gone.

    Small tensors that stay (pictures' features, prompts) lie between large ones that go with their step, and on a CPU the
    process would otherwise grow by gigabytes in a few hundred steps. Where the library is not glibc nothing happens.
    """

    def __init__(self):
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None

    def on_step_end(self, args, state, control, **kwargs):
        if self._trim is not None and state.global_step % 100 == 0:
            self._trim(0)

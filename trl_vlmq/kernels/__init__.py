# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Triton kernels, for GPUs: imported when one is needed, and never without triton."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType

import torch

from ..critic import CriticHead


@dataclass(frozen=True)
class RowsWithGradient:
    """The states whose values have a gradient, and what it is computed from: [rows, ...] each.

    Args:
        states (`torch.Tensor`): [rows, d].
        actions (`torch.Tensor`): tokens, int64.
        log_sum (`torch.Tensor`): logarithm of the softmax's denominator.
        grad_logp (`torch.Tensor`): gradient by log pi(a|s).
        grad_v (`torch.Tensor`, *optional*): gradient by V.
        v (`torch.Tensor`, *optional*): V, where `grad_v` is given.
        critic ([`CriticHead`], *optional*): that of V, where `grad_v` is given.
    """

    states: torch.Tensor
    actions: torch.Tensor
    log_sum: torch.Tensor
    grad_logp: torch.Tensor
    grad_v: torch.Tensor | None = None
    v: torch.Tensor | None = None
    critic: CriticHead | None = None


def head_kernels(states: torch.Tensor) -> ModuleType | None:
    """The kernels of the streamed head for these states, or `None` where torch does the work."""
    suits = states.device.type == "cuda" and states.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return importlib.import_module(f"{__name__}.head") if suits and find_spec("triton") else None

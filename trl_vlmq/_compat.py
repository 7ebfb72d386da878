# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The few helpers of other libraries that are not public. Each has a test that fails when it moves."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch import nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.models.utils import add_hooks, remove_hooks


@contextmanager
def gathered_for_generation(wrapped: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """
    All weights on every process while it generates, under ZeRO-3; nothing to do otherwise.

    With the weights gathered a process needs no other one to generate: processes may call it as often as they like.
    TRL does the same for its online trainers, but asks for attributes that a wrapper like ours does not have.

    Args:
        wrapped (`torch.nn.Module`):
            `trainer.model_wrapped`.
        accelerator ([`~accelerate.Accelerator`]):
            The trainer's.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None or plugin.zero_stage != 3:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(wrapped.parameters())):
        remove_hooks(wrapped)
        try:
            yield
        finally:
            add_hooks(wrapped)


@contextmanager
def gathered_weight(weight: nn.Parameter, modify: bool = False) -> Iterator[None]:
    """
    A whole weight on every process, under ZeRO-3; nothing to do otherwise.

    Args:
        weight (`torch.nn.Parameter`):
            The weight.
        modify (`bool`, *optional*, defaults to `False`):
            Whether what the first process writes into it is kept, by all.
    """
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight], modifier_rank=0 if modify else None):
        yield


def keep_4bit_layers_trainable(model: nn.Module) -> None:
    """
    Keep bitsandbytes from repacking 4-bit weights of a model on the CPU.

    On processors with AVX512-BF16, bitsandbytes 0.50 packs a 4-bit layer for inference as soon as it runs in evaluation
    mode. From then on its gradients are wrong, and `state_dict()` spoils its outputs, both without a word.

    Args:
        model (`torch.nn.Module`):
            The model.

    Raises:
        ValueError: if it has happened already.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        module.support_avx512bf16_for_cpu = False
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise ValueError(
                f"The 4-bit layer {name} has been used for inference on the CPU, after which bitsandbytes computes wrong "
                "gradients. Load the model again, and pass it on before you run it."
            )

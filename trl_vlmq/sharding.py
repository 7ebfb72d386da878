# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
Weights of which every process holds a part: ZeRO-3 and FSDP2.

Of both a few helpers are not public (TRL's of ZeRO-3's hooks, PyTorch's state of an FSDP2 module). The tests of two processes
fail when they move.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer import OPTIMIZER_NAME_BIN, SCHEDULER_NAME
from trl.models.utils import add_hooks, remove_hooks


def weights_are_sharded() -> bool:
    """
    Whether this run is launched to shard weights, under ZeRO-3 or FSDP.

    Processes then run the same forwards, since each gathers the weights that the others hold.
    """
    return is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def gather_for(reader: nn.Module, weights: Iterable[nn.Parameter]) -> None:
    """
    Let ZeRO-3 gather weights of other modules whenever `reader` runs, forward and backward; nothing to do otherwise.

    Nor under FSDP2, where weights that belong to no layer are gathered while the whole model runs.

    Args:
        reader (`torch.nn.Module`):
            The module that reads them.
        weights (`Iterable[torch.nn.Parameter]`):
            What it reads.
    """
    if is_deepspeed_zero3_enabled():
        import deepspeed

        for weight in weights:
            deepspeed.zero.register_external_parameter(reader, weight)


@torch.no_grad()
def prepare_for_fsdp(model: nn.Module, accelerator: Accelerator) -> None:
    """
    What a [`VLMActorCritic`] needs before accelerate shards it with FSDP2; nothing to do without it.

    - Its target critic is held in parameters, which are sharded.
    - All processes begin with the first one's trained weights and target critic: FSDP2 puts a tensor together from every
      process's own, and processes may have drawn different ones.
    - Weights are gathered as they are and computed with under autocast, as under DDP. Accelerate's policy would round what
      goes into the model and comes out of it to bfloat16, rewards and values included.

    Args:
        model ([`VLMActorCritic`]):
            The model, not sharded yet.
        accelerator ([`~accelerate.Accelerator`]):
            The trainer's.
    """
    if not accelerator.is_fsdp2:
        return
    if model.target_critic is not None:
        model.target_critic.become_shardable()
    targets = [] if model.target_critic is None else model.target_critic.parameters()
    for parameter in [*(p for p in model.parameters() if p.requires_grad), *targets]:
        first = parameter.to(accelerator.device)
        dist.broadcast(first, src=0)
        parameter.copy_(first)
    accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()


def load_fsdp_optimizer(folder: str | Path, model: nn.Module, optimizer, scheduler) -> None:
    """
    Optimiser and scheduler as a checkpoint under FSDP2 holds them; as they are, if it holds none.

    The Trainer's own loading refuses a checkpoint with trained weights that never had a gradient, and therefore no state:
    the last layers of a vision tower whose features are taken before them.

    Args:
        folder (`str` or `Path`):
            The checkpoint.
        model (`torch.nn.Module`):
            The sharded model.
        optimizer (`torch.optim.Optimizer`):
            Its optimiser.
        scheduler (`torch.optim.lr_scheduler.LRScheduler`):
            Its scheduler.
    """
    if not Path(folder, OPTIMIZER_NAME_BIN).is_file():
        return
    state = torch.load(Path(folder, OPTIMIZER_NAME_BIN), weights_only=True) if dist.get_rank() == 0 else {}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
    set_optimizer_state_dict(model, optimizer, state, options=options)
    scheduler.load_state_dict(torch.load(Path(folder, SCHEDULER_NAME), weights_only=True))


def gathered_for_generation(wrapped: nn.Module, accelerator: Accelerator) -> AbstractContextManager[None]:
    """
    All weights on every process while it generates, under ZeRO-3 and FSDP2; nothing to do otherwise.

    With the weights gathered a process needs no other one to generate: processes may call it as often as they like.
    TRL does the same for its online trainers, but asks for attributes that a wrapper like ours does not have.

    Args:
        wrapped (`torch.nn.Module`):
            `trainer.model_wrapped`.
        accelerator ([`~accelerate.Accelerator`]):
            The trainer's.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        return _gathered_from_zero_3(wrapped)
    return _gathered_from_fsdp(wrapped) if isinstance(wrapped, FSDPModule) else nullcontext()


@contextmanager
def _gathered_from_zero_3(wrapped: nn.Module) -> Iterator[None]:
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(wrapped.parameters())):
        remove_hooks(wrapped)
        try:
            yield
        finally:
            add_hooks(wrapped)


@contextmanager
def _gathered_from_fsdp(root: FSDPModule) -> Iterator[None]:
    # FSDP2 takes the first module that runs for the root of all; a layer must not be it.
    root._get_fsdp_state()._lazy_init()
    modules = [module for module in root.modules() if isinstance(module, FSDPModule)]
    groups = [group for module in modules for group in module._get_fsdp_state()._fsdp_param_groups]
    reshards = [group.post_forward_mesh_info for group in groups]
    root.set_reshard_after_forward(False)  # a forward that keeps its weights has nothing to gather the next time
    for module in modules:
        module.unshard()
    try:
        yield
    finally:
        for group, info in zip(groups, reshards, strict=True):
            group.post_forward_mesh_info = info
        reshard(root)


@contextmanager
def gathered_weight(*weights: nn.Parameter, modify: bool = False) -> Iterator[None]:
    """
    Whole weights on every process, under ZeRO-3; nothing to do otherwise.

    Nor under FSDP2: its weights compute element by element where they are, as `DTensor`s.

    Args:
        weights (`torch.nn.Parameter`):
            The weights.
        modify (`bool`, *optional*, defaults to `False`):
            Whether what the first process writes into it is kept, by all.
    """
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(weights), modifier_rank=0 if modify else None):
        yield


def reshard(model: nn.Module) -> None:
    """Let a model's parameters be the parts that this process holds, under FSDP2: what is written elsewhere is lost."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with the parts that other processes hold under FSDP2; all of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like_weight(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A whole tensor, the same on all processes -> where `weight` is, sharded as it is."""
    if isinstance(weight, DTensor):
        return distribute_tensor(tensor.to(weight.device), weight.device_mesh, weight.placements)
    return tensor.to(weight.device)

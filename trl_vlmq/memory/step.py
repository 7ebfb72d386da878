# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What one training step of a model holds: built and run as the trainer does, on tensors without storage."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._pytree import tree_leaves
from transformers import Trainer
from transformers.training_args import OptimizerNames
from trl import get_peft_config

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.averaging import WeightAverage
from trl_vlmq.backbones import Backbone, EncodedPrompt, LanguageHead, make_backbone
from trl_vlmq.backbones.loading import model_class
from trl_vlmq.config import AFSFTConfig
from trl_vlmq.model_arguments import ModelArguments

from .quantized import quantize_in_place
from .shapes import load_shape
from .tracing import MemoryTrace


@dataclass(frozen=True)
class TurnShape:
    """
    How large a turn is.

    Args:
        prompt_tokens (`int`, *optional*, defaults to `1024`):
            Tokens of a prompt, those of its images included.
        action_tokens (`int`, *optional*, defaults to `16`):
            Tokens of an action, the stop token included.
        images (`int`, *optional*, defaults to `1`):
            Images of a prompt.
        image_size (`int`, *optional*, defaults to `224`):
            Pixels per side of an image.
    """

    prompt_tokens: int = 1024
    action_tokens: int = 16
    images: int = 1
    image_size: int = 224


@dataclass(frozen=True)
class StepMemory:
    """
    One training step, in bytes.

    Args:
        held (`dict[str, int]`):
            What stays from step to step.
        peak (`dict[str, int]`):
            All that is held at the highest moment of the step.
        highest (`dict[str, int]`):
            The most of "activations" and of "logits and Q", each whenever that is.
        weights (`dict[str, tuple[int, int]]`):
            Number of values and bytes of "base weights", "adapter" and "critic".
        trained (`dict[str, int]`):
            How many of each are trained.
        gradients (`int`):
            Bytes of all gradients.
        unit (`int`):
            Number of values of the largest layer of the decoder.
        small (`int`):
            Bytes of the weights of at most 100,000 values.
        largest (`int`):
            Number of values of the largest weight.
        outside (`int`):
            Number of values outside of the layers of the decoder.
    """

    held: dict[str, int]
    peak: dict[str, int]
    highest: dict[str, int]
    weights: dict[str, tuple[int, int]]
    trained: dict[str, int]
    gradients: int
    unit: int
    small: int
    largest: int
    outside: int


# ---- Building ----


def build_without_storage(model: ModelArguments, args: AFSFTConfig) -> VLMActorCritic:
    """What [`AFSFTTrainer`] would train, on the `meta` device.

    Args:
        model ([`ModelArguments`]):
            Base model, or a preset, and adapter.
        args ([`AFSFTConfig`]):
            Critic and objective.
    """
    config, processor = load_shape(model.model_name_or_path or "tiny-babyai")
    dtype = model.dtype if model.dtype not in (None, "auto") else config.dtype or torch.float32
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    with torch.device("meta"):
        base = model_class(config).from_config(
            config, dtype=dtype, attn_implementation=model.attn_implementation or "sdpa"
        )
        quantization = model.quantization()
        if quantization is not None:
            quantize_in_place(base, quantization)
        backbone = make_backbone(base, processor)
        peft_config = get_peft_config(model)
        if peft_config is not None:
            VLMActorCritic.add_adapter(backbone, peft_config)
        actor_critic = VLMActorCritic(backbone, args.objective(), **args.critic_kwargs())
    backbone._constant_features = False  # image features are remembered on CPUs only
    backbone._head, backbone._head_tried = LanguageHead(base.get_output_embeddings().weight), True  # as most heads are
    if args.activation_checkpointing:
        kwargs = args.activation_checkpointing_kwargs
        actor_critic.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    return actor_critic


def make_batch(backbone: Backbone, args: AFSFTConfig, turn: TurnShape) -> dict:
    """A batch as [`TokenTDCollator`] makes it, of turns that are all alike.

    One action lacks a token, so that there is padding to mask; every segment is followed by an observation.
    """
    segments = args.per_device_train_batch_size
    turns, n = segments * args.segment_length, turn.action_tokens
    prompt = _prompt(backbone, turn)
    token = int(backbone.stop_token_id)
    lengths = [n] * (turns - 1) + [max(1, n - 1)]
    inputs = backbone.collate([prompt] * turns, [[token] * length for length in lengths])
    labels = torch.full((turns, max(lengths)), token)
    labels[-1, lengths[-1] :] = -100
    next_index = torch.arange(1, turns + 1)
    next_index[args.segment_length - 1 :: args.segment_length] = turns + torch.arange(segments)
    batch = {
        "labels": labels,
        "inputs": inputs,
        "reward": torch.zeros(turns),
        "terminated": torch.zeros(turns, dtype=torch.bool),
        "next_index": next_index,
        "row": torch.arange(turns),
        "turn_weight": torch.ones(turns),
        "role": torch.zeros(labels.shape, dtype=torch.long),
    }
    if args.objective().needs_critic:
        batch["bootstrap_inputs"] = backbone.collate([prompt] * segments)
    return batch


def _prompt(backbone: Backbone, turn: TurnShape) -> EncodedPrompt:
    """A prompt of `turn.prompt_tokens` tokens: as short as the images allow, and then lengthened."""
    content = [{"type": "image"}] * turn.images + [{"type": "text", "text": "a"}]
    images = [Image.new("RGB", (turn.image_size, turn.image_size))] * turn.images
    prompt = backbone.encode([{"role": "user", "content": content}], images)
    missing = turn.prompt_tokens - len(prompt)
    if missing < 0:
        raise ValueError(
            f"prompt_tokens={turn.prompt_tokens} is too short: {turn.images} image(s) of {turn.image_size} pixels and the "
            f"chat template are {len(prompt)} tokens already. Raise prompt_tokens, or lower images or image_size."
        )
    tokens = {name: torch.cat([values, values[-1:].expand(missing)]) for name, values in prompt.tokens.items()}
    prompt = EncodedPrompt(tokens, prompt.vision)
    backbone.check_length(prompt, turn.action_tokens, "a turn of this shape")
    return prompt


# ---- Running ----


def trace_step(model: ModelArguments, args: AFSFTConfig, turn: TurnShape, *, sharded: bool = False) -> StepMemory:
    """Run a training step and count what a later one holds at its highest moment.

    Args:
        model ([`ModelArguments`]):
            Base model, or a preset, and adapter.
        args ([`AFSFTConfig`]):
            Training arguments.
        turn ([`TurnShape`]):
            Sizes of a turn.
        sharded (`bool`, *optional*, defaults to `False`):
            Run as under DeepSpeed: weights in the precision of training, without autocast, and every gradient handed on
            as soon as it is there. The optimiser, which then belongs to the launcher, is left out.

    Raises:
        ValueError: if the prompt does not hold its images, or not fit into the context.
    """
    trace = MemoryTrace()
    actor_critic = build_without_storage(model, args)
    if sharded and _low_precision(args) is not None:
        actor_critic.to(_low_precision(args))
    trace.fake_weights(actor_critic)
    actor_critic.streamed_head &= not sharded  # an upper bound: training streams there too
    batch = make_batch(actor_critic.backbone, args, turn)
    for tensor in tree_leaves(batch):
        trace.count(tensor, "other")
    sizes = _count_weights(actor_critic, trace)
    _name_regions(actor_critic, trace)
    trained = [p for p in actor_critic.parameters() if p.requires_grad]
    for weight in trained:
        weight.register_post_accumulate_grad_hook(_drop if sharded else lambda p: trace.count(p.grad, "gradients"))
    actor_critic.train()

    if sharded:
        with trace:
            _forward_and_backward(actor_critic, batch, args, trace, nullcontext())
        return StepMemory(trace.held, trace.peak, _highest(trace), gradients=_bytes(trained), **sizes)
    optimizer = _make_optimizer(actor_critic, args)
    average = WeightAverage(actor_critic) if args.weight_averaging_ratio > 0 else None
    dtype = _low_precision(args)
    autocast = torch.autocast("cpu", dtype) if dtype is not None else nullcontext()
    with trace:
        _forward_and_backward(actor_critic, batch, args, trace, autocast)
        before_step = trace.peak
        used = [p for p in trained if p.grad is not None]
        _optimizer_step(actor_critic, trained, optimizer, average, args, trace)
        # The first step has made what the next ones find in memory: the optimiser's states and the mean.
        held = trace.held
        trace.reset_peak()
        for weight in used:
            weight.grad = torch.zeros_like(weight)
            trace.count(weight.grad, "gradients")
        _optimizer_step(actor_critic, trained, optimizer, average, args, trace)
    before_step |= {part: held.get(part, 0) for part in ("optimiser states", "averaged weights")}
    peak = max(before_step, trace.peak, key=lambda parts: sum(parts.values()))
    return StepMemory(held, peak, _highest(trace), gradients=_bytes(used), **sizes)


def _forward_and_backward(
    actor_critic: VLMActorCritic, batch: dict, args: AFSFTConfig, trace: MemoryTrace, autocast: AbstractContextManager
) -> None:
    """Every micro-batch of a step; later ones find the gradients of the first in memory."""
    for _ in range(min(args.gradient_accumulation_steps, 2)):
        trace.category = "activations"
        with autocast, _explain_what_cannot_be_traced(actor_critic):
            loss = actor_critic(**batch)["loss"]
        trace.category = VALUES
        loss.backward()
        del loss
    trace.category = "other"


@contextmanager
def _explain_what_cannot_be_traced(actor_critic: VLMActorCritic) -> Iterator[None]:
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        name = type(actor_critic.backbone.model).__name__
        raise ValueError(
            f"The memory of {name} cannot be counted without its numbers: what it computes decides about shapes ({error.func})."
        ) from error


def _optimizer_step(
    actor_critic: VLMActorCritic,
    trained: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    args: AFSFTConfig,
    trace: MemoryTrace,
) -> None:
    if args.max_grad_norm:
        nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
    with trace.counting_as("optimiser states"):
        optimizer.step()
    if actor_critic.critic is not None:
        actor_critic.target_critic.update(actor_critic.critic, args.target_tau)
    if average is not None:
        with trace.counting_as("averaged weights"):
            average.update()
    optimizer.zero_grad(set_to_none=True)


def _make_optimizer(actor_critic: VLMActorCritic, args: AFSFTConfig) -> torch.optim.Optimizer:
    cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, actor_critic)
    if not cls.__module__.startswith("torch.optim"):
        raise ValueError(
            f"The memory of optim={OptimizerNames(args.optim).value} is not known here: choose one of torch, such as adamw_torch."
        )
    return cls([p for p in actor_critic.parameters() if p.requires_grad], **kwargs)


def _low_precision(args: AFSFTConfig) -> torch.dtype | None:
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None


def _highest(trace: MemoryTrace) -> dict[str, int]:
    return {part: trace.highest[part] for part in ("activations", VALUES)}


def _drop(weight: nn.Parameter) -> None:
    weight.grad = None


# ---- Counting ----

VALUES = "logits and Q"


def _name_regions(actor_critic: VLMActorCritic, trace: MemoryTrace) -> None:
    """From the input of the language head on, forward and back, tensors are those of logits, Q-values and losses."""

    def of(category: str):
        def switch(*_) -> None:
            trace.category = category

        return switch

    def at_head(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        trace.category = VALUES
        if inputs[0].requires_grad:
            inputs[0].register_hook(of("activations"))

    actor_critic.model.register_forward_pre_hook(of("activations"))
    actor_critic.model.get_output_embeddings().register_forward_pre_hook(at_head)


def _count_weights(actor_critic: VLMActorCritic, trace: MemoryTrace) -> dict:
    """Count weights and buffers by what they belong to, and measure those that launchers treat by their size."""
    weights: dict[str, list[torch.Tensor]] = {"base weights": [], "adapter": [], "critic": []}
    adapted = isinstance(actor_critic.model, PeftModel)
    for name, weight in [*actor_critic.model.named_parameters(), *actor_critic.model.named_buffers()]:
        weights["adapter" if adapted and "lora_" in name else "base weights"].append(weight)
    if actor_critic.critic is not None:
        weights["critic"] = list(actor_critic.critic.parameters())
        for buffer in actor_critic.target_critic.buffers():
            trace.count(buffer, "target critic")
    trace.count(actor_critic.valid_tokens, "other")
    for part, tensors in weights.items():
        for tensor in tensors:
            trace.count(tensor, part)
    everything = [tensor for tensors in weights.values() for tensor in tensors]
    layers = [
        m for m in actor_critic.model.modules() if type(m).__name__ in (actor_critic.model._no_split_modules or ())
    ]
    per_layer = [_numel(layer.parameters()) for layer in layers]
    return {
        "weights": {part: (_numel(tensors), _bytes(tensors)) for part, tensors in weights.items()},
        "trained": {part: _numel(t for t in tensors if t.requires_grad) for part, tensors in weights.items()},
        "unit": max(per_layer, default=0),
        "small": _bytes(tensor for tensor in everything if tensor.numel() <= 100_000),
        "largest": max(tensor.numel() for tensor in everything),
        "outside": _numel(everything) - sum(per_layer),
    }


def _numel(tensors) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What each device holds, by how training is launched."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trl_vlmq.config import AFSFTConfig
from trl_vlmq.model_arguments import ModelArguments

from .step import VALUES, StepMemory, TurnShape, trace_step


TUNINGS = {
    "full": {"use_peft": False},
    "lora": {"use_peft": True},
    "lora-8bit": {"use_peft": True, "load_in_8bit": True},
    "lora-4bit": {"use_peft": True, "load_in_4bit": True},
}
LAUNCHES = ("one", "ddp", "zero2", "zero2-offload", "zero3", "zero3-offload", "fsdp2")
PARTS = (
    "base weights", "adapter", "critic", "target critic", "averaged weights", "optimiser states", "gradients",
    "activations", VALUES, "buffers", "other",
)  # fmt: skip

# DeepSpeed's defaults, in values: `reduce_bucket_size`, and `stage3_max_live_parameters` with `stage3_prefetch_bucket_size`.
REDUCE_BUCKET = 500_000_000
LIVE_WEIGHTS = 1_050_000_000
HEADROOM = 0.1


@dataclass(frozen=True)
class MemoryEstimate:
    """
    Memory of one way to train, in bytes per device at the highest moment of a step.

    Args:
        tuning (`str`):
            What is trained: one of `TUNINGS`.
        launch (`str`):
            One of `LAUNCHES`.
        devices (`int`):
            Processes, each with a device.
        parts (`dict[str, int]`):
            Bytes on the device of each of `PARTS`.
        host (`dict[str, int]`, *optional*):
            Bytes that each process holds in the machine's own memory instead.
        traced (`bool`, *optional*, defaults to `False`):
            Whether all parts come from the traced step. Else those that the launcher shares out or adds are estimates by
            its rules.
    """

    tuning: str
    launch: str
    devices: int
    parts: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)
    traced: bool = False

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(self.parts.values())

    def fits(self, gpu_memory: int) -> bool:
        """Whether that leaves a tenth of a device's memory to the CUDA context and to fragmentation.

        Args:
            gpu_memory (`int`):
                Bytes of the device.
        """
        return self.total <= (1 - HEADROOM) * gpu_memory


def estimate_memory(
    model: ModelArguments,
    args: AFSFTConfig,
    turn: TurnShape | None = None,
    *,
    tunings: Sequence[str] = tuple(TUNINGS),
    launches: Sequence[str] = LAUNCHES,
    devices: int = 8,
) -> list[MemoryEstimate]:
    """
    Memory that training takes, before it is begun: nothing is loaded and nothing computed.

    The model, its adapter and critic are built from the configuration without storage, and one step of training runs on
    them; every tensor that it makes is counted while it lives. What a launcher does with weights, gradients and optimiser
    is added by its rules.

    Example:

    ```python
    from trl_vlmq import AFSFTConfig, estimate_memory
    from trl_vlmq.model_arguments import ModelArguments

    args = AFSFTConfig("agent", bf16=True, use_cpu=True, per_device_train_batch_size=1)
    for estimate in estimate_memory(ModelArguments("xgen-mm-4.6b"), args, tunings=["lora"], launches=["one", "zero3"]):
        print(estimate.launch, round(estimate.total / 2**30, 1), "GiB")
    ```

    Args:
        model ([`ModelArguments`]):
            `model_name_or_path` is a folder or Hub id, of which only configuration and processor are read, the name of an
            embedded model, or one of `trl_vlmq.memory.PRESETS`. `tunings` decides about adapter and quantisation.
        args ([`AFSFTConfig`]):
            Training arguments: batch size, segment length, precision, activation checkpointing, critic, optimiser.
        turn ([`TurnShape`], *optional*):
            Sizes of a turn; by default those of `TurnShape()`.
        tunings (`Sequence[str]`, *optional*):
            What to train, some of "full", "lora", "lora-8bit" and "lora-4bit"; by default all.
        launches (`Sequence[str]`, *optional*):
            How, some of `LAUNCHES`; by default all. Quantised bases are not estimated where weights are sharded.
        devices (`int`, *optional*, defaults to `8`):
            Processes, for all launches but "one".

    Returns:
        `list[MemoryEstimate]`: one for each pair, in their order.

    Raises:
        OSError: if there is no such model.
        ValueError: if a tuning or launch is unknown, or a turn does not hold its images or not fit into the context.
    """
    for name, given, known in (("tunings", tunings, TUNINGS), ("launches", launches, LAUNCHES)):
        unknown = [value for value in given if value not in known]
        if unknown:
            raise ValueError(f"{name}={unknown[0]!r}: choose from {', '.join(known)}.")
    if devices < 1:
        raise ValueError(f"devices={devices} must be at least 1.")
    turn = TurnShape() if turn is None else turn
    estimates = []
    for tuning in tunings:
        tuned = replace(model, **{"load_in_4bit": False, "load_in_8bit": False} | TUNINGS[tuning])
        whole = sharded = None
        for launch in launches:
            if launch in ("one", "ddp"):
                whole = whole or trace_step(tuned, args, turn)
                estimates.append(_whole(tuning, launch, devices, whole))
            elif "bit" not in tuning or launch.startswith("zero2"):
                sharded = sharded or trace_step(tuned, args, turn, sharded=True)
                estimates.append(_sharded(tuning, launch, devices, sharded, args))
    return estimates


def _whole(tuning: str, launch: str, devices: int, step: StepMemory) -> MemoryEstimate:
    """Everything on every device; DDP adds buckets as large as the gradients."""
    parts = dict.fromkeys(PARTS, 0) | step.peak
    if launch == "ddp":
        return MemoryEstimate(tuning, launch, devices, parts | {"buffers": step.gradients})
    return MemoryEstimate(tuning, launch, 1, parts, traced=True)


def _sharded(tuning: str, launch: str, devices: int, step: StepMemory, args: AFSFTConfig) -> MemoryEstimate:
    stage, low = launch.removesuffix("-offload"), 2 if args.bf16 or args.fp16 else 4
    parts = dict.fromkeys(PARTS, 0) | step.peak
    weights = {part: size for part, (_, size) in step.weights.items()}
    trained = sum(step.trained.values())
    total = sum(numel for numel, _ in step.weights.values())
    if args.weight_averaging_ratio > 0:  # ZeRO's are gathered to be averaged, FSDP's are averaged as they are
        parts["averaged weights"] = 4 * trained // (devices if stage == "fsdp2" else 1)
    if stage == "fsdp2":  # what is trained is in float32, and so are its gradients
        for part, size in weights.items():
            parts[part] = (size + (4 - low) * step.trained[part]) // devices
        parts["gradients"] = 4 * trained // devices
        parts["optimiser states"] = 8 * trained // devices
        parts["buffers"] = low * (2 * step.unit + step.outside) + parts["target critic"]
        parts["target critic"] //= devices
        return MemoryEstimate(tuning, launch, devices, parts)
    # DeepSpeed keeps a float32 copy of what is trained, beside Adam's two moments.
    parts["optimiser states"] = 12 * trained // devices
    parts["gradients"] = step.gradients // devices
    parts["buffers"] = low * REDUCE_BUCKET
    if stage == "zero3":
        for part, size in weights.items():
            parts[part] = size // devices
        parts["base weights"] += step.small
        parts["buffers"] += low * max(min(total, LIVE_WEIGHTS), step.largest)
    host = {}
    if launch.endswith("offload"):
        moved = ["optimiser states", "gradients", *(weights if stage == "zero3" else ())]
        host = {part: parts[part] for part in moved}
        parts |= dict.fromkeys(moved, 0)
    return MemoryEstimate(tuning, launch, devices, parts, host)

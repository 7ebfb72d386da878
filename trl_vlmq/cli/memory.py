# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq memory`: what training will take, and which setups fit."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from trl_vlmq.config import AFSFTConfig
from trl_vlmq.memory import LAUNCHES, PARTS, PRESETS, TUNINGS, MemoryEstimate, TurnShape, estimate_memory
from trl_vlmq.memory.shapes import load_shape
from trl_vlmq.model_arguments import ModelArguments

from .errors import UserError, require_at_least, user_errors
from .parsing import CommandParser
from .tasks import model_errors


UNITS = {"GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6}


@dataclass
class MemoryArguments:
    """Sizes of a turn, and which setups to look at."""

    prompt_tokens: int = field(default=1024, metadata={"help": "Tokens of a prompt, those of its images included."})
    action_tokens: int = field(default=16, metadata={"help": "Tokens of an action, the stop token included."})
    images: int = field(default=1, metadata={"help": "Images of a prompt."})
    image_size: int = field(default=224, metadata={"help": "Pixels per side of an image, before processing."})
    tuning: list[str] = field(
        default_factory=lambda: list(TUNINGS), metadata={"help": f"What is trained: some of {', '.join(TUNINGS)}."}
    )
    launch: list[str] = field(
        default_factory=lambda: list(LAUNCHES), metadata={"help": f"How: some of {', '.join(LAUNCHES)}."}
    )
    devices: int = field(default=8, metadata={"help": "Devices, for all launches but 'one'."})
    gpu_memory: str | None = field(
        default=None, metadata={"help": "Memory of a device, e.g. 24GiB; the last line then says which setups fit."}
    )
    json: bool = field(default=False, metadata={"help": "Print JSON, in bytes, instead of a table."})

    def __post_init__(self):
        require_at_least(self, prompt_tokens=1, action_tokens=1, images=0, image_size=1, devices=1)
        for name, known in (("tuning", TUNINGS), ("launch", LAUNCHES)):
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(f"--{name} {value}: choose from {', '.join(known)}")
        if self.gpu_memory is not None:
            read_bytes(self.gpu_memory)

    @property
    def turn(self) -> TurnShape:
        return TurnShape(self.prompt_tokens, self.action_tokens, self.images, self.image_size)


@dataclass
class TrainingArguments(AFSFTConfig):
    """`AFSFTConfig` as it is on a GPU."""

    output_dir: str | None = field(default="memory", metadata={"help": "Not used: nothing is written."})
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Segments per device and micro-batch."})
    bf16: bool | None = field(default=True, metadata={"help": "bfloat16 mixed precision; false is float32."})

    def __post_init__(self):
        self.use_cpu = True
        if self.actor_objective == "sft":
            self.critic_coef = 0.0  # as `trl-vlmq train`
        super().__post_init__()


SECTIONS = {
    "model": ["model_name_or_path", "dtype", "lora_r", "lora_target_modules", "attn_implementation"],
    "setups": ["tuning", "launch", "devices", "gpu_memory"],
    "a turn": ["prompt_tokens", "action_tokens", "images", "image_size"],
    "training": [
        "per_device_train_batch_size", "segment_length", "gradient_accumulation_steps", "bf16",
        "activation_checkpointing", "critic_hidden_size", "num_critics", "actor_objective", "weight_averaging_ratio",
        "optim",
    ],
    "output": ["json"],
}  # fmt: skip

EXAMPLES = """examples:
  trl-vlmq memory --model_name_or_path moondream2-2b --gpu_memory 24GiB
  trl-vlmq memory --model_name_or_path llava-70b --tuning lora-4bit --launch one --activation_checkpointing
  trl-vlmq memory --model_name_or_path HuggingFaceTB/SmolVLM-256M-Instruct --tuning lora --launch one ddp --json"""


def main(argv: list[str]) -> None:
    """Run `trl-vlmq memory`."""
    parser = CommandParser(
        "memory",
        [MemoryArguments, TrainingArguments, ModelArguments],
        SECTIONS,
        usage="--model_name_or_path MODEL [--gpu_memory 24GiB] [options]",
        description="How much memory training takes on each device, before it is begun: nothing is loaded but the "
        f"model's configuration and processor. MODEL is a folder, a Hub id, or one of {', '.join(PRESETS)}.",
        examples=EXAMPLES,
    )
    arguments, args, model = parser.parse(argv)
    name = model.model_name_or_path or "tiny-babyai"
    with model_errors(name):
        load_shape(name)
    estimates = []
    with user_errors(ValueError):
        for tuning in arguments.tuning:
            print(f"{name}: {tuning} ...", file=sys.stderr)
            estimates += estimate_memory(
                model, args, arguments.turn, tunings=[tuning], launches=arguments.launch, devices=arguments.devices
            )
    if not estimates:
        raise UserError("Quantised bases are estimated with one, ddp and zero2 only: choose another --launch.")
    gpu_memory = None if arguments.gpu_memory is None else read_bytes(arguments.gpu_memory)
    if arguments.json:
        print(json.dumps([_as_json(estimate, gpu_memory) for estimate in estimates], indent=2))
        return
    print(memory_table(estimates))
    print(
        "\nGiB per device at the highest moment of a step. ~ : an estimate, by the launcher's rules; without, counted."
    )
    if gpu_memory is not None:
        print(fitting_line(estimates, gpu_memory, arguments.gpu_memory))


def memory_table(estimates: Sequence[MemoryEstimate]) -> str:
    """A Markdown table, in GiB; parts that nothing needs are left out."""
    parts = [part for part in PARTS if any(estimate.parts[part] for estimate in estimates)]
    hosted = any(estimate.host for estimate in estimates)
    header = ["setup", *parts, "total", *(["host"] if hosted else [])]
    rows = []
    for estimate in estimates:
        sizes = [*(estimate.parts[part] for part in parts), estimate.total]
        sizes += [sum(estimate.host.values())] if hosted else []
        rows.append([_name(estimate), *(f"{size / 2**30:.2f}" for size in sizes)])
        if not estimate.traced:
            rows[-1][len(parts) + 1] = "~" + rows[-1][len(parts) + 1]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))) + " |"
        for row in [header, *rows]
    ]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def fitting_line(estimates: Sequence[MemoryEstimate], gpu_memory: int, written: str) -> str:
    """Which setups fit into a device."""
    fitting = [_name(estimate) for estimate in estimates if estimate.fits(gpu_memory)]
    return f"Fit into {written} with a tenth of it left free: {', '.join(fitting) or 'none of these'}."


def read_bytes(text: str) -> int:
    """Bytes of "24GiB", "80GB" or "512MiB".

    Raises:
        ValueError: if it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2] not in UNITS:
        raise ValueError(f"--gpu_memory {text}: write a number and one of {', '.join(UNITS)}, such as 24GiB")
    return int(float(match[1]) * UNITS[match[2]])


def _name(estimate: MemoryEstimate) -> str:
    return f"{estimate.tuning} {estimate.launch}"


def _as_json(estimate: MemoryEstimate, gpu_memory: int | None) -> dict:
    fits = {} if gpu_memory is None else {"fits": estimate.fits(gpu_memory)}
    return asdict(estimate) | {"total": estimate.total} | fits

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
How far `trl-vlmq memory` is from what training really takes. Linux, CPU.

Each configuration trains four steps of `AFSFTTrainer` in a process of its own, with random weights. What is held between steps
is summed over the real tensors. The third step's peak is what torch's allocator hands out and takes back (its profiler). The
fourth is measured by the system: by how much the resident memory rises in it. Prints a table beside the prediction.

    OMP_NUM_THREADS=1 python benchmarks/memory.py
    OMP_NUM_THREADS=1 python benchmarks/memory.py --only lora-32k
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from peft import LoraConfig
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForImageTextToText,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
    TrainerCallback,
)
from transformers.models.siglip import SiglipImageProcessorPil

from trl_vlmq import AFSFTConfig, AFSFTTrainer, Episode, Turn, episodes_to_dataset
from trl_vlmq.backbones.loading import load_config, load_processor
from trl_vlmq.backbones.tiny import CHAT_TEMPLATE, build_tiny_tokenizer
from trl_vlmq.memory import TurnShape, trace_step
from trl_vlmq.model_arguments import ModelArguments


# name -> model, arguments of ModelArguments, arguments of AFSFTConfig
RUNS = {
    "lora-32k": ("llama-32k", {}, {}),
    "lora-32k-batch4": ("llama-32k", {}, {"per_device_train_batch_size": 4}),
    "lora-32k-checkpointing": ("llama-32k", {}, {"activation_checkpointing": True}),
    "lora-32k-4bit": ("llama-32k", {"load_in_4bit": True}, {}),
    "full-32k": ("llama-32k", {"use_peft": False}, {}),
    "full-32k-bf16": ("llama-32k", {"use_peft": False, "dtype": "bfloat16"}, {"bf16": True}),
    "lora-152k": ("qwen2-152k", {}, {}),
    "lora-152k-critic128": ("qwen2-152k", {}, {"critic_hidden_size": 128}),
}  # fmt: skip
TEXT = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "max_position_embeddings": 2048}
PROMPT = "What do you do next? " * 12
ACTION = '{"action": "turn left"}'


def models() -> dict[str, tuple[PreTrainedConfig, LlavaProcessor]]:
    """LLaVAs of 70 and 190 million parameters."""
    tokenizer = build_tiny_tokenizer([PROMPT, ACTION])
    vision = SiglipVisionConfig(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=6, image_size=224,
        patch_size=16, vision_use_head=False,
    )  # fmt: skip
    texts = {
        "llama-32k": LlamaConfig(vocab_size=32000, intermediate_size=1408, num_key_value_heads=8, **TEXT),
        "qwen2-152k": Qwen2Config(vocab_size=151936, intermediate_size=1408, num_key_value_heads=2, **TEXT),
    }
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": 224, "width": 224}), tokenizer=tokenizer, patch_size=16,
        vision_feature_select_strategy="full", chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    return {
        name: (
            LlavaConfig(
                vision_config=vision, text_config=text, image_token_index=image_token, vision_feature_layer=-1,
                vision_feature_select_strategy="full", image_seq_length=196, tie_word_embeddings=False,
            ),
            processor,
        )
        for name, text in texts.items()
    }  # fmt: skip


def status(name: str) -> int:
    """Bytes, from /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


class StepMeter(TrainerCallback):
    """Measures the third step by torch's allocator and the fourth by the system, in bytes beyond those held before."""

    def __init__(self):
        self.allocated = self.resident = self.static = 0
        self._profile = None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.static = static_bytes(self.trainer)
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.__enter__()
        elif state.global_step == 3:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
            self.resident = -status("VmRSS")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self._profile.__exit__(None, None, None)
            events = [e for e in self._profile.profiler.kineto_results.events() if e.name() == "[memory]"]
            held = accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
            self.allocated = max(held)
            self._profile = None
        elif state.global_step == 4:
            self.resident += status("VmHWM")


def static_bytes(trainer: AFSFTTrainer) -> int:
    """Bytes of weights, buffers, optimiser states and mean."""
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    tensors = [*trainer.model.parameters(), *trainer.model.buffers(), *trainer._average._mean.values()]
    tensors += [x for state in inner.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    for module in trainer.model.modules():  # what bitsandbytes keeps beside its weights
        quantized = getattr(getattr(module, "weight", None), "quant_state", None)
        tensors += [] if quantized is None else [quantized.absmax, quantized.code]
        quantized = getattr(module, "state", None)
        tensors += [x for x in (getattr(quantized, "CB", None), getattr(quantized, "SCB", None)) if x is not None]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def arguments(changes: dict, folder: str) -> AFSFTConfig:
    defaults = {"per_device_train_batch_size": 2, "segment_length": 2, "weight_averaging_ratio": 1.0, "bf16": False}
    return AFSFTConfig(
        f"{folder}/run", max_steps=4, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        **defaults | changes,
    )  # fmt: skip


def measure(name: str, folder: str) -> dict:
    """Train, and look at the third step."""
    which, model_changes, changes = RUNS[name]
    path = f"{folder}/{which}"
    arguments_of_model = ModelArguments(model_name_or_path=path, attn_implementation="sdpa", **model_changes)
    args = arguments(changes, folder)
    processor = load_processor(path, fallback=path, has_vision=True)
    data = episodes(12)
    if arguments_of_model.quantization() is None:
        dtype = getattr(torch, model_changes.get("dtype", "float32"))
        model = AutoModelForImageTextToText.from_config(load_config(path), dtype=dtype, attn_implementation="sdpa")
    else:  # bitsandbytes quantises what it loads
        AutoModelForImageTextToText.from_config(load_config(path), dtype=torch.float32).save_pretrained(
            f"{folder}/{name}"
        )
        model = AutoModelForImageTextToText.from_pretrained(
            f"{folder}/{name}", quantization_config=arguments_of_model.quantization(), attn_implementation="sdpa"
        )
    meter = StepMeter()
    trainer = AFSFTTrainer(
        model, args, data, processing_class=processor, callbacks=[meter],
        peft_config=LoraConfig(r=32, lora_alpha=64) if arguments_of_model.use_peft else None,
    )  # fmt: skip
    meter.trainer = trainer
    trainer.model.backbone._constant_features = False  # as on a GPU, where image features are not remembered
    batch = next(iter(trainer.get_train_dataloader()))
    shape = {
        "prompt_tokens": batch["inputs"]["input_ids"].shape[1] - batch["labels"].shape[1] + 1,
        "action_tokens": batch["labels"].shape[1],
        "turns": len(batch["labels"]),
    }
    del batch
    trainer.train()
    return {
        "shape": shape,
        "static": meter.static,
        "allocated": meter.static + meter.allocated,
        "resident": meter.resident,
    }


def episodes(count: int):
    """Episodes of four turns, all of one shape but for a shorter action in between."""
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8))
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]

    def turn(index: int) -> Turn:
        action = ACTION if index % 2 else ACTION[:-1]
        last = index == 3
        return Turn(
            prompt=prompt, images=[image], completion=action, reward=float(last), terminated=last, truncated=False
        )

    return episodes_to_dataset(Episode(f"e{i}", [turn(j) for j in range(4)]) for i in range(count))


def predict(name: str, shape: dict, folder: str) -> dict:
    which, model_changes, changes = RUNS[name]
    model = ModelArguments(model_name_or_path=f"{folder}/{which}", attn_implementation="sdpa", **model_changes)
    turn = TurnShape(shape["prompt_tokens"], shape["action_tokens"], 1, 224)
    step = trace_step(model, arguments(changes, folder), turn)
    return {"static": sum(step.held.values()), "allocated": sum(step.peak.values()), "peak": step.peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="configurations")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # what, which, where: one process' share
    args = parser.parse_args()
    if args.child:
        logging.disable(logging.WARNING)
        what, name, folder = args.child
        result = measure(name, folder) if what == "measure" else predict(name, json.loads(what), folder)
        print(json.dumps(result))
        return
    print(
        "| run | held, measured | predicted | error | peak, measured | predicted | error | rise, resident | predicted |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (config, processor) in models().items():
            config.save_pretrained(f"{folder}/{name}")
            processor.save_pretrained(f"{folder}/{name}")

        def child(what: str, name: str) -> dict:
            command = [sys.executable, __file__, "--child", what, name, folder]
            # So that what is freed goes back to the system, and its count is one of tensors.
            env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
            return json.loads(done.stdout.splitlines()[-1])

        for name in args.only:
            measured = child("measure", name)
            predicted = child(json.dumps(measured["shape"]), name)
            cells = [name]
            for real, guess in (
                (measured["static"], predicted["static"]),
                (measured["allocated"], predicted["allocated"]),
            ):
                cells += [f"{real / 2**20:.0f}", f"{guess / 2**20:.0f}", f"{guess / real - 1:+.1%}"]
            rise = predicted["allocated"] - predicted["static"]
            cells += [f"{measured['resident'] / 2**20:.0f}", f"{rise / 2**20:.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A folder with a tiny base model, a small dataset of episodes, and a trainer on both, for every test of training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from trl_vlmq import AFSFTConfig, AFSFTTrainer
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset


@pytest.fixture(scope="session")
def episodes() -> Dataset:
    """Twelve episodes of three to five turns, one in four truncated; actions are JSON, bare text and nothing at all."""
    pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
    actions = ('{"action": "go"}', "stop", "")

    def turn(episode: int, index: int, last: bool) -> Turn:
        truncated = last and episode % 4 == 3
        prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"Turn {index}."}]}]
        images = [PIL.Image.fromarray(pixels[(episode + index) % 8])]
        return Turn(
            prompt=prompt,
            images=images,
            completion=actions[(episode + index) % 3],
            reward=float(last and not truncated) - 0.1 * (index == 1),
            terminated=last and not truncated,
            truncated=truncated,
            final_prompt=prompt if truncated else None,
            final_images=images if truncated else None,
        )

    lengths = [3 + episode % 3 for episode in range(12)]
    return episodes_to_dataset(
        Episode(f"e{episode}", [turn(episode, index, index == length - 1) for index in range(length)])
        for episode, length in enumerate(lengths)
    )


@pytest.fixture
def training_arguments(tmp_path) -> Callable[..., dict]:
    """`AFSFTConfig`'s arguments of eight short steps on a CPU, with changes."""
    defaults = {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "segment_length": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return lambda **changes: defaults | changes


@pytest.fixture
def make_trainer(base_folder, episodes, training_arguments) -> Callable[..., AFSFTTrainer]:
    """
    A factory `make(model=..., lora=True, ..., **arguments)`: a LoRA on the tiny base, set up for eight short steps on a
    CPU; `arguments` are those of `AFSFTConfig`.
    """

    def make(
        model=None,
        *,
        lora: LoraConfig | bool = True,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class=None,
        callbacks: list | None = None,
        model_seed: int = 0,
        **arguments,
    ) -> AFSFTTrainer:
        torch.manual_seed(model_seed)  # of the adapter's and the critic's first weights
        if lora is True:
            lora = LoraConfig(r=4, lora_alpha=8)
        return AFSFTTrainer(
            model=base_folder if model is None else model,
            args=AFSFTConfig(**training_arguments(**arguments)),
            train_dataset=episodes if train_dataset is None else train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=lora or None,
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def snapshot() -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    """Copies of all parameters and buffers of a module, by name."""

    def take(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        named = [*module.named_parameters(), *module.named_buffers()]
        return {name: tensor.detach().clone() for name, tensor in named}

    return take


@pytest.fixture
def logits_of() -> Callable[..., torch.Tensor]:
    """Logits of a model, all positions, on the prompt of a row with its image."""

    @torch.no_grad()
    def compute(model, processor, row: dict) -> torch.Tensor:
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Turn 1."}]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        inputs = processor(text=[text], images=[row["images"][0]], return_tensors="pt")
        return model.eval()(**inputs).logits

    return compute


@pytest.fixture
def trajectory() -> Callable[[AFSFTTrainer], list[dict[str, float]]]:
    """What a trainer logged at each step, without what depends on the clock."""

    def of(trainer: AFSFTTrainer) -> list[dict[str, float]]:
        clocks = ("runtime", "per_second")
        return [
            {name: value for name, value in entry.items() if not any(clock in name for clock in clocks)}
            for entry in trainer.state.log_history
            if "loss" in entry
        ]

    return of


@pytest.fixture
def checkpoint_of(tmp_path) -> Callable[[int], Path]:
    """Folder of the checkpoint of a step."""
    return lambda step: tmp_path / "run" / f"checkpoint-{step}"

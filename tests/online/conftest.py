# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A lamp to switch on, the tiny LLaVA that has to learn it, and a trainer that plays."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from trl_vlmq import (
    AFSFTConfig,
    AFSFTTrainer,
    BehaviorPolicy,
    LinearSchedule,
    OnlineRolloutCallback,
    episodes_to_dataset,
    play_episodes,
)


sys.path.insert(0, str(Path(__file__).parent))
from lamp import Lamp  # noqa: E402


@pytest.fixture(scope="session")
def lamp() -> type[Lamp]:
    """The environment: `lamp()` makes one."""
    return Lamp


@pytest.fixture(scope="session")
def logs() -> Dataset:
    """Twenty episodes of a random agent."""
    return episodes_to_dataset(play_episodes(Lamp, BehaviorPolicy("random"), 20, seed=1))


@pytest.fixture
def make_callback() -> Callable[..., OnlineRolloutCallback]:
    """`make(envs=Lamp, **arguments)`: rounds of six short episodes."""

    def make(envs=Lamp, **arguments) -> OnlineRolloutCallback:
        settings = {
            "episodes_per_round": 6, "num_envs": 3, "max_new_tokens": 3, "epsilon": LinearSchedule(0.5, 0.1, 2),
        }  # fmt: skip
        return OnlineRolloutCallback(envs, **settings | arguments)

    return make


@pytest.fixture
def make_trainer(base_folder, logs, tmp_path) -> Callable[..., AFSFTTrainer]:
    """`make(callback, train_dataset=logs, folder="run", **arguments)`: three epochs of four steps, two segments each."""

    def make(callback=None, train_dataset=logs, folder: str = "run", lora: bool = True, **arguments) -> AFSFTTrainer:
        torch.manual_seed(0)  # of the adapter's and the critic's first weights
        settings = {
            "output_dir": str(tmp_path / folder), "num_train_epochs": 3, "segments_per_epoch": 8,
            "per_device_train_batch_size": 2, "segment_length": 2, "learning_rate": 1e-2, "logging_steps": 1,
            "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
            "filter_warmup_ratio": 0.2, "online_share": 0.5,
        }  # fmt: skip
        return AFSFTTrainer(
            model=base_folder,
            args=AFSFTConfig(**settings | arguments),
            train_dataset=train_dataset,
            peft_config=LoraConfig(r=4, lora_alpha=8) if lora else None,
            callbacks=None if callback is None else [callback],
        )

    return make


@pytest.fixture
def rounds_of() -> Callable[[AFSFTTrainer], list[dict[str, float]]]:
    """What a trainer logged of its rounds, without what depends on the clock."""

    def of(trainer: AFSFTTrainer) -> list[dict[str, float]]:
        return [
            {name: value for name, value in entry.items() if not name.endswith("_per_second")}
            for entry in trainer.state.log_history
            if "rollout_episodes" in entry
        ]

    return of

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Whole training steps: AFSFT, SFT in the same wrapper, and stock `trl.SFTTrainer`, on the same turns.

A step here is everything from batch to batch: drawing, collating, forward, backward, clipping, optimiser, target critic.
The filter stays open (kept share 1), where AFSFT costs most, and pictures pass the frozen tower as in a first epoch.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from datasets import Dataset
from measuring import PeakMemory
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from trl_vlmq import AFSFTConfig, AFSFTTrainer, BehaviorPolicy, episodes_to_dataset, play_episodes
from trl_vlmq.backbones import Backbone, load_backbone, tiny_model_path
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.episodes import Episode
from trl_vlmq.logs import parse_mixture
from trl_vlmq.replay import ReplayBuffer
from trl_vlmq.token_metrics import token_columns


TURNS = 16  # of a batch, on average
BABYAI = {"make_env": "trl_vlmq/BabyAI-GoToLocalS6N2-v0", "env_kwargs": {"max_steps": 10}}
BLACKJACK = {"make_env": "trl_vlmq/Blackjack-v0", "env_kwargs": {"image_size": 112}}


@dataclass(frozen=True)
class Task:
    """Logs, and the model that learns from them."""

    name: str
    dataset: Dataset
    load: Callable[[], Backbone]


def make_tasks(num_episodes: int) -> list[Task]:
    """Logs as the examples have them, segments of four turns that all end, and these with a large vocabulary."""
    mixture = BehaviorPolicy(parse_mixture("expert:1,wrong_goal:1,random:1"))
    babyai = list(play_episodes(policy=mixture, num_episodes=num_episodes, **BABYAI))
    blackjack = list(play_episodes(policy=BehaviorPolicy("random"), num_episodes=3 * num_episodes, **BLACKJACK))
    ended = episodes_to_dataset(_last_four(episode) for episode in babyai if episode.length >= 4)
    load = partial(load_backbone, tiny_model_path("tiny-babyai"))
    return [
        Task("BabyAI", episodes_to_dataset(babyai), load),
        Task("Blackjack", episodes_to_dataset(blackjack), partial(load_backbone, tiny_model_path("tiny-cards"))),
        Task("4 turns that end", ended, load),
        Task("4 turns that end, V = 49,280", ended, _with_large_vocabulary),
    ]


def _last_four(episode: Episode) -> Episode:
    *turns, last = episode.turns[-4:]
    last = replace(last, terminated=True, truncated=False, final_prompt=None, final_images=None)
    return Episode(episode.episode_id, [*turns, last])


def _with_large_vocabulary() -> Backbone:
    backbone = load_backbone(tiny_model_path("tiny-babyai"))
    torch.manual_seed(0)
    backbone.model.resize_token_embeddings(49280)
    return type(backbone)(backbone.model, backbone.processor)


class Training:
    """A trainer whose steps are timed; each call of [`Training.seconds_per_turn`] goes on with a few.

    Args:
        trainer (`transformers.Trainer`):
            The trainer.
    """

    def __init__(self, trainer):
        self.trainer, self.turns, self.ends = trainer, 0, []
        step, callback = trainer.training_step, TrainerCallback()

        def counting(model, inputs: dict, *args, **kwargs):
            self.turns += len(inputs["labels"])
            return step(model, inputs, *args, **kwargs)

        callback.on_step_end = lambda *args, **kwargs: self.ends.append((time.process_time(), self.turns))
        trainer.training_step = counting
        trainer.add_callback(callback)

    def seconds_per_turn(self) -> float:
        """CPU seconds of a turn; the first step of a call is not counted."""
        self.ends.clear()
        self.trainer.train()
        (start, before), (end, after) = self.ends[0], self.ends[-1]
        return (end - start) / (after - before)

    def examine(self, dataset: Dataset) -> tuple[float, int]:
        """Of a step over the first turns, before any training: mean -log pi(a|s), and the most bytes that its tensors hold at once.

        Weights, optimiser states and the pictures of the batch are not counted, gradients are.
        """
        trainer, rows = self.trainer, list(range(TURNS))
        if isinstance(trainer, AFSFTTrainer):
            segments = ReplayBuffer(dataset.select(rows), trainer.args.segment_length)
            batch = TokenTDCollator(trainer.model.backbone, trainer.model.objective.needs_critic)(list(segments))
        else:
            batch = trainer.data_collator([trainer.train_dataset[i] for i in rows])
        trainer.model.train()
        with PeakMemory() as memory:
            loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
            loss.backward()
        trainer.model.zero_grad()
        if isinstance(trainer, AFSFTTrainer):
            loss = -token_columns(outputs["tokens"])["logp"].mean()
        return loss.item(), memory.peak


def make_training(task: Task, variant: str, segment_length: int = 4, steps: int = 3) -> Training:
    """`variant` is "stock SFT", "SFT", "AFSFT" (baseline online) or "AFSFT, target"."""
    torch.manual_seed(0)
    backbone = task.load()
    common = {
        "output_dir": tempfile.gettempdir(), "max_steps": steps, "learning_rate": 1e-4, "logging_strategy": "no",
        "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "bf16": False,
    }  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=backbone.lora_target_modules)
    if variant == "stock SFT":
        stock = {"per_device_train_batch_size": TURNS, "max_length": None, "gradient_checkpointing": False}
        args = SFTConfig(**common, **stock)
        trainer = SFTTrainer(
            backbone.model, args, train_dataset=task.dataset, processing_class=backbone.processor, peft_config=lora
        )
        return Training(trainer)
    objective = {"actor_objective": "sft", "critic_coef": 0.0} if variant == "SFT" else {}
    turns_a_segment = len(task.dataset) / len(
        ReplayBuffer(task.dataset, segment_length)
    )  # short episodes, short segments
    args = AFSFTConfig(
        **common, per_device_train_batch_size=round(TURNS / turns_a_segment), segment_length=segment_length,
        advantage_baseline="target" if "target" in variant else "online", filter_warmup_ratio=1.0,
        weight_averaging_ratio=0.0, actor_coef=1.0, mask_invalid_tokens=False, **objective,
    )  # fmt: skip
    trainer = AFSFTTrainer(
        backbone.model, args, train_dataset=task.dataset, processing_class=backbone.processor, peft_config=lora
    )
    return Training(trainer)

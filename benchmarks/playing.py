# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Rollouts batched against one at a time, segments drawn from the replay buffer, epochs with remembered pictures."""

import time

import torch
from datasets import Dataset
from training_steps import BABYAI, TURNS, Task, make_training
from transformers import TrainerCallback

from trl_vlmq import VLMPolicy, play_episodes
from trl_vlmq.backbones import load_backbone, make_backbone, tiny_model_path
from trl_vlmq.backbones.tiny import build_tiny_vlm
from trl_vlmq.replay import ReplayBuffer


def make_player(episodes: int):
    """A function `play(num_envs)` -> CPU seconds of an environment step, and what was said in all episodes."""
    policy = VLMPolicy(load_backbone(tiny_model_path("tiny-babyai")), max_new_tokens=12)
    env = BABYAI | {"env_kwargs": {"max_steps": 3}}

    def play(num_envs: int) -> tuple[float, list[str]]:
        start = time.process_time()
        played = list(play_episodes(policy=policy, num_episodes=episodes, num_envs=num_envs, **env))
        said = [turn.completion for episode in played for turn in episode.turns]
        return (time.process_time() - start) / len(said), said

    return play


def seconds_a_segment(dataset: Dataset, draws: int) -> float:
    """CPU seconds to draw a segment of up to four turns; what is drawn is what the dataset holds."""
    buffer = ReplayBuffer(dataset, 4, segments_per_epoch=draws)
    for row in buffer[0].rows:
        assert row["completion"] == dataset[row["row"]]["completion"]
    start = time.process_time()
    for i in range(draws):
        buffer[i]
    return (time.process_time() - start) / draws


def seconds_of_epochs(dataset: Dataset, epochs: int) -> list[float]:
    """CPU seconds of each epoch of AFSFT under a frozen vision tower that is about half of a forward."""

    def load():
        torch.manual_seed(0)
        small = load_backbone(tiny_model_path("tiny-babyai"))
        return make_backbone(*build_tiny_vlm(small.tokenizer, vision_layers=8))

    training = make_training(Task("pictures", dataset, load), "AFSFT", steps=epochs * -(-len(dataset) // TURNS))
    training.trainer.args.max_steps, training.trainer.args.num_train_epochs = -1, epochs
    marks, clock = [], TrainerCallback()
    clock.on_epoch_begin = lambda *args, **kwargs: marks.append(time.process_time())
    clock.on_train_end = clock.on_epoch_begin
    training.trainer.add_callback(clock)
    training.trainer.train()
    return [end - start for start, end in zip(marks, marks[1:], strict=False)]

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Held-out turns as batches, for whoever looks at a critic."""

from collections.abc import Iterator

import torch
from datasets import Dataset

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.replay import ReplayBuffer


def require_critic(model: VLMActorCritic) -> None:
    """
    Raises:
        ValueError: if there is none.
    """
    if model.critic is None:
        raise ValueError("The model has no critic to ask: it was trained with actor_objective='sft', critic_coef=0.")


def held_out_batches(model: VLMActorCritic, dataset: Dataset, batch_size: int) -> Iterator[dict]:
    """
    Every turn of a dataset once, in order.

    Args:
        model ([`VLMActorCritic`]):
            Whose backbone encodes.
        dataset ([`~datasets.Dataset`]):
            Episodes.
        batch_size (`int`):
            Turns at once.

    Returns:
        Batches of [`TokenTDCollator`] on the model's device, without bootstrap rows.

    Raises:
        ValueError: if the model has no critic.
    """
    require_critic(model)
    collator = TokenTDCollator(model.backbone, with_bootstrap=False)
    buffer = ReplayBuffer(prepare_episodes(dataset))
    for start in range(0, len(buffer), batch_size):
        batch = collator([buffer[i] for i in range(start, min(start + batch_size, len(buffer)))])
        batch["inputs"] = {name: tensor.to(model.device) for name, tensor in batch["inputs"].items()}
        yield {
            key: value.to(model.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()
        }

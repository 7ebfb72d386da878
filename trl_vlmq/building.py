# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a trainer is given -> the model and the data that it trains on."""

import os

from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedModel, ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from .actor_critic import VLMActorCritic
from .backbones import load_backbone, make_backbone, resolve_model
from .columns import prepare_episodes
from .config import AFSFTConfig
from .critic import find_critic, load_critic
from .lengths import check_lengths
from .replay import ReplayBuffer
from .unseen import doubt_unseen_tokens
from .validation import validate_episodes
from .vocabulary import check_vocabulary


def build_actor_critic(
    model: str | os.PathLike | PreTrainedModel | VLMActorCritic,
    args: AFSFTConfig,
    processing_class: ProcessorMixin | PreTrainedTokenizerBase | None,
    peft_config: PeftConfig | None,
) -> VLMActorCritic:
    """The model of a trainer; arguments and errors are those of [`AFSFTTrainer`]."""
    if isinstance(model, VLMActorCritic):
        return model
    critic_folder = None
    if isinstance(model, (str, os.PathLike)):
        model = resolve_model(os.fspath(model))
        backbone = load_backbone(model)
        if processing_class is not None:
            backbone = make_backbone(backbone.model, processing_class)
        critic_folder = find_critic(model)
    else:
        if processing_class is None:
            raise ValueError(
                "A loaded model needs its processor: pass `processing_class=AutoProcessor.from_pretrained(...)`, "
                "or pass the model's id instead of the model."
            )
        backbone = make_backbone(model, processing_class)
    if peft_config is not None:
        VLMActorCritic.add_adapter(backbone, peft_config)
    actor_critic = VLMActorCritic(backbone, args.objective(), **args.critic_kwargs())
    if critic_folder is not None and actor_critic.critic is not None:
        load_critic(critic_folder, actor_critic.critic, actor_critic.target_critic)
    return actor_critic


def build_buffer(data: Dataset | None, name: str, model: VLMActorCritic, args: AFSFTConfig) -> ReplayBuffer | None:
    """The segments of a dataset, checked; `name` is the argument it came by, "train_dataset" or another.

    Raises:
        EpisodeValidationError: names row, column and cure.
        TypeError: if it is no dataset.
        ValueError: if a prompt does not fit into the context, or actions cannot be written in the vocabulary.
    """
    if data is None:
        return None
    if not isinstance(data, Dataset):
        raise TypeError(
            f"{name} must be a datasets.Dataset of turns, not {type(data).__name__}; see episodes_to_dataset."
        )
    data = prepare_episodes(data)
    validate_episodes(data)
    check_vocabulary(data, model.backbone)
    check_lengths(data, model.backbone)
    if name != "train_dataset":
        return ReplayBuffer(data, args.segment_length)
    doubt_unseen_tokens(model, data)
    return ReplayBuffer(data, **args.replay_kwargs())

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Arguments of [`AFSFTTrainer`]."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from .losses import ACTOR_OBJECTIVES, TD_HORIZONS, Objective
from .priorities import PRIORITIES, Prioritization
from .schedules import FilterSchedule, LinearSchedule


@dataclass
class AFSFTConfig(TrainingArguments):
    r"""
    Configuration class for the [`AFSFTTrainer`].

    Every field carries its help; those below are the ones of VLM Q-Learning, in the notation of the trainer page.
    Only defaults that differ from [`~transformers.TrainingArguments`] are listed among the others. "Paper" marks what
    arXiv 2505.03181 gives; what is marked "ours" the paper's public summary leaves open.

    > Parameters that control the critic

    Args:
        gamma (`float`, *optional*, defaults to `0.8`):
            Discount per turn (ours).
        token_gamma (`float`, *optional*, defaults to `1.0`):
            Discount per token inside a turn (ours).
        td_horizon (`str`, *optional*, defaults to `"tree_backup"`):
            `"token"` bootstraps from the next token (paper), `"turn"` from the next turn, `"tree_backup"` from both
            (ours).
        reward_scale (`float`, *optional*, defaults to `5.0`):
            Multiplies rewards before the critic sees them (ours).
        critic_hidden_size (`int`, *optional*):
            Hidden width of the critic; defaults to the width of the model (paper; it uses 400 for MiniWoB).
        num_critics (`int`, *optional*, defaults to `1`):
            Critics, averaged (ours).
        critic_trunk_gradient (`bool`, *optional*, defaults to `True`):
            Whether the critic's loss trains the trunk under it (paper: jointly).
        critic_coef (`float`, *optional*, defaults to `1.0`):
            Weight of the critic's loss (ours).
        critic_learning_rate (`float`, *optional*):
            Learning rate of the critic's head; defaults to `learning_rate` (ours).
        target_tau (`float`, *optional*, defaults to `0.1`):
            Share by which the target critic follows the critic at each optimiser step (ours).

    > Parameters that control the actor

    Args:
        actor_objective (`str`, *optional*, defaults to `"afsft"`):
            `"afsft"`, `"sft"`, `"random_filter"`, `"epg"` (the paper's ablations) or `"awr"` (ours).
        actor_coef (`float`, *optional*, defaults to `0.5`):
            Weight of the actor's loss (ours).
        actor_normalizer (`str`, *optional*, defaults to `"kept"`):
            `"tokens"` divides by the number of action tokens (paper), `"kept"` also by the running kept share of
            unsure tokens, so that what the filter keeps pulls as hard as all did before (ours).
        advantage_baseline (`str`, *optional*, defaults to `"online"`):
            `"online"`: A = Q - V (paper); `"target"`: A = Q - Vbar (ours).
        filter_beta (`float`, *optional*, defaults to `0.0`):
            Threshold of the advantage filter after the ramp (paper: 0).
        filter_warmup_ratio (`float`, *optional*, defaults to `0.4`):
            Share of training at beta = -inf (ours).
        filter_min_explained_variance (`float`, *optional*):
            Share of the variance of its targets that the critic must explain before the filter starts, whatever
            `filter_warmup_ratio` says; `None` asks for nothing (ours).
        filter_ramp_ratio (`float`, *optional*, defaults to `0.15`):
            Share of training over which the filter tightens (ours).
        filter_keep_fraction (`float`, *optional*, defaults to `0.1`):
            Share of unsure tokens kept whatever their advantage; 0 is the paper's rule (ours).
        filter_keep_confident (`float`, *optional*, defaults to `0.98`):
            Tokens likelier than this are always kept (ours); `None` is the paper's rule.
        awr_temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of "awr".
        awr_max_weight (`float`, *optional*, defaults to `20.0`):
            Upper limit of an "awr" weight.
        mask_invalid_tokens (`bool`, *optional*, defaults to `True`):
            Whether padded rows of the head and image tokens are excluded from the policy.
        streamed_head (`bool`, *optional*, defaults to `True`):
            Whether log-probabilities and values are streamed from the language head instead of computed from all logits:
            the same numbers in less time and memory. Models whose head has no known formula go the longer way by
            themselves.

    > Parameters that control the end of training

    Args:
        weight_averaging_ratio (`float`, *optional*, defaults to `0.15`):
            Share of training, at its end, over which the trained weights are averaged (adapter and critic, in float32);
            their mean is what training leaves. 0 leaves the last ones, as `load_best_model_at_end` leaves the best.
            Checkpoints hold the weights to go on from (ours).

    > Parameters that control the data

    Args:
        segment_length (`int`, *optional*, defaults to `4`):
            Consecutive turns per example (ours). A batch holds `per_device_train_batch_size` segments.
        segments_per_epoch (`int`, *optional*):
            Segments per epoch; by default as many as the logs have, so that an epoch is a pass over them. Online, an
            epoch is the time between two rounds of episodes. Needed without logs.
        online_share (`float`, *optional*, defaults to `0.5`):
            Share of segments of the agent's own episodes once there are any; the rest are logs (ours). Always 1
            without logs.
        online_share_epochs (`int`, *optional*, defaults to `0`):
            Epochs over which that share rises from 0 (ours).
        replay_capacity_turns (`int`, *optional*):
            Online turns that are kept; the oldest episodes go first. Logs are always kept.
        replay_capacity_bytes (`int`, *optional*):
            Bytes of online turns that are kept, images encoded.
        replay_priority (`str`, *optional*, defaults to `"uniform"`):
            `"td_error"` draws segments by how wrong the critic was about them, `"return"` by the return of their
            episode, both with importance weights (Schaul et al., 2016; ours here).
        replay_priority_alpha (`float`, *optional*, defaults to `0.6`):
            0 is uniform, 1 proportional.
        replay_priority_beta (`float`, *optional*, defaults to `0.4`):
            1 corrects for the priorities in full, 0 not at all.
    """

    # Defaults that differ from TrainingArguments
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of the trained weights."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many optimiser steps."})
    bf16: bool | None = field(
        default=None,
        metadata={"help": "bfloat16 mixed precision; defaults to True on a GPU that has it, else False."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: turns need every column."})

    # Critic
    gamma: float = field(default=0.8, metadata={"help": "Discount per turn. Ours: the paper's summary gives none."})
    token_gamma: float = field(default=1.0, metadata={"help": "Discount per token inside a turn. Ours."})
    td_horizon: str = field(
        default="tree_backup",
        metadata={
            "help": "'token': the one-step rule of the paper, each token bootstraps from the next. 'turn': every token "
            "sees the turn's reward and the next turn's value at once (ours); faster, biased inside the turn. "
            "'tree_backup': as fast where the policy agrees with the log, unbiased where it does not (ours).",
            "choices": list(TD_HORIZONS),
        },
    )
    reward_scale: float = field(
        default=5.0,
        metadata={"help": "Multiplies rewards before the critic sees them; Q should spread over about 1. Ours."},
    )
    critic_hidden_size: int | None = field(
        default=None, metadata={"help": "Hidden width of the critic. Default: the model's width (paper)."}
    )
    num_critics: int = field(default=1, metadata={"help": "Critics that are averaged. Ours."})
    critic_trunk_gradient: bool = field(
        default=True, metadata={"help": "Whether the critic's loss also trains the trunk (paper: jointly)."}
    )
    critic_coef: float = field(default=1.0, metadata={"help": "Weight of the critic's loss. Ours."})
    critic_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the critic's head. Default: learning_rate. Ours."}
    )
    target_tau: float = field(
        default=0.1, metadata={"help": "Share by which the target critic follows at each optimiser step. Ours."}
    )

    # Actor
    actor_objective: str = field(
        default="afsft",
        metadata={
            "help": "'afsft': imitate tokens with A > beta (paper, Eq. 4). 'sft': all tokens. 'random_filter': as many "
            "tokens as afsft, chosen at random. 'epg': maximise sum_a pi Q. 'awr': weights exp(A / awr_temperature).",
            "choices": list(ACTOR_OBJECTIVES),
        },
    )
    actor_coef: float = field(default=0.5, metadata={"help": "Weight of the actor's loss. Ours."})
    actor_normalizer: str = field(
        default="kept",
        metadata={
            "help": "'tokens': divide the actor's sum by the number of action tokens (paper). 'kept': also by the "
            "running kept share of the unsure tokens (at least 0.1), so that what the filter keeps pulls as hard as all "
            "did before (ours).",
            "choices": ["tokens", "kept"],
        },
    )
    advantage_baseline: str = field(
        default="online",
        metadata={
            "help": "'online': A = Q - V (paper). 'target': A = Q - Vbar, one projection fewer (ours).",
            "choices": ["online", "target"],
        },
    )
    filter_beta: float = field(default=0.0, metadata={"help": "Threshold on A after the ramp (paper: 0)."})
    filter_warmup_ratio: float = field(
        default=0.4,
        metadata={"help": "Share of training with beta = -inf (paper: -inf at first; the share is ours)."},
    )
    filter_min_explained_variance: float | None = field(
        default=None,
        metadata={"help": "Explained variance of the critic's targets before the filter may start. Ours."},
    )
    filter_ramp_ratio: float = field(
        default=0.15, metadata={"help": "Share of training over which the filter tightens. Ours."}
    )
    filter_keep_fraction: float = field(
        default=0.1,
        metadata={"help": "Share of unsure tokens that is kept whatever their advantage (0: the paper's rule). Ours."},
    )
    filter_keep_confident: float | None = field(
        default=0.98, metadata={"help": "Always keep tokens likelier than this (None: the paper's rule). Ours."}
    )
    awr_temperature: float = field(default=1.0, metadata={"help": "Temperature of actor_objective='awr'."})
    awr_max_weight: float = field(default=20.0, metadata={"help": "Upper limit of a weight of 'awr'."})
    mask_invalid_tokens: bool = field(
        default=True, metadata={"help": "Exclude padded rows of the head and image tokens from the policy."}
    )
    streamed_head: bool = field(
        default=True,
        metadata={"help": "Stream values from the language head: the same numbers in less time and memory."},
    )

    # End
    weight_averaging_ratio: float = field(
        default=0.15,
        metadata={"help": "Share of training at its end whose weights are averaged (0: keep the last ones). Ours."},
    )

    # Data
    segment_length: int = field(
        default=4, metadata={"help": "Consecutive turns per example; K turns cost at most K + 1 forwards. Ours."}
    )
    segments_per_epoch: int | None = field(
        default=None, metadata={"help": "Segments between two online rounds. Default: as many as the logs have."}
    )
    online_share: float = field(
        default=0.5, metadata={"help": "Share of segments of the agent's own episodes once there are any. Ours."}
    )
    online_share_epochs: int = field(
        default=0, metadata={"help": "Epochs over which online_share rises from 0. Ours."}
    )
    replay_capacity_turns: int | None = field(
        default=None, metadata={"help": "Online turns that are kept, the oldest go first. Default: all."}
    )
    replay_capacity_bytes: int | None = field(
        default=None, metadata={"help": "Bytes of online turns that are kept. Default: all."}
    )
    replay_priority: str = field(
        default="uniform",
        metadata={
            "help": "'td_error' prefers segments that the critic was wrong about, 'return' those of good episodes.",
            "choices": list(PRIORITIES),
        },
    )
    replay_priority_alpha: float = field(
        default=0.6, metadata={"help": "0: uniform, 1: proportional to the priority."}
    )
    replay_priority_beta: float = field(default=0.4, metadata={"help": "How far importance weights correct for it."})

    def __post_init__(self):
        if self.bf16 is None:
            self.bf16 = (
                not (self.fp16 or self.use_cpu) and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            )
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for, and torch warns
        if self.data_seed is None:
            self.data_seed = self.seed  # else the order of segments hangs on whoever seeded torch last
        self._check()
        super().__post_init__()

    def _check(self) -> None:
        for name, options in (
            ("td_horizon", TD_HORIZONS),
            ("actor_objective", ACTOR_OBJECTIVES),
            ("actor_normalizer", ("tokens", "kept")),
            ("advantage_baseline", ("online", "target")),
            ("replay_priority", PRIORITIES),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(options)}.")
        for name, low, high in (
            ("gamma", 0, 1),
            ("token_gamma", 0, 1),
            ("target_tau", 0, 1),
            ("filter_warmup_ratio", 0, 1),
            ("filter_min_explained_variance", -math.inf, 1),
            ("filter_ramp_ratio", 0, 1),
            ("filter_keep_fraction", 0, 1),
            ("filter_keep_confident", 0, 1),
            ("critic_coef", 0, math.inf),
            ("actor_coef", 0, math.inf),
            ("critic_learning_rate", 0, math.inf),
            ("weight_averaging_ratio", 0, 1),
            ("online_share", 0, 1),
            ("online_share_epochs", 0, math.inf),
            ("replay_priority_alpha", 0, math.inf),
            ("replay_priority_beta", 0, 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value} lies outside of [{low}, {high}].")
        for name in (
            "segment_length", "num_critics", "critic_hidden_size", "reward_scale", "awr_temperature", "awr_max_weight",
            "segments_per_epoch", "replay_capacity_turns", "replay_capacity_bytes",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive.")
        if math.isnan(self.filter_beta):
            raise ValueError("filter_beta is NaN; the paper's value is 0.")
        if self.actor_objective in ("afsft", "random_filter", "epg", "awr") and self.critic_coef == 0:
            raise ValueError(
                f"actor_objective={self.actor_objective!r} needs a trained critic: set critic_coef above 0, or use "
                "actor_objective='sft'."
            )

    def objective(self) -> Objective:
        """The losses that these arguments describe."""
        names = Objective.__dataclass_fields__
        return Objective(**{name: getattr(self, name) for name in names})

    def filter_schedule(self) -> FilterSchedule:
        """The filter's schedule that these arguments describe."""
        return FilterSchedule(
            self.filter_beta,
            self.filter_warmup_ratio,
            self.filter_ramp_ratio,
            self.filter_keep_fraction,
            self.filter_min_explained_variance,
        )

    def replay_kwargs(self) -> dict[str, Any]:
        """Arguments of [`ReplayBuffer`] beside the logs."""
        return {
            "segment_length": self.segment_length,
            "segments_per_epoch": self.segments_per_epoch,
            "online_share": LinearSchedule(0.0, self.online_share, self.online_share_epochs),
            "capacity_turns": self.replay_capacity_turns,
            "capacity_bytes": self.replay_capacity_bytes,
            "prioritization": Prioritization(
                self.replay_priority, self.replay_priority_alpha, self.replay_priority_beta
            ),
            "seed": self.data_seed,
        }

    def critic_kwargs(self) -> dict[str, Any]:
        """Arguments of [`VLMActorCritic`] beside backbone and objective."""
        names = ("critic_hidden_size", "num_critics", "critic_trunk_gradient", "mask_invalid_tokens", "streamed_head")
        return {name: getattr(self, name) for name in names}

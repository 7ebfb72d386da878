# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The model that is trained: a backbone with its language head as actor and a token critic beside it."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn

from .backbones import Backbone, LanguageHead, embedded_name
from .critic import TargetCritic, TokenCritic, load_critic, save_critic
from .losses import (
    Objective,
    TokenValues,
    actor_loss,
    actor_weights,
    advantage,
    confident,
    critic_loss,
    filter_keeps,
    td_targets,
)
from .schedules import FilterState
from .token_metrics import TOKEN_COLUMNS
from .token_values import expected_value_from_head, log_policy, values_from_head, values_from_logits


class VLMActorCritic(nn.Module):
    """Backbone + critic; `forward` returns the loss, so that DDP, ZeRO and FSDP hooks fire.

    PEFT is inside, not outside: base -> LoRA -> this wrapper. So the adapter is saved by PEFT itself, loads in plain
    `peft`, and `disable_adapter()` gives the base model back bit for bit.

    Args:
        backbone ([`Backbone`]):
            Adapter around the pretrained model.
        objective ([`Objective`]):
            Losses and their constants.
        critic_hidden_size (`int`, *optional*):
            Hidden width of the critic; defaults to the width of the state (the paper).
        num_critics (`int`, *optional*, defaults to `1`):
            Heads of the critic, averaged.
        critic_trunk_gradient (`bool`, *optional*, defaults to `True`):
            Whether the critic's loss also trains the trunk under it (the paper trains jointly).
        mask_invalid_tokens (`bool`, *optional*, defaults to `True`):
            Whether padded rows of the head and image tokens are excluded from pi.
        streamed_head (`bool`, *optional*, defaults to `True`):
            Whether values are streamed from the language head instead of computed from all logits, where the formula
            of the head is known: the same numbers in less time and memory.

    Raises:
        ValueError: if an adapter trains the language head or the token embedding.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        *,
        critic_hidden_size: int | None = None,
        num_critics: int = 1,
        critic_trunk_gradient: bool = True,
        mask_invalid_tokens: bool = True,
        streamed_head: bool = True,
    ):
        super().__init__()
        if isinstance(backbone.model, PeftModel):
            _refuse_adapted_head(backbone.model)
        self.backbone = backbone
        self.model = backbone.model
        self.config = self.model.config
        self.objective = objective
        self.critic_trunk_gradient = critic_trunk_gradient
        self.mask_invalid_tokens = mask_invalid_tokens
        self.streamed_head = streamed_head
        self.filter_state = FilterState()
        self.register_buffer("valid_tokens", backbone.valid_token_mask(), persistent=False)
        self.critic = self.target_critic = None
        if objective.needs_critic:
            self.critic = TokenCritic(backbone.hidden_size, backbone.n_logits, critic_hidden_size, num_critics)
            self.critic.to(self.model.device)
            self.target_critic = TargetCritic(self.critic)
        self.head_reader = HeadReader()

    # ---- Building ----

    @staticmethod
    def add_adapter(backbone: Backbone, peft_config: PeftConfig) -> None:
        """Put a LoRA adapter inside the backbone's model.

        `target_modules` left out means every linear layer of the language model and none of the vision tower.

        Raises:
            ValueError: if the model has an adapter already.
        """
        if isinstance(backbone.model, PeftModel):
            raise ValueError("The model already has an adapter; pass `peft_config=None` to go on training it.")
        peft_config = copy.copy(peft_config)  # the caller may want it for another model
        if getattr(peft_config, "target_modules", None) is None:
            peft_config.target_modules = backbone.lora_target_modules
        if getattr(backbone.model, "is_loaded_in_4bit", False) or getattr(backbone.model, "is_loaded_in_8bit", False):
            backbone.model = prepare_model_for_kbit_training(backbone.model, use_gradient_checkpointing=False)
        backbone.model = get_peft_model(backbone.model, peft_config)
        backbone.trainability_changed()

    # ---- Values ----

    def token_values(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> tuple[TokenValues, torch.Tensor]:
        """Per-token values of a batch, for the loss or for anyone who wants to look.

        Args:
            inputs (`dict[str, torch.Tensor]`):
                Model inputs of B prompts with their actions, from [`TokenTDCollator`].
            labels (`torch.Tensor`):
                Action tokens, int64 [B, n], -100 where there is none.

        Returns:
            [`TokenValues`] and Vbar of the first state of each turn, [B].
        """
        mask = labels != -100
        states, produced = self._read(inputs, keep=labels.shape[1])
        critics = None if self.critic is None else (self.critic, self.target_critic)
        rest = (labels[mask], self._valid, critics, self.objective, self.critic_trunk_gradient)
        if isinstance(produced, LanguageHead):
            kept_share = self.filter_state.kept_share
            flat = self.head_reader(values_from_head, states[mask], produced, *rest, kept_share=kept_share)
        else:
            flat = values_from_logits(states[mask], produced[mask], *rest)

        def spread(x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros(*x.shape[:-1], *mask.shape).masked_scatter(mask, x)

        values = TokenValues(**{name: spread(x.to(flat["logp"].dtype)) for name, x in flat.items()}, mask=mask)
        return values, values.v_target[:, 0]

    @torch.no_grad()
    def state_values(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Vbar of the first state of each turn, [B]: the bootstrap forward over observations only."""
        states, produced = self._read(inputs, keep=1)
        if isinstance(produced, LanguageHead):
            return self.head_reader(expected_value_from_head, states[:, 0], produced, self._valid, self.target_critic)
        policy = log_policy(produced[:, 0], self._valid).exp()
        return (policy * self.target_critic(states[:, 0]).mean(0)).sum(-1)

    def _read(self, inputs: dict[str, torch.Tensor], keep: int) -> tuple[torch.Tensor, torch.Tensor | LanguageHead]:
        """States [B, keep, d], and either their logits [B, keep, V] or the head to stream values from."""
        head = self.backbone.language_head(inputs) if self.streamed_head else None
        if head is None:
            return self.backbone.forward(inputs, keep)
        return self.backbone.states(inputs, keep), head

    @property
    def head_weights(self) -> list[nn.Parameter]:
        """What `head_reader` reads: the weights of language head and critic."""
        heads = [self.model.get_output_embeddings(), *([] if self.critic is None else [self.critic])]
        return [weight for head in heads for weight in head.parameters()]

    @property
    def _valid(self) -> torch.Tensor | None:
        return self.valid_tokens if self.mask_invalid_tokens else None

    # ---- Loss ----

    def forward(
        self,
        labels: torch.Tensor,
        inputs: dict[str, torch.Tensor],
        reward: torch.Tensor,
        terminated: torch.Tensor,
        next_index: torch.Tensor,
        row: torch.Tensor,
        role: torch.Tensor,
        turn_weight: torch.Tensor | None = None,
        bootstrap_inputs: dict[str, torch.Tensor] | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Loss of a batch from [`TokenTDCollator`] (shapes there), and the per-token values behind it.

        Args:
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Action tokens of the whole accumulation window; defaults to those of this batch.

        Returns:
            `dict`: `loss` (scalar) and `tokens`, float32 [N, 11] without gradient: one row per action token with the
            columns `TOKEN_COLUMNS`.
        """
        objective, state = self.objective, self.filter_state
        values, first_v = self.token_values(inputs, labels)
        num_tokens = values.mask.sum() if num_items_in_batch is None else num_items_in_batch
        turn_weights = 1.0 if turn_weight is None else turn_weight[:, None]
        if objective.needs_critic:
            bootstrap = self.state_values(bootstrap_inputs) if bootstrap_inputs else first_v[:0]
            # Vbar(s_{t+1}^1): of a turn in this batch, of a bootstrap row, or zero after the end of an episode.
            next_v = torch.cat([first_v, bootstrap, first_v.new_zeros(1)])[next_index]
            y = td_targets(values, next_v, reward, terminated, objective)
            critic = critic_loss(values, y, num_tokens, turn_weights)
        else:  # no critic, no target
            y = torch.zeros_like(values.v)
            critic = values.logp.new_zeros(())
        A = advantage(values, objective)
        weights = actor_weights(
            values, A, row, objective, beta=state.beta, kept_share=state.kept_share, step=state.step
        )
        kept = objective.actor_normalizer == "kept"
        normalizer = num_tokens * state.share_to_divide_by(objective.actor_objective) if kept else num_tokens
        actor = actor_loss(values, weights, normalizer, objective, turn_weights)
        loss = objective.actor_coef * actor + objective.critic_coef * critic
        with torch.no_grad():
            columns = {
                "logp": values.logp,
                "entropy": values.entropy,
                "q": values.q.mean(0),
                "v": values.v,
                "advantage": A,
                "target": y,
                "critic_error": (values.q - y).square().mean(0),
                "weight": weights,
                "kept": filter_keeps(values, A, state.beta, objective),
                "confident": confident(values, objective),
                "role": role,
            }
            tokens = torch.stack([columns[name][values.mask].float() for name in TOKEN_COLUMNS], dim=1)
        return {"loss": loss, "tokens": tokens}

    # ---- Saving ----

    def save_pretrained(self, folder: str | Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write the adapter (or the full model) as PEFT (or transformers) does, and the critic beside it."""
        settings = {}
        if state_dict is not None:  # where processes hold parts
            whole = {k.removeprefix("model."): v for k, v in state_dict.items() if k.startswith("model.")}
            settings["state_dict"] = whole
        if isinstance(self.model, PeftModel):
            # Left to itself, PEFT looks for the base on the Hub to see whether its vocabulary grew; ours never does.
            settings["save_embedding_layers"] = False
            config = self.model.active_peft_config
            config.base_model_name_or_path = embedded_name(config.base_model_name_or_path)
        self.model.save_pretrained(folder, **settings)
        if self.critic is not None:
            save_critic(folder, self.critic, self.target_critic, state_dict)

    def load_weights(self, folder: str | Path) -> None:
        """Read what [`VLMActorCritic.save_pretrained`] wrote back into this model, in place."""
        if isinstance(self.model, PeftModel):
            self.model.load_adapter(str(folder), self.model.active_adapter, is_trainable=True)
        else:
            base = type(self.model).from_pretrained(str(folder), dtype=self.model.dtype)
            self.model.load_state_dict(base.state_dict())
        if self.critic is not None:
            load_critic(folder, self.critic, self.target_critic)

    # ---- What the Trainer asks of a model ----

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the layers that FSDP shards one by one: the backbone's, without those that this model lacks."""
        present = {type(module).__name__ for module in self.model.modules()}
        return sorted(present.intersection(self.model._no_split_modules or ()))

    @property
    def device(self) -> torch.device:
        return self.model.device

    def create_or_update_model_card(self, folder: str) -> None:
        """Called by [`~transformers.Trainer`] where the model is an adapter."""
        self.model.create_or_update_model_card(folder)

    def activation_checkpointing_enable(self, **kwargs) -> None:
        self.model.enable_input_require_grads()
        self.model.activation_checkpointing_enable(**kwargs)


class HeadReader(nn.Module):
    """Runs what reads the weights of language head and critic past their own modules: ZeRO-3 gathers them for a module."""

    def forward(self, compute: Callable, *args, **kwargs):
        return compute(*args, **kwargs)


def _refuse_adapted_head(model: PeftModel) -> None:
    for what, module in (
        ("language head", model.get_output_embeddings()),
        ("embedding", model.get_input_embeddings()),
    ):
        if any(p.requires_grad for p in module.parameters()):
            raise ValueError(
                f"The adapter trains the {what} ({type(module).__name__}). The actor's head is shared with the base "
                "model and servers such as vLLM reject such adapters: remove lm_head and embed_tokens from "
                "`target_modules` and `modules_to_save` (or use `exclude_modules`)."
            )

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Log-probabilities and values of action tokens, in two ways: from all logits (the reference), or streamed."""

import torch
from torch import nn

from .backbones import LanguageHead
from .critic import CriticHead
from .fused import streamed_values
from .losses import Objective


# A name of TokenValues -> its values, [N] each ("q": [C, N]).
FlatValues = dict[str, torch.Tensor]


def log_policy(logits: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """log pi over valid tokens, at least float32 [N, V], of logits [N, V]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if valid is not None:
        logits = logits.masked_fill(~valid, float("-inf"))
    return logits.log_softmax(-1)


def values_from_logits(
    states: torch.Tensor,
    logits: torch.Tensor,
    actions: torch.Tensor,
    valid: torch.Tensor | None,
    critics: tuple[nn.Module, nn.Module] | None,
    objective: Objective,
    trunk_gradient: bool,
) -> FlatValues:
    """
    The reference: every tensor that the formulas name is there, [N, V].

    Args:
        states (`torch.Tensor`):
            States of N action tokens, [N, d].
        logits (`torch.Tensor`):
            What the model makes of them, [N, V].
        actions (`torch.Tensor`):
            The tokens, int64 [N].
        valid (`torch.Tensor`, *optional*):
            True for tokens that an action may consist of, bool [V].
        critics (`tuple[TokenCritic, TargetCritic]`, *optional*):
            Critic and target critic; without them all values are 0.
        objective ([`Objective`]):
            Decides which values are needed.
        trunk_gradient (`bool`):
            Whether the critic's gradient reaches the states.
    """
    logp_all = log_policy(logits, valid)
    logp = logp_all.gather(-1, actions[:, None])[:, 0]
    entropy = torch.special.entr(logp_all.detach().exp()).sum(-1)
    if critics is None:
        return _without_critic(logp, entropy)
    critic, target_critic = critics
    q_all = critic(states if trunk_gradient else states.detach())
    q = q_all.gather(-1, actions[None, :, None].expand(len(q_all), -1, 1))[..., 0]
    q_target_all = target_critic(states).mean(0)
    v_target = (logp_all.detach().exp() * q_target_all).sum(-1)
    v = v_target
    if objective.needs_online_value:
        with torch.set_grad_enabled(objective.actor_objective == "epg" and torch.is_grad_enabled()):
            v = (logp_all.exp() * q_all.detach().mean(0)).sum(-1)
    q_target = q_target_all.gather(-1, actions[:, None])[:, 0]
    return {"logp": logp, "entropy": entropy, "q": q, "v": v, "v_target": v_target, "q_target": q_target}


def values_from_head(
    states: torch.Tensor,
    head: LanguageHead,
    actions: torch.Tensor,
    valid: torch.Tensor | None,
    critics: tuple[nn.Module, nn.Module] | None,
    objective: Objective,
    trunk_gradient: bool,
    *,
    kept_share: float,
) -> FlatValues:
    """
    The same values without a tensor of [N, V]; see [`values_from_logits`].

    Args:
        head ([`LanguageHead`]):
            What would make the logits.
        kept_share (`float`):
            Share of the tokens whose log pi(a|s) will have a gradient, as far as is known.
    """
    read = states.to(_computing_dtype(states))
    early = kept_share >= 0.5
    if critics is None:
        values = streamed_values(read, actions, head, valid=valid, early_gradient=early)
        return _without_critic(values.logp, values.entropy)
    critic, target_critic = critics
    online = CriticHead.of(critic, states if trunk_gradient else states.detach())
    with torch.no_grad():
        target = CriticHead.of(target_critic, states)
        q_target = target.of_actions(actions).mean(0)
    values = streamed_values(
        read, actions, head, [online, target] if objective.needs_online_value else [target], valid=valid,
        policy_gradient=objective.actor_objective == "epg", early_gradient=early,
    )  # fmt: skip
    return {
        "logp": values.logp,
        "entropy": values.entropy,
        "q": online.of_actions(actions),
        "v": values.expectations[0],
        "v_target": values.expectations[-1],
        "q_target": q_target,
    }


def expected_value_from_head(
    states: torch.Tensor, head: LanguageHead, valid: torch.Tensor | None, critic: nn.Module
) -> torch.Tensor:
    """sum_a pi(a|s) Q(s, a) of N states, [N], without gradient."""
    with torch.no_grad():
        no_actions = torch.zeros(len(states), dtype=torch.long, device=states.device)
        read = states.to(_computing_dtype(states))
        return streamed_values(read, no_actions, head, [CriticHead.of(critic, states)], valid=valid).expectations[0]


def _without_critic(logp: torch.Tensor, entropy: torch.Tensor) -> FlatValues:
    zeros = torch.zeros_like(logp)
    return {"logp": logp, "entropy": entropy, "q": zeros[None], "v": zeros, "v_target": zeros, "q_target": zeros}


def _computing_dtype(states: torch.Tensor) -> torch.dtype:
    """The dtype in which the model's own head would compute here."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype

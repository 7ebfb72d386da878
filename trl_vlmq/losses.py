# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The mathematics of VLM Q-Learning on per-token values: the reference.

Shapes: B turns, n action tokens (right-padded), C critics. Nothing here sees logits: whoever produces
[`TokenValues`] is replaceable. Advantage-filtered SFT is Eq. 4 of the paper; the rest is named where it stands.
"""

from dataclasses import dataclass

import torch


ACTOR_OBJECTIVES = ("afsft", "sft", "random_filter", "epg", "awr")
TD_HORIZONS = ("token", "turn", "tree_backup")


@dataclass(frozen=True)
class Objective:
    """Which losses, with which constants; each is documented in [`AFSFTConfig`] under the same name."""

    actor_objective: str = "afsft"
    actor_coef: float = 1.0
    critic_coef: float = 1.0
    gamma: float = 0.99
    token_gamma: float = 1.0
    td_horizon: str = "turn"
    reward_scale: float = 1.0
    advantage_baseline: str = "online"
    actor_normalizer: str = "tokens"
    filter_keep_confident: float | None = None
    awr_temperature: float = 1.0
    awr_max_weight: float = 20.0
    seed: int = 0

    @property
    def needs_critic(self) -> bool:
        return self.actor_objective != "sft" or self.critic_coef != 0

    @property
    def needs_online_value(self) -> bool:
        """Whether V of the critic itself is read; Vbar stands in its place otherwise, one projection fewer."""
        return self.advantage_baseline == "online" or self.actor_objective == "epg"


@dataclass
class TokenValues:
    """Per-token values of B turns, zero outside of `mask`.

    Args:
        logp (`torch.Tensor`): log pi(a|s), [B, n], with gradient to the actor.
        entropy (`torch.Tensor`): entropy of pi(.|s) in nats, [B, n], no gradient.
        q (`torch.Tensor`): Q(s, a) of each critic, [C, B, n], with gradient to the critic.
        v (`torch.Tensor`): sum_a pi(a|s) Q(s, a), [B, n], or `v_target` where it is not needed
            (`Objective.needs_online_value`); gradient to the actor only, and only under "epg".
        v_target (`torch.Tensor`): sum_a pi(a|s) Qbar(s, a), [B, n], no gradient.
        q_target (`torch.Tensor`): Qbar(s, a), [B, n], no gradient.
        mask (`torch.Tensor`): True on action tokens, [B, n].
    """

    logp: torch.Tensor
    entropy: torch.Tensor
    q: torch.Tensor
    v: torch.Tensor
    v_target: torch.Tensor
    q_target: torch.Tensor
    mask: torch.Tensor

    def __post_init__(self):
        shape = self.mask.shape
        assert self.mask.dtype == torch.bool and self.q.shape[1:] == shape, (self.mask.dtype, self.q.shape, shape)
        assert all(x.shape == shape for x in (self.logp, self.entropy, self.v, self.v_target, self.q_target))


def td_targets(
    values: TokenValues, next_v: torch.Tensor, reward: torch.Tensor, terminated: torch.Tensor, objective: Objective
) -> torch.Tensor:
    """TD targets y, [B, n], without gradient.

    Args:
        values ([`TokenValues`]):
            Values of the turns.
        next_v (`torch.Tensor`):
            Vbar of the first state of the following turn (of the final observation after a truncation), [B].
        reward (`torch.Tensor`):
            Reward of the turn before scaling, [B].
        terminated (`torch.Tensor`):
            True where the environment ended the episode, [B]. Truncation is not termination.
        objective ([`Objective`]):
            `gamma`, `token_gamma`, `td_horizon` ("token": the paper's one-step rule; "turn" and "tree_backup": ours),
            `reward_scale`.
    """
    mask, v_target = values.mask, values.v_target
    n = mask.shape[1]
    assert next_v.shape == reward.shape == terminated.shape == mask.shape[:1]
    bootstrap = torch.where(terminated, torch.zeros_like(next_v), next_v)
    turn_target = (objective.reward_scale * reward.to(v_target) + objective.gamma * bootstrap)[:, None]
    position = torch.arange(n, device=mask.device)
    last = mask.sum(1, keepdim=True) - 1  # [B, 1]
    if objective.td_horizon == "turn":
        y = objective.token_gamma ** (last - position).clamp(min=0).to(v_target) * turn_target
    elif objective.td_horizon == "token":
        following = torch.cat([v_target[:, 1:], torch.zeros_like(v_target[:, :1])], dim=1)
        y = torch.where(position == last, turn_target, objective.token_gamma * following)
    else:
        y = _tree_backup(values, turn_target, objective.token_gamma)
    assert y.shape == mask.shape
    return y.detach() * mask


def _tree_backup(values: TokenValues, turn_target: torch.Tensor, token_gamma: float) -> torch.Tensor:
    """Targets [B, n] from the end of a turn, [B, 1], by Tree Backup (Precup, Sutton and Singh 2000): from last to first

        y^i = token_gamma * (Vbar(s^{i+1}) + pi(a^{i+1}|s^{i+1}) * (y^{i+1} - Qbar(s^{i+1}, a^{i+1})))

    Where the policy is sure of what the log says next, the turn's end comes through at once; where it is not, the
    other tokens count with their own values, so that the fixed point is the policy's value whoever wrote the log.
    """
    probability = values.logp.detach().exp()
    y = torch.zeros_like(values.v_target)
    after = turn_target[:, 0]
    for i in reversed(range(y.shape[1])):
        present = values.mask[:, i]
        y[:, i] = after
        backed_up = token_gamma * (values.v_target[:, i] + probability[:, i] * (after - values.q_target[:, i]))
        after = torch.where(present, backed_up, after)
    return y


def critic_loss(
    values: TokenValues,
    y: torch.Tensor,
    num_tokens: torch.Tensor | float,
    turn_weights: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Sum over action tokens, mean over critics, of (Q(s, a) - y)^2, divided by `num_tokens`.

    `turn_weights` ([B, 1] or a number) are the importance weights of turns that were chosen by priority.
    """
    error = (values.q - y).square() * values.mask * turn_weights
    return error.mean(0).sum() / num_tokens


def advantage(values: TokenValues, objective: Objective) -> torch.Tensor:
    """A(s, a) = Q(s, a) - V(s), [B, n], without gradient."""
    baseline = values.v if objective.advantage_baseline == "online" else values.v_target
    return ((values.q.mean(0) - baseline) * values.mask).detach()


def confident(values: TokenValues, objective: Objective) -> torch.Tensor:
    """True where pi(a|s) exceeds `filter_keep_confident`, [B, n]: tokens on which A is 0 up to noise (ours)."""
    if objective.filter_keep_confident is None:
        return torch.zeros_like(values.mask)
    return (values.logp.detach().exp() > objective.filter_keep_confident) & values.mask


def actor_weights(
    values: TokenValues,
    A: torch.Tensor,
    row: torch.Tensor,
    objective: Objective,
    *,
    beta: float,
    kept_share: float,
    step: int,
) -> torch.Tensor:
    """Weight of -log pi(a|s) of each action token, [B, n]: what distinguishes the objectives, "epg" aside.

    Args:
        values ([`TokenValues`]):
            Values of the turns.
        A (`torch.Tensor`):
            Advantages, [B, n].
        row (`torch.Tensor`):
            Identity of each turn, int64 [B]; random draws are hashed from it and from `step`.
        objective ([`Objective`]):
            The objective.
        beta (`float`):
            Threshold of the filter.
        kept_share (`float`):
            Running share of tokens that the filter keeps; what "random_filter" imitates.
        step (`int`):
            Optimiser steps done.
    """
    mask = values.mask
    if objective.actor_objective == "sft":
        weights = mask
    elif objective.actor_objective == "random_filter":
        weights = mask & (token_uniforms(row, mask.shape[1], step, objective.seed) < kept_share)
    elif objective.actor_objective == "awr":
        weights = (A / objective.awr_temperature).exp().clamp(max=objective.awr_max_weight) * mask
    else:
        weights = filter_keeps(values, A, beta, objective)
    return weights.to(values.logp.dtype)


def filter_keeps(values: TokenValues, A: torch.Tensor, beta: float, objective: Objective) -> torch.Tensor:
    """1{A > beta}, or a confident token: the advantage filter, bool [B, n]."""
    return ((A > beta) | confident(values, objective)) & values.mask


def actor_loss(
    values: TokenValues,
    weights: torch.Tensor,
    num_tokens: torch.Tensor | float,
    objective: Objective,
    turn_weights: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """-(1 / `num_tokens`) sum of weight * log pi(a|s); "epg" is -(1 / `num_tokens`) sum of sum_a pi(a|s) Q(s, a).

    `turn_weights` as in [`critic_loss`].
    """
    if objective.actor_objective == "epg":
        return -(values.v * values.mask * turn_weights).sum() / num_tokens
    return -(weights * values.logp * turn_weights).sum() / num_tokens


def token_uniforms(row: torch.Tensor, n: int, step: int, seed: int) -> torch.Tensor:
    """Uniforms in [0, 1) that depend on nothing but (seed, step, row, token position): [B] int64 -> float64 [B, n].

    SplitMix64 on the counter, so that micro-batches, ranks and resumed runs draw alike.
    """
    start = (seed * 1_000_000_007 + step + 1) * 0x9E3779B97F4A7C15 % (1 << 64)
    x = row[:, None] * 1_000_003 + torch.arange(n, device=row.device) + (start - (1 << 63))
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return ((x >> 11) & ((1 << 53) - 1)).double() * 2.0**-53

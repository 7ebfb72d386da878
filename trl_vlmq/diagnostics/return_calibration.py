# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Can the critic be trusted: is Q the return that the policy really gets?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.episodes import Episode, episodes_to_dataset
from trl_vlmq.policies import Policy
from trl_vlmq.roles import TokenRole
from trl_vlmq.rollout import MakeEnv, play_episodes
from trl_vlmq.statistics import mean_interval

from .batches import held_out_batches, require_critic


@dataclass
class ReturnCalibration:
    """Q of T turns that a policy played, and what came of each.

    Args:
        q (`numpy.ndarray`): Q of the last choice token of each turn's action, float64 [T].
        returns (`numpy.ndarray`): discounted, scaled sum of the rewards from that turn on, float64 [T].
    """

    q: np.ndarray
    returns: np.ndarray

    def bias(self) -> tuple[float, float, float]:
        """Mean of Q - return with its 95% interval; above 0 the critic is too optimistic."""
        return mean_interval(self.q - self.returns)

    def rank_correlation(self) -> float:
        """Spearman's; 0 where one of the two does not vary."""
        if np.ptp(self.q) == 0 or np.ptp(self.returns) == 0:
            return 0.0
        return float(stats.spearmanr(self.q, self.returns).statistic)

    def curve(self, bins: int = 10) -> list[tuple[float, float, float, float]]:
        """(mean Q, mean return, low, high of its 95% interval) of each of so many groups of turns of like Q."""
        order = np.argsort(self.q, kind="stable")
        groups = [group for group in np.array_split(order, min(bins, len(order))) if len(group)]
        return [(float(self.q[group].mean()), *mean_interval(self.returns[group])) for group in groups]

    def summary(self) -> dict[str, float]:
        """All of it as plain numbers."""
        bias, low, high = self.bias()
        return {
            "turns": len(self.q),
            "bias": bias,
            "bias_low": low,
            "bias_high": high,
            "rank_correlation": self.rank_correlation(),
            "mean_q": float(self.q.mean()),
            "mean_return": float(self.returns.mean()),
        }

    def verdict(self) -> str:
        """One plain sentence."""
        bias, low, high = self.bias()
        correlation, spread = self.rank_correlation(), float(self.returns.std())
        ranks = "ranks" if correlation >= 0.5 else "hardly ranks" if correlation >= 0.2 else "is blind to"
        if low <= 0 <= high or abs(bias) < 0.1 * spread:
            level = "and is about as high as they are"
        else:
            level = f"and is too {'high' if bias > 0 else 'low'} by {abs(bias):.2f}"
        return (
            f"Q {ranks} the returns of the policy (Spearman {correlation:.2f}, {len(self.q)} turns) {level} "
            f"(mean {self.q.mean():.2f} against {self.returns.mean():.2f})."
        )


def calibrate_returns(
    model: VLMActorCritic,
    make_env: MakeEnv,
    policy: Policy,
    num_episodes: int = 200,
    *,
    seed: int = 4_000_000,
    batch_size: int = 32,
    env_kwargs: Mapping[str, Any] | None = None,
    prompt_builder: PromptBuilder | None = None,
) -> ReturnCalibration:
    """
    Play episodes and hold Q against the return of every turn (Monte Carlo). Ours.

    Q is that of the policy that the critic was trained beside, sampled at temperature 1: play with that one. The
    episode's end ends the sum of rewards, a truncation too, so give the environment time enough (`max_steps`).

    Args:
        model ([`VLMActorCritic`]):
            Actor and critic, e.g. `trainer.model`.
        make_env (`str` or `Callable`):
            Gymnasium id, or a function that makes an environment.
        policy ([`Policy`]):
            Who plays, e.g. `VLMPolicy(model.backbone, temperature=1.0)`.
        num_episodes (`int`, *optional*, defaults to `200`):
            Episodes to play.
        seed (`int`, *optional*, defaults to `4000000`):
            Seed of the episodes, far from those of data and evaluation.
        batch_size (`int`, *optional*, defaults to `32`):
            Turns at once.
        env_kwargs (`Mapping`, *optional*):
            Arguments for `gymnasium.make`, if `make_env` is an id.
        prompt_builder ([`PromptBuilder`], *optional*):
            The one that the model was trained with.

    Raises:
        ValueError: if the model has no critic.
    """
    require_critic(model)
    episodes = list(
        play_episodes(make_env, policy, num_episodes, seed=seed, env_kwargs=env_kwargs, prompt_builder=prompt_builder)
    )
    objective = model.objective
    returns = discounted_returns(episodes, objective.gamma, objective.reward_scale)
    training = model.training
    model.eval()
    q = [
        value
        for batch in held_out_batches(model, episodes_to_dataset(episodes), batch_size)
        for value in _q(model, batch)
    ]
    model.train(training)
    return ReturnCalibration(np.array(q), returns)


def discounted_returns(episodes: Sequence[Episode], gamma: float, reward_scale: float = 1.0) -> np.ndarray:
    """Sum of `reward_scale` * `gamma`^k * reward of the k-th turn from each turn on, float64 [turns of all episodes]."""
    found = []
    for episode in episodes:
        total, backwards = 0.0, []
        for turn in reversed(episode.turns):
            total = reward_scale * turn.reward + gamma * total
            backwards.append(total)
        found += reversed(backwards)
    return np.array(found, dtype=np.float64)


@torch.no_grad()
def _q(model: VLMActorCritic, batch: dict) -> list[float]:
    """Q of the last choice token of each action; of its last token where none is a choice."""
    values, _ = model.token_values(batch["inputs"], batch["labels"])
    position = torch.arange(values.mask.shape[1], device=values.mask.device)
    choice = values.mask & (batch["role"] == TokenRole.CHOICE)
    wanted = torch.where(choice.any(1, keepdim=True), choice, values.mask)
    last = (wanted * position).amax(1)
    return values.q.mean(0).gather(1, last[:, None])[:, 0].double().tolist()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How good is a policy: success rate with its interval, return, syntax accuracy, episode length."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .envs import PromptBuilder
from .episodes import Episode
from .policies import Policy
from .rollout import MakeEnv, play_episodes, play_lost_again
from .statistics import mean_interval, wilson_interval


@dataclass
class EvaluationResult:
    """Outcome of every episode of an evaluation, in the order of their seeds.

    Args:
        success (`numpy.ndarray`): bool [E].
        returns (`numpy.ndarray`): undiscounted sum of rewards, float64 [E].
        lengths (`numpy.ndarray`): turns, int64 [E].
        valid_actions (`numpy.ndarray`): turns whose action the environment could read, int64 [E].
        env_ids (`numpy.ndarray`): what was played, str [E].
    """

    success: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    valid_actions: np.ndarray
    env_ids: np.ndarray

    @property
    def success_rate(self) -> float:
        return float(self.success.mean())

    @property
    def success_interval(self) -> tuple[float, float]:
        """95% Wilson interval of the success rate."""
        return wilson_interval(int(self.success.sum()), len(self.success))

    @property
    def syntax_accuracy(self) -> float:
        """Share of actions that the environment could read."""
        return float(self.valid_actions.sum() / self.lengths.sum())

    def by_environment(self) -> "dict[str, EvaluationResult]":
        """Gymnasium id of each environment, in alphabetical order -> its episodes alone."""
        of_each = {env_id: self.env_ids == env_id for env_id in np.unique(self.env_ids)}
        return {
            str(env_id): EvaluationResult(**{name: values[chosen] for name, values in vars(self).items()})
            for env_id, chosen in of_each.items()
        }

    def summary(self) -> dict[str, float]:
        """All of it as plain numbers."""
        low, high = self.success_interval
        mean, return_low, return_high = mean_interval(self.returns)
        return {
            "episodes": len(self.success),
            "success_rate": self.success_rate,
            "success_low": low,
            "success_high": high,
            "mean_return": mean,
            "mean_return_low": return_low,
            "mean_return_high": return_high,
            "syntax_accuracy": self.syntax_accuracy,
            "mean_length": float(self.lengths.mean()),
        }

    @classmethod
    def of(cls, episodes: Iterable[Episode]) -> "EvaluationResult":
        """The outcome of episodes; they are read one by one and not kept."""
        rows = [
            (bool(e.success), e.total_reward, e.length, sum(bool(t.action_is_valid) for t in e.turns), str(e.env_id))
            for e in episodes
        ]
        if not rows:
            raise ValueError("There are no episodes to evaluate.")
        return cls(*map(np.array, zip(*rows, strict=True)))


def evaluate_policy(
    make_env: MakeEnv,
    policy: Policy,
    num_episodes: int = 200,
    *,
    seed: int = 1_000_000,
    num_envs: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    prompt_builder: PromptBuilder | None = None,
    step_timeout: float | None = None,
    max_lost_share: float | None = None,
    progress: str | None = "evaluate",
) -> EvaluationResult:
    """
    Play `num_episodes` episodes and count.

    Reproducible from `seed` and independent of `num_envs`; the default seed is far from those that data are collected
    with, so that the episodes are held out.

    Args:
        make_env (`str` or `Callable`):
            Gymnasium id, or a function that makes an environment.
        policy ([`Policy`]):
            Who acts: [`VLMPolicy`], [`BehaviorPolicy`] or one of your own.
        num_episodes (`int`, *optional*, defaults to `200`):
            Episodes to play.
        seed (`int`, *optional*, defaults to `1000000`):
            Seed of the evaluation.
        num_envs (`int`, *optional*):
            Environments at once, by default as in [`play_episodes`].
        env_kwargs (`Mapping`, *optional*):
            Arguments for `gymnasium.make`, if `make_env` is an id.
        prompt_builder ([`PromptBuilder`], *optional*):
            The one that the policy was trained with.
        step_timeout (`float`, *optional*):
            As in [`play_episodes`]: with it, environments such as browsers work side by side.
        max_lost_share (`float`, *optional*):
            Share of the episodes that may be lost to environments that raise or hang (one at least, unless it is 0); each
            is played again. By default what [`RolloutSettings`] of the environment say: mostly 0, so that the first
            error is raised.
        progress (`str`, *optional*, defaults to `"evaluate"`):
            Label of the progress bar; `None` shows none.

    Raises:
        EnvironmentFailureError: if more episodes were lost than that.
    """
    episodes = play_episodes(
        make_env, policy, num_episodes,
        seed=seed, num_envs=num_envs, env_kwargs=env_kwargs, prompt_builder=prompt_builder, step_timeout=step_timeout,
        faults=play_lost_again(make_env, num_episodes, max_lost_share), progress=progress,
    )  # fmt: skip
    return EvaluationResult.of(episodes)

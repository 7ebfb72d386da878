# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A policy acts in many environments at once -> episodes."""

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import (
    EnvSpec,
    find_highest_version,
    get_env_id,
    load_env_creator,
    parse_env_id,
)
from tqdm.auto import tqdm

from .backbones import GeneratedAction
from .env_worker import EnvironmentFailureError, EnvWorker, FaultTolerance
from .envs import BehaviorUnavailableError, PromptBuilder, RolloutSettings
from .episodes import Episode, Turn
from .policies import Policy, Situation


MakeEnv = str | Callable[[], gym.Env]


# What is played again and fails as often as this fails always.
MAX_LOSSES = 3


def environment_maker(make_env: MakeEnv, env_kwargs: Mapping[str, Any] | None) -> Callable[[], gym.Env]:
    """A function that makes the environment of a Gymnasium id with these arguments; a function stays what it is."""
    return partial(gym.make, make_env, **(env_kwargs or {})) if isinstance(make_env, str) else make_env


def episode_seed(seed: int, index: int) -> int:
    """Seed of the `index`-th episode of a run: what it is does not depend on the number of environments."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def find_spec(env_id: str) -> EnvSpec | None:
    """What an id is registered with, as `gym.make` finds it; `None` if it is not."""
    module, _, env_id = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    try:
        namespace, name, version = parse_env_id(env_id)
        if version is None:
            version = find_highest_version(namespace, name)
        return gym.spec(get_env_id(namespace, name, version))
    except gym.error.Error:  # `gym.make` says it better
        return None


def environment_class(make_env: MakeEnv) -> Callable:
    """The class, or what else makes the environment."""
    if isinstance(make_env, str):
        spec = find_spec(make_env)
        make_env = None if spec is None else spec.entry_point
        if isinstance(make_env, str):
            make_env = load_env_creator(make_env)
    return make_env.func if isinstance(make_env, partial) else make_env


def rollout_settings(make_env: MakeEnv) -> RolloutSettings:
    """How an environment is best played in, as its class says."""
    return getattr(environment_class(make_env), "rollout_settings", RolloutSettings())


def play_lost_again(make_env: MakeEnv, num_episodes: int, max_lost_share: float | None) -> FaultTolerance | None:
    """The faults of a run whose episodes must all be there.

    Args:
        make_env (`str` or `Callable`):
            The environment, which says what share may be lost where `max_lost_share` is `None`.
        num_episodes (`int`):
            Episodes of the run.
        max_lost_share (`float`, *optional*):
            Share of them that may be lost, one at least, and is played again.

    Raises:
        ValueError: the share lies outside of [0, 1).
    """
    share = rollout_settings(make_env).max_lost_share if max_lost_share is None else max_lost_share
    if not 0 <= share < 1:
        raise ValueError(f"max_lost_share={share} lies outside of [0, 1).")
    return FaultTolerance(max_lost=max(1.0, share * num_episodes), play_again=True) if share else None


class _BrokenEnvironment(Exception):
    """An environment, not a policy, raised the cause of this."""


@dataclass
class _Running:
    """An episode in progress."""

    index: int
    seed: int
    worker: EnvWorker
    observation: dict
    turns: list[Turn] = field(default_factory=list)
    history: list[tuple[dict, str]] = field(default_factory=list)


def play_episodes(
    make_env: MakeEnv,
    policy: Policy,
    num_episodes: int,
    *,
    seed: int = 0,
    first_episode: int = 0,
    num_envs: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    prompt_builder: PromptBuilder | None = None,
    step_timeout: float | None = None,
    faults: FaultTolerance | None = None,
    progress: str | None = None,
) -> Iterator[Episode]:
    """
    Play episodes in many environments at once, with one batched call of the policy per step of all of them.

    Episode i is a function of (`seed`, i) and the policy alone. An episode that the policy cannot act in (a
    behaviour that needs a second object, say) is replaced by one with another seed.

    Args:
        make_env (`str` or `Callable`):
            Gymnasium id, or a function that makes an environment of the text-action contract.
        policy ([`Policy`]):
            Who acts.
        num_episodes (`int`):
            Episodes to play.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the run.
        first_episode (`int`, *optional*, defaults to `0`):
            Number of the first episode: 0 to `num_episodes - 1` and then `num_episodes` more are the same episodes as
            twice as many at once.
        num_envs (`int`, *optional*):
            Environments at once. By default what [`RolloutSettings`] of the environment say, or else 64.
        env_kwargs (`Mapping`, *optional*):
            Arguments for `gymnasium.make`, if `make_env` is an id.
        prompt_builder ([`PromptBuilder`], *optional*):
            From observations to prompts; defaults to `PromptBuilder()`.
        step_timeout (`float`, *optional*):
            Seconds a step of an environment may take; ten times as many to make or reset one. With it every environment
            lives in a thread of its own. By default what [`RolloutSettings`] of the environment say; `math.inf` sets no
            limit.
        faults ([`~env_worker.FaultTolerance`], *optional*):
            Counts episodes lost to environments that raise or hang; these are left out or played again, and their
            environments are made anew. Without it the first such error is raised.
        progress (`str`, *optional*):
            Label of a progress bar; `None` shows none.

    Returns:
        `Iterator[Episode]`: in the order of their numbers.

    Raises:
        EnvironmentFailureError: if more episodes were lost than `faults` tolerates, or one again and again.
    """
    numbered = play_numbered_episodes(
        make_env, policy, num_episodes,
        seed=seed, first_episode=first_episode, num_envs=num_envs, env_kwargs=env_kwargs, prompt_builder=prompt_builder,
        step_timeout=step_timeout, faults=faults, progress=progress,
    )  # fmt: skip
    with closing(numbered):
        for _, episode in numbered:
            if episode is not None:
                yield episode


def play_numbered_episodes(
    make_env: MakeEnv,
    policy: Policy,
    num_episodes: int,
    *,
    seed: int,
    first_episode: int,
    num_envs: int | None,
    env_kwargs: Mapping[str, Any] | None,
    prompt_builder: PromptBuilder | None,
    step_timeout: float | None,
    faults: FaultTolerance | None,
    progress: str | None,
) -> Iterator[tuple[int, Episode | None]]:
    """[`play_episodes`] with the number of each episode, and `None` for one that was lost."""
    settings = rollout_settings(make_env)
    step_timeout = settings.step_timeout if step_timeout is None else step_timeout
    if step_timeout == math.inf:
        step_timeout = None
    num_envs = settings.num_envs or 64 if num_envs is None else num_envs
    if num_envs < 1:
        raise ValueError(f"num_envs={num_envs} must be at least 1.")
    builder = prompt_builder or PromptBuilder()
    make = environment_maker(make_env, env_kwargs)
    env_name = make_env if isinstance(make_env, str) else None
    workers = [EnvWorker(make, step_timeout) for _ in range(min(num_envs, num_episodes))]
    idle, running = list(workers), []
    again: list[int] = []  # lost, and to be played once more
    losses: Counter[int] = Counter()
    finished: dict[int, Episode | None] = {}
    started = delivered = first_episode
    last = first_episode + num_episodes
    bar = tqdm(total=num_episodes, desc=progress, unit="episode", mininterval=1, disable=progress is None)

    def lose(index: int, worker: EnvWorker, error: Exception) -> None:
        if faults is None:
            raise error
        worker.abandon()
        idle.append(worker)
        what = f"Episode {index} of {env_name or 'the environment'}"
        faults.add(what, error)
        if not faults.play_again:
            finished[index] = None
            return
        losses[index] += 1
        if losses[index] == MAX_LOSSES:
            raise EnvironmentFailureError(
                f"{what} was lost {MAX_LOSSES} times, so that it is not bad luck. The last time: {faults.lost[-1]}"
            ) from error
        again.append(index)

    try:
        while delivered < last:
            while idle and (again or started < last):
                worker = idle.pop()
                if again:
                    index = again.pop()
                else:
                    index, started = started, started + 1
                try:
                    running.append(_start(worker, policy, index, seed, builder))
                except _BrokenEnvironment as broken:
                    lose(index, worker, broken.__cause__)
            situations = [_situation(episode, builder) for episode in running]
            actions = policy.act(situations) if situations else []
            for episode, action in zip(running, actions, strict=True):
                episode.worker.begin_step(_text(action))
            still = []
            for episode, situation, action in zip(running, situations, actions, strict=True):
                try:
                    step = episode.worker.end_step()
                except Exception as error:
                    lose(episode.index, episode.worker, error)
                    continue
                if _record(episode, situation, action, step, builder):
                    finished[episode.index] = _finish(episode, policy, env_name)
                    idle.append(episode.worker)
                    bar.update()
                else:
                    still.append(episode)
            running = still
            while delivered in finished:
                yield delivered, finished.pop(delivered)
                delivered += 1
    finally:
        bar.close()
        for worker in workers:
            worker.close()


def _start(worker: EnvWorker, policy: Policy, index: int, seed: int, builder: PromptBuilder) -> _Running:
    for attempt in range(100):
        number = episode_seed(seed, index + attempt * 1_000_003)
        try:
            observation = worker.reset(number)
        except Exception as error:
            raise _BrokenEnvironment from error
        episode = _Running(index, number, worker, observation)
        try:
            policy.start(_situation(episode, builder))
        except BehaviorUnavailableError as error:
            unavailable = error
        else:
            return episode
    raise unavailable


def _situation(episode: _Running, builder: PromptBuilder) -> Situation:
    prompt, images = builder.build(episode.observation, episode.history)
    return Situation(episode.seed, len(episode.turns), prompt, images, episode.worker.env)


def _text(action: GeneratedAction | str) -> str:
    return action.text if isinstance(action, GeneratedAction) else action


def _record(
    episode: _Running, situation: Situation, action: GeneratedAction | str, step: tuple, builder: PromptBuilder
) -> bool:
    """One turn; True if it was the last one."""
    sampled = isinstance(action, GeneratedAction)
    text = _text(action)
    observation, reward, terminated, truncated, info = step
    if builder.history:
        episode.history = [*episode.history, (episode.observation, text)][-builder.history :]
    turn = Turn(
        prompt=situation.prompt,
        images=situation.images,
        completion=text,
        reward=float(reward),
        terminated=bool(terminated),
        truncated=bool(truncated),
        completion_ids=action.ids if sampled else None,
        completion_stopped=action.stopped if sampled else None,
        action_is_valid=bool(info["action_is_valid"]),
        success=bool(info["success"]),
        executed_action=info["executed_action"],
    )
    episode.turns.append(turn)
    episode.observation = observation
    if truncated and not terminated:
        turn.final_prompt, turn.final_images = builder.build(observation, episode.history)
    return terminated or truncated


def _finish(episode: _Running, policy: Policy, env_name: str | None) -> Episode:
    success = episode.turns[-1].success
    behavior = policy.name(episode.seed)
    env = episode.worker.env
    own = getattr(env.unwrapped, "env_id", None)
    env_id = own or env_name or (env.spec.id if env.spec else type(env.unwrapped).__name__)
    for turn in episode.turns:
        turn.success, turn.behavior, turn.env_id = success, behavior, env_id
    return Episode(f"{behavior}-{episode.seed:010d}-{episode.index:06d}", episode.turns)

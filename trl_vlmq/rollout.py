# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A policy acts in many environments at once -> episodes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm.auto import tqdm

from .backbones import GeneratedAction
from .envs import BehaviorUnavailableError, PromptBuilder
from .episodes import Episode, Turn
from .policies import Policy, Situation


MakeEnv = str | Callable[[], gym.Env]


def episode_seed(seed: int, index: int) -> int:
    """Seed of the `index`-th episode of a run: what it is does not depend on the number of environments."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


@dataclass
class _Running:
    """An episode in progress."""

    index: int
    seed: int
    env: gym.Env
    observation: dict
    turns: list[Turn] = field(default_factory=list)
    history: list[tuple[dict, str]] = field(default_factory=list)


def play_episodes(
    make_env: MakeEnv,
    policy: Policy,
    num_episodes: int,
    *,
    seed: int = 0,
    num_envs: int = 64,
    env_kwargs: Mapping[str, Any] | None = None,
    prompt_builder: PromptBuilder | None = None,
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
        num_envs (`int`, *optional*, defaults to `64`):
            Environments at once.
        env_kwargs (`Mapping`, *optional*):
            Arguments for `gymnasium.make`, if `make_env` is an id.
        prompt_builder ([`PromptBuilder`], *optional*):
            From observations to prompts; defaults to `PromptBuilder()`.
        progress (`str`, *optional*):
            Label of a progress bar; `None` shows none.

    Returns:
        `Iterator[Episode]`: in the order of their numbers.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs={num_envs} must be at least 1.")
    builder = prompt_builder or PromptBuilder()
    make = (lambda: gym.make(make_env, **(env_kwargs or {}))) if isinstance(make_env, str) else make_env
    env_name = make_env if isinstance(make_env, str) else None
    envs: list[gym.Env] = []
    running: list[_Running] = []
    finished: dict[int, Episode] = {}
    started = delivered = 0
    bar = tqdm(total=num_episodes, desc=progress, unit="episode", mininterval=1, disable=progress is None)
    try:
        for _ in range(min(num_envs, num_episodes)):
            envs.append(make())
        idle = list(envs)
        while delivered < num_episodes:
            while idle and started < num_episodes:
                running.append(_start(idle.pop(), policy, started, seed, builder))
                started += 1
            situations = [_situation(episode, builder) for episode in running]
            actions = policy.act(situations)
            still = []
            for episode, situation, action in zip(running, situations, actions, strict=True):
                if _step(episode, situation, action, builder):
                    finished[episode.index] = _finish(episode, policy, env_name)
                    idle.append(episode.env)
                    bar.update()
                else:
                    still.append(episode)
            running = still
            while delivered in finished:
                yield finished.pop(delivered)
                delivered += 1
    finally:
        bar.close()
        for env in envs:
            env.close()


def _start(env: gym.Env, policy: Policy, index: int, seed: int, builder: PromptBuilder) -> _Running:
    for attempt in range(100):
        number = episode_seed(seed, index + attempt * 1_000_003)
        observation, _ = env.reset(seed=number)
        episode = _Running(index, number, env, observation)
        try:
            policy.start(_situation(episode, builder))
        except BehaviorUnavailableError as error:
            unavailable = error
        else:
            return episode
    raise unavailable


def _situation(episode: _Running, builder: PromptBuilder) -> Situation:
    prompt, images = builder.build(episode.observation, episode.history)
    return Situation(episode.seed, len(episode.turns), prompt, images, episode.env)


def _step(episode: _Running, situation: Situation, action: GeneratedAction | str, builder: PromptBuilder) -> bool:
    """One turn; True if it was the last one."""
    sampled = isinstance(action, GeneratedAction)
    text = action.text if sampled else action
    observation, reward, terminated, truncated, info = episode.env.step(text)
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
    env_id = env_name or (episode.env.spec.id if episode.env.spec else type(episode.env.unwrapped).__name__)
    for turn in episode.turns:
        turn.success, turn.behavior, turn.env_id = success, behavior, env_id
    return Episode(f"{behavior}-{episode.seed:010d}-{episode.index:06d}", episode.turns)

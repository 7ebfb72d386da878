# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A policy acts in many environments at once -> episodes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from .backbones import Backbone, GeneratedAction
from .envs import Behavior, BehaviorUnavailableError, PromptBuilder
from .episodes import Episode, Turn


MakeEnv = str | Callable[[], gym.Env]


@dataclass
class Situation:
    """What a policy is asked to act on.

    Args:
        seed (`int`):
            Seed of the episode: with `turn` the only source of the policy's randomness.
        turn (`int`):
            Number of the turn.
        prompt (`list[dict]`):
            Messages.
        images (`list[PIL.Image.Image]`):
            Images of the prompt.
        env (`gymnasium.Env`):
            The environment, for scripted behaviours.
    """

    seed: int
    turn: int
    prompt: list[dict]
    images: list[Image.Image]
    env: gym.Env


class Policy(Protocol):
    """Whoever acts: a model or a script."""

    def name(self, seed: int) -> str:
        """Behaviour label of an episode."""

    def start(self, situation: Situation) -> None:
        """An episode begins.

        Raises:
            BehaviorUnavailableError: the policy cannot act in this episode; another one is drawn.
        """

    def act(self, situations: Sequence[Situation]) -> list[GeneratedAction | str]:
        """An action for each situation."""


class VLMPolicy:
    """A model acts, greedily or by sampling.

    Args:
        backbone ([`Backbone`]):
            The model.
        temperature (`float`, *optional*, defaults to `0.0`):
            0 is greedy.
        max_new_tokens (`int`, *optional*, defaults to `32`):
            Limit of an action's length.
        label (`str`, *optional*, defaults to `"policy"`):
            Behaviour label of its episodes.
        mask_invalid_tokens (`bool`, *optional*, defaults to `True`):
            Never sample padded rows of the head or image tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        temperature: float = 0.0,
        max_new_tokens: int = 32,
        label: str = "policy",
        mask_invalid_tokens: bool = True,
    ):
        self.backbone = backbone
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.label = label
        self.mask_invalid_tokens = mask_invalid_tokens

    def name(self, seed: int) -> str:
        return self.label

    def start(self, situation: Situation) -> None:
        pass

    def act(self, situations: Sequence[Situation]) -> list[GeneratedAction]:
        prompts = [self.backbone.encode(situation.prompt, situation.images) for situation in situations]
        uniforms = None
        if self.temperature > 0:
            # One stream per turn of an episode: neither the number of environments nor the order of rows matters.
            draws = [
                np.random.Generator(np.random.Philox(key=[s.seed, s.turn])).random(self.max_new_tokens)
                for s in situations
            ]
            table = torch.from_numpy(np.stack(draws, axis=1))
            uniforms = table.__getitem__
        return self.backbone.generate(
            prompts,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            uniforms=uniforms,
            mask_invalid_tokens=self.mask_invalid_tokens,
        )


class BehaviorPolicy:
    """The environment's scripted behaviours act; which one is drawn for each episode from its seed.

    Args:
        mixture (`str` or `Mapping[str, float]`):
            Name of a behaviour, or names with their relative weights.
    """

    def __init__(self, mixture: str | Mapping[str, float]):
        self.mixture = {mixture: 1.0} if isinstance(mixture, str) else dict(mixture)
        if not self.mixture or min(self.mixture.values()) < 0 or sum(self.mixture.values()) <= 0:
            raise ValueError(f"mixture={self.mixture}: give at least one behaviour a positive weight.")
        self._acting: dict[int, Behavior] = {}  # one for each environment

    def name(self, seed: int) -> str:
        weights = np.array(list(self.mixture.values()), dtype=np.float64)
        return list(self.mixture)[np.random.default_rng([seed, 1]).choice(len(weights), p=weights / weights.sum())]

    def start(self, situation: Situation) -> None:
        rng = np.random.default_rng([situation.seed, 2])
        env = situation.env.unwrapped
        self._acting[id(env)] = env.make_behavior(self.name(situation.seed), rng)

    def act(self, situations: Sequence[Situation]) -> list[str]:
        return [self._acting[id(situation.env.unwrapped)].act() for situation in situations]


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

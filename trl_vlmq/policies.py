# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Who acts: a model or a script."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import gymnasium as gym
import numpy as np
import torch
from PIL import Image

from .backbones import Backbone, GeneratedAction
from .envs import Behavior


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
        token_epsilon (`float`, *optional*, defaults to `0.0`):
            Probability of each token to be drawn uniformly from the valid ones.
    """

    def __init__(
        self,
        backbone: Backbone,
        temperature: float = 0.0,
        max_new_tokens: int = 32,
        label: str = "policy",
        mask_invalid_tokens: bool = True,
        token_epsilon: float = 0.0,
    ):
        self.backbone = backbone
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.label = label
        self.mask_invalid_tokens = mask_invalid_tokens
        self.token_epsilon = token_epsilon

    def name(self, seed: int) -> str:
        return self.label

    def start(self, situation: Situation) -> None:
        pass

    def act(self, situations: Sequence[Situation]) -> list[GeneratedAction]:
        prompts = [self.backbone.encode(situation.prompt, situation.images) for situation in situations]
        uniforms = None
        if self.temperature > 0 or self.token_epsilon > 0:
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
            epsilon=self.token_epsilon,
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


class EpsilonGreedyPolicy:
    """Another policy acts, but with probability epsilon a turn's action is drawn from the environment's valid ones.

    The turn stores the text of the action that was executed. The paper gives epsilon but not what is drawn from; over
    the actions of the environment is ours, [`VLMPolicy`] with `token_epsilon` explores over tokens instead.

    Args:
        policy ([`Policy`]):
            Who acts otherwise. It is asked about the other situations only.
        epsilon (`float`):
            Probability of a random action, in [0, 1].
    """

    def __init__(self, policy: Policy, epsilon: float):
        self.policy = policy
        self.epsilon = epsilon

    def name(self, seed: int) -> str:
        return self.policy.name(seed)

    def start(self, situation: Situation) -> None:
        self.policy.start(situation)

    def act(self, situations: Sequence[Situation]) -> list[GeneratedAction | str]:
        explored = {}
        for i, situation in enumerate(situations):
            rng = np.random.default_rng([situation.seed, situation.turn, 3])
            if rng.random() < self.epsilon:
                explored[i] = random_valid_action(situation.env, rng)
        others = [situation for i, situation in enumerate(situations) if i not in explored]
        answers = iter(self.policy.act(others) if others else [])
        return [explored[i] if i in explored else next(answers) for i in range(len(situations))]


class SloppyPolicy:
    """Another policy acts, but with some probability what it writes is spoiled, so that the environment cannot read it.

    For logs like those of a model that has not learned its syntax: cut off, unquoted, misspelt, wrapped in prose, or
    empty. Ours.

    Args:
        policy ([`Policy`]):
            Who acts, a script. It never learns that it was not understood.
        share (`float`):
            Probability of a spoiled action, in [0, 1].
    """

    def __init__(self, policy: Policy, share: float):
        if not 0 <= share <= 1:
            raise ValueError(f"share={share} of spoiled actions must be between 0 and 1.")
        self.policy = policy
        self.share = share

    def name(self, seed: int) -> str:
        return self.policy.name(seed)

    def start(self, situation: Situation) -> None:
        self.policy.start(situation)

    def act(self, situations: Sequence[Situation]) -> list[str]:
        texts = list(self.policy.act(situations))
        for i, situation in enumerate(situations):
            rng = np.random.default_rng([situation.seed, situation.turn, 4])
            if rng.random() < self.share:
                texts[i] = spoil(texts[i], situation.env.unwrapped.grammar.parse, rng)
        return texts


def spoil(text: str, parse: Callable[[str], str | None], rng: np.random.Generator) -> str:
    """A text like this one that `parse` does not accept."""
    while True:
        cut = int(rng.integers(len(text) + 1))
        spoiled = (
            text[:cut],
            text.replace('"', ""),
            text.replace('"', "'"),
            text[:cut] + text[cut + 1 :],
            f"I think {text}",
            "",
        )[int(rng.integers(6))]
        if parse(spoiled) is None:
            return spoiled


def random_valid_action(env: gym.Env, rng: np.random.Generator) -> str:
    """The text of an action that the environment calls legal now, uniformly.

    Raises:
        TypeError: if the environment does not say which actions are legal.
    """
    world = env.unwrapped
    if not hasattr(world, "legal_actions"):
        raise TypeError(
            f"{type(world).__name__} has no legal_actions(), which exploration over actions draws from: give it that "
            "method, or explore over tokens."
        )
    actions = world.legal_actions()
    action = actions[int(rng.integers(len(actions)))]
    if hasattr(world, "write"):
        return world.write(action)
    return world.grammar.format(action) if hasattr(world, "grammar") else action

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Can the critic be trusted: does it rank the right action above the wrong ones?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.policies import Policy, Situation
from trl_vlmq.roles import TokenRole
from trl_vlmq.rollout import MakeEnv, play_episodes
from trl_vlmq.statistics import wilson_interval

from .batches import require_critic


Prompt = tuple[list[dict[str, Any]], list]  # messages and images


@dataclass
class ActionRanking:
    """Values of S states with M actions each, and which of the actions an oracle takes. Ours.

    Args:
        actions (`list[str]`): the actions.
        right (`numpy.ndarray`): number of the oracle's action in each state, int64 [S].
        q (`numpy.ndarray`): Q of each action, read at its last choice token, float64 [S, M].
        logp (`numpy.ndarray`): log pi of each action's whole text, float64 [S, M].
    """

    actions: list[str]
    right: np.ndarray
    q: np.ndarray
    logp: np.ndarray

    def auroc(self) -> float:
        """Probability that Q(s, right) - mean Q(s, .) exceeds that of a wrong action of a state drawn at random."""
        centred = self.q - self.q.mean(1, keepdims=True)
        is_right = self._is_right()
        positive, negative = centred[is_right], np.sort(centred[~is_right])
        below = np.searchsorted(negative, positive, "left")
        level = np.searchsorted(negative, positive, "right") - below
        return float((below + level / 2).mean() / len(negative))

    def pairs(self) -> float:
        """Share of wrong actions whose Q lies below that of the right action of the same state; ties count half."""
        margin = self.q[np.arange(len(self.q)), self.right][:, None] - self.q
        return float(((margin > 0) + 0.5 * (margin == 0))[~self._is_right()].mean())

    def agreement(self, scores: np.ndarray) -> tuple[float, float, float]:
        """Share of states in which the action with the highest score is the oracle's, with its 95% Wilson interval."""
        hits = int((scores.argmax(1) == self.right).sum())
        return hits / len(scores), *wilson_interval(hits, len(scores))

    def summary(self) -> dict[str, float]:
        """All of it as plain numbers."""
        greedy, low, high = self.agreement(self.q)
        return {
            "states": len(self.q),
            "auroc": self.auroc(),
            "pairs": self.pairs(),
            "q_agreement": greedy,
            "q_agreement_low": low,
            "q_agreement_high": high,
            "policy_agreement": self.agreement(self.logp)[0],
            "spread_of_q": float(self.q.std(1).mean()),
        }

    def _is_right(self) -> np.ndarray:
        return np.arange(self.q.shape[1]) == self.right[:, None]


class _WithOracle:
    """A policy acts as ever; what it is asked, what it could answer and what the oracle would do is written down."""

    def __init__(self, policy: Policy, oracle: str):
        self.policy, self.oracle = policy, oracle
        self.asked: list[tuple[Prompt, list[str], str]] = []  # with the text of each action, and the oracle's text
        self.actions: list[str] = []

    def name(self, seed: int) -> str:
        return self.policy.name(seed)

    def start(self, situation: Situation) -> None:
        self.policy.start(situation)

    def act(self, situations: Sequence[Situation]) -> list:
        for situation in situations:
            env = situation.env.unwrapped
            if not self.actions:
                self.actions = list(getattr(env.grammar, "actions", None) or env.legal_actions())
            oracle = env.make_behavior(self.oracle, np.random.default_rng([situation.seed, situation.turn]))
            texts = [env.write(action) for action in self.actions]
            self.asked.append(((situation.prompt, situation.images), texts, oracle.act()))
        return self.policy.act(situations)


def rank_actions(
    model: VLMActorCritic,
    make_env: MakeEnv,
    policy: Policy,
    num_episodes: int = 50,
    *,
    oracle: str = "expert",
    seed: int = 3_000_000,
    batch_size: int = 32,
    env_kwargs: Mapping[str, Any] | None = None,
    prompt_builder: PromptBuilder | None = None,
) -> ActionRanking:
    """
    Q and log pi of every action in the states that a policy visits, beside the action of an oracle.

    The actions are those of the environment's grammar, if it lists them, legal at the moment or not; else those that are
    legal in the first state. States in which the oracle takes none of them are left out.

    Args:
        model ([`VLMActorCritic`]):
            Actor and critic, e.g. `trainer.model`.
        make_env (`str` or `Callable`):
            Environment, a [`~trl_vlmq.envs.text_action.TextActionEnv`].
        policy ([`Policy`]):
            Who visits the states, for example a [`BehaviorPolicy`].
        num_episodes (`int`, *optional*, defaults to `50`):
            Episodes to play.
        oracle (`str`, *optional*, defaults to `"expert"`):
            Scripted behaviour that is asked, afresh in every state, what to do.
        seed (`int`, *optional*, defaults to `3000000`):
            Seed of the episodes, far from those of data and evaluation.
        batch_size (`int`, *optional*, defaults to `32`):
            States at once.
        env_kwargs (`Mapping`, *optional*):
            Arguments for `gymnasium.make`, if `make_env` is an id.
        prompt_builder ([`PromptBuilder`], *optional*):
            The one that the model was trained with.

    Raises:
        ValueError: if the model has no critic, or the oracle never takes one of the actions.
    """
    require_critic(model)
    recorder = _WithOracle(policy, oracle)
    for _ in play_episodes(
        make_env, recorder, num_episodes, seed=seed, env_kwargs=env_kwargs, prompt_builder=prompt_builder
    ):
        pass
    asked = [(prompt, texts, texts.index(oracle)) for prompt, texts, oracle in recorder.asked if oracle in texts]
    if not asked:
        raise ValueError(f"{oracle!r} takes none of the actions {recorder.actions} in any state.")
    prompts, texts, right = (list(column) for column in zip(*asked, strict=True))
    q, logp = action_values(model, prompts, texts, batch_size=batch_size)
    return ActionRanking(recorder.actions, np.array(right), q, logp)


@torch.no_grad()
def action_values(
    model: VLMActorCritic, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], *, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """
    What the critic and the policy think of actions: Q at the last choice token, and log pi of the whole text.

    Args:
        model ([`VLMActorCritic`]):
            Actor and critic, e.g. `trainer.model`.
        prompts (`Sequence[tuple[list[dict], list]]`):
            Messages and images of S states.
        texts (`Sequence[Sequence[str]]`):
            Texts of M actions in each of them.
        batch_size (`int`, *optional*, defaults to `32`):
            States at once.

    Returns:
        `tuple[numpy.ndarray, numpy.ndarray]`: Q in units of the scaled reward and log pi in nats, float64 [S, M] each.

    Raises:
        ValueError: if the model has no critic.
    """
    require_critic(model)
    training = model.training
    model.eval()
    rows = range(0, len(prompts), batch_size)
    values = [_values(model, prompts[i : i + batch_size], texts[i : i + batch_size]) for i in rows]
    model.train(training)
    q, logp = (np.concatenate(parts) for parts in zip(*values, strict=True))
    return q, logp


def _values(
    model: VLMActorCritic, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of one batch."""
    backbone, collator = model.backbone, TokenTDCollator(model.backbone)
    tokens = [collator.action({"completion": [{"content": text}]}) for row in texts for text in row]
    last = [max(i for i, role in enumerate(roles) if role == TokenRole.CHOICE) for _, roles in tokens]
    ids = [ids for ids, _ in tokens]
    encoded = [backbone.encode(*prompt) for prompt, row in zip(prompts, texts, strict=True) for _ in row]
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(i) for i in ids], batch_first=True, padding_value=-100)
    inputs = {name: tensor.to(model.device) for name, tensor in backbone.collate(encoded, ids).items()}
    values, _ = model.token_values(inputs, labels.to(model.device))
    q = values.q.mean(0)[torch.arange(len(ids)), torch.tensor(last)]
    return tuple(x.double().cpu().numpy().reshape(len(texts), -1) for x in (q, values.logp.sum(1)))

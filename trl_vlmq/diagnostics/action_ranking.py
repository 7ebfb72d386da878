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


@dataclass
class ActionRanking:
    """Values of S states with M actions each, and which of the actions an oracle takes. Ours.

    Args:
        actions (`list[str]`): texts of the actions.
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
    """A policy acts as ever; what it is asked and what the oracle would do is written down."""

    def __init__(self, policy: Policy, oracle: str):
        self.policy, self.oracle = policy, oracle
        self.asked: list[tuple[list[dict], list, str]] = []
        self.actions: list[str] = []

    def name(self, seed: int) -> str:
        return self.policy.name(seed)

    def start(self, situation: Situation) -> None:
        self.policy.start(situation)

    def act(self, situations: Sequence[Situation]) -> list:
        for situation in situations:
            env = situation.env.unwrapped
            if not self.actions:
                self.actions = [env.grammar.format(action) for action in env.legal_actions()]
            oracle = env.make_behavior(self.oracle, np.random.default_rng([situation.seed, situation.turn]))
            self.asked.append((situation.prompt, situation.images, oracle.act()))
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
    Q and log pi of every legal action in the states that a policy visits, beside the action of an oracle.

    Args:
        model ([`VLMActorCritic`]):
            Actor and critic, e.g. `trainer.model`.
        make_env (`str` or `Callable`):
            Environment whose legal actions are the same in every state.
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
        ValueError: if the model has no critic.
    """
    require_critic(model)
    recorder = _WithOracle(policy, oracle)
    for _ in play_episodes(
        make_env, recorder, num_episodes, seed=seed, env_kwargs=env_kwargs, prompt_builder=prompt_builder
    ):
        pass
    actions = recorder.actions
    asked = [(prompt, images, action) for prompt, images, action in recorder.asked if action in actions]
    training = model.training
    model.eval()
    values = [_values(model, asked[i : i + batch_size], actions) for i in range(0, len(asked), batch_size)]
    model.train(training)
    q, logp = (np.concatenate(parts) for parts in zip(*values, strict=True))
    return ActionRanking(actions, np.array([actions.index(action) for _, _, action in asked]), q, logp)


@torch.no_grad()
def _values(model: VLMActorCritic, asked: Sequence[tuple], actions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Q at the last choice token and log pi of each action, float64 [S, M] each."""
    backbone, collator = model.backbone, TokenTDCollator(model.backbone)
    tokens = [collator.action({"completion": [{"content": text}]}) for text in actions]
    last = [max(i for i, role in enumerate(roles) if role == TokenRole.CHOICE) for _, roles in tokens]
    ids = [ids for ids, _ in tokens] * len(asked)
    prompts = [backbone.encode(prompt, images) for prompt, images, _ in asked for _ in actions]
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(i) for i in ids], batch_first=True, padding_value=-100)
    inputs = {name: tensor.to(model.device) for name, tensor in backbone.collate(prompts, ids).items()}
    values, _ = model.token_values(inputs, labels.to(model.device))
    q = values.q.mean(0)[torch.arange(len(ids)), torch.tensor(last * len(asked))]
    shape = (len(asked), len(actions))
    return tuple(x.double().cpu().numpy().reshape(shape) for x in (q, values.logp.sum(1)))

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A small decision process whose actions are two tokens, solved by linear algebra: what the critic and the actor
must converge to.

Four situations, three valid tokens of a vocabulary of four (the fourth is masked, though the policy's logits prefer
it). The token-level process has 4 + 4 * 3 states: a situation, or a situation and the first token of the action. An
action leads to one of four equally likely outcomes, each a reward and a next situation or the end. The log holds
every outcome of every action, so that one batch is the exact expectation.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.losses import Objective


SITUATIONS, TOKENS, VALID, OUTCOMES, END = 4, 4, 3, 4, -1
STATES = SITUATIONS + SITUATIONS * TOKENS
GAMMA, TOKEN_GAMMA, REWARD_SCALE = 0.9, 0.95, 2.0


def second_state(situation: int, token: int) -> int:
    return SITUATIONS + situation * TOKENS + token


@dataclass
class Process:
    """The process and, as arrays, what is known about it.

    `following` [situations, valid, valid, outcomes] holds next situations (-1: the end), `reward` their rewards;
    `logits` [states, tokens] are the policy's; `count` [situations, valid, valid] says how often the log repeats an action.
    """

    following: np.ndarray
    reward: np.ndarray
    logits: torch.Tensor
    count: np.ndarray

    @property
    def pi(self) -> np.ndarray:
        """The policy over valid tokens [states, valid]."""
        exp = np.exp(self.logits.double().numpy()[:, :VALID])
        return exp / exp.sum(1, keepdims=True)

    @property
    def behaviour(self) -> np.ndarray:
        """Share of each second token among the log's actions that begin with the first, [situations, valid, valid]."""
        return self.count / self.count.sum(-1, keepdims=True)

    def q(self, second_token: np.ndarray, first_token: np.ndarray, token_gamma: float) -> np.ndarray:
        """Q [states, valid] of the policy that draws the tokens of an action from these, by solving linear equations."""
        index = {(s, a): i for i, (s, a) in enumerate(itertools.product(range(STATES), range(VALID)))}
        left, right = np.eye(len(index)), np.zeros(len(index))
        for s, a in itertools.product(range(SITUATIONS), range(VALID)):
            for b in range(VALID):
                left[index[s, a], index[second_state(s, a), b]] -= token_gamma * second_token[s, a, b]
                i = index[second_state(s, a), b]
                for k in range(OUTCOMES):
                    right[i] += REWARD_SCALE * self.reward[s, a, b, k] / OUTCOMES
                    then = self.following[s, a, b, k]
                    if then != END:
                        for c in range(VALID):
                            left[i, index[then, c]] -= GAMMA * first_token[then, c] / OUTCOMES
        return np.linalg.solve(left, right).reshape(STATES, VALID)

    def q_of_policy(self, pi: np.ndarray) -> np.ndarray:
        second = np.array([[pi[second_state(s, a)] for a in range(VALID)] for s in range(SITUATIONS)])
        return self.q(second, pi[:SITUATIONS], TOKEN_GAMMA)

    def q_of_best_policy(self) -> np.ndarray:
        """Policy iteration from the uniform policy; exact, since there are finitely many policies."""
        pi = np.full((STATES, VALID), 1 / VALID)
        while True:
            q = self.q_of_policy(pi)
            better = np.eye(VALID)[q.argmax(1)]
            if (better == pi).all():
                return q
            pi = better

    def batch(self) -> dict:
        """The whole log as a batch of the actor-critic."""
        turns = [
            (s, a, b, self.reward[s, a, b, k], self.following[s, a, b, k])
            for s, a, b in itertools.product(range(SITUATIONS), range(VALID), range(VALID))
            for k in range(OUTCOMES)
            for _ in range(self.count[s, a, b])
        ]
        first_row = {s: next(i for i, turn in enumerate(turns) if turn[0] == s) for s in range(SITUATIONS)}
        labels = torch.tensor([[a, b] for _, a, b, _, _ in turns])
        return {
            "labels": labels,
            "inputs": {"state": torch.tensor([[s, second_state(s, a)] for s, a, _, _, _ in turns])},
            "reward": torch.tensor([reward for *_, reward, _ in turns], dtype=torch.float32),
            "terminated": torch.tensor([then == END for *_, then in turns]),
            "next_index": torch.tensor([len(turns) if then == END else first_row[then] for *_, then in turns]),
            "row": torch.arange(len(turns)),
            "role": torch.zeros_like(labels),
        }


@pytest.fixture(scope="module")
def process() -> Process:
    rng = np.random.default_rng(3)
    shape = (SITUATIONS, VALID, VALID)
    return Process(
        following=rng.integers(END, SITUATIONS, (*shape, OUTCOMES)),
        reward=np.round(rng.normal(size=(*shape, 1)) + 0.5 * rng.normal(size=(*shape, OUTCOMES)), 2),
        logits=torch.tensor(rng.normal(size=(STATES, TOKENS)) + [0, 0, 0, 3], dtype=torch.float32),
        count=np.ones(shape, dtype=int),
    )


REACHABLE = [s for s in range(STATES) if s < SITUATIONS or (s - SITUATIONS) % TOKENS < VALID]


def build(slow, process: Process, logits: torch.Tensor | None = None, **objective) -> VLMActorCritic:
    torch.manual_seed(0)
    settings = {"gamma": GAMMA, "token_gamma": TOKEN_GAMMA, "reward_scale": REWARD_SCALE} | objective
    valid = torch.tensor([True] * VALID + [False])
    backbone = slow.TableBackbone(process.logits if logits is None else logits, valid)
    return VLMActorCritic(backbone, Objective(**settings), critic_hidden_size=64)


def train(model: VLMActorCritic, batch: dict, parameters, steps: int, lr: float, tau: float = 0.1) -> None:
    optimizer = torch.optim.Adam(parameters, lr=lr)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
        schedule.step()
        model.target_critic.update(model.critic, tau)


def learned_q(model: VLMActorCritic) -> np.ndarray:
    return model.critic(torch.eye(STATES)).mean(0)[:, :VALID].detach().double().numpy()


def learned_pi(model: VLMActorCritic) -> np.ndarray:
    return model.model.logits.detach()[:, :VALID].softmax(-1).double().numpy()


@pytest.fixture(scope="module")
def evaluated(slow, process) -> VLMActorCritic:
    """A critic trained for the fixed policy by the one-step rule."""
    model = build(slow, process, td_horizon="token")
    train(model, process.batch(), model.critic.parameters(), steps=1200, lr=5e-3)
    return model


def test_the_one_step_rule_finds_the_value_of_the_policy(process, evaluated):
    expected = process.q_of_policy(process.pi)
    assert np.abs(expected[REACHABLE]).mean() > 0.5, "values far from the critic's initial zero"
    error = np.abs(learned_q(evaluated) - expected)[REACHABLE].max()
    assert error < 1e-4, error


@pytest.mark.parametrize("td_horizon", ["token", "tree_backup"])
def test_the_paper_s_rule_and_tree_backup_do_not_depend_on_who_acted(slow, process, td_horizon):
    """Off-policy: how often the log repeats an action changes the weighting of errors, not what they vanish at."""
    rng = np.random.default_rng(0)
    skewed = Process(process.following, process.reward, process.logits, rng.integers(1, 4, process.count.shape))
    model = build(slow, skewed, td_horizon=td_horizon)
    train(model, skewed.batch(), model.critic.parameters(), steps=1200, lr=5e-3)
    error = np.abs(learned_q(model) - process.q_of_policy(process.pi))[REACHABLE].max()
    assert error < 1e-4, error


def test_the_turn_rule_finds_the_value_of_finishing_each_action_as_the_log_did(slow, process):
    """The first token follows the policy, the second the log: off-policy between turns, on-policy inside of one."""
    rng = np.random.default_rng(0)
    skewed = Process(process.following, process.reward, process.logits, rng.integers(1, 4, process.count.shape))
    model = build(slow, skewed, td_horizon="turn")
    train(model, skewed.batch(), model.critic.parameters(), steps=1200, lr=5e-3)
    expected = skewed.q(skewed.behaviour, skewed.pi[:SITUATIONS], TOKEN_GAMMA)
    error = np.abs(learned_q(model) - expected)[REACHABLE].max()
    assert error < 1e-4, error
    bias = np.abs(expected - skewed.q_of_policy(skewed.pi))[REACHABLE].max()
    assert bias > 0.1, "the two rules must differ here, or this test proves nothing"


def gap(q: np.ndarray) -> float:
    """Smallest lead of a best token over the next, among reachable states."""
    ordered = np.sort(q[REACHABLE], axis=1)
    return (ordered[:, -1] - ordered[:, -2]).min()


def test_filtered_imitation_of_a_fixed_critic_becomes_its_greedy_improvement(slow, process, evaluated):
    expected = process.q_of_policy(process.pi)
    assert gap(expected) > 0.01
    model = build(slow, process, critic_coef=0.0)
    model.critic.load_state_dict(evaluated.critic.state_dict())
    model.target_critic.update(model.critic, 1.0)
    model.filter_state.beta = 0.0
    train(model, process.batch(), [model.model.logits], steps=400, lr=0.2)
    pi = learned_pi(model)[REACHABLE]
    assert (pi.argmax(1) == expected[REACHABLE].argmax(1)).all()
    assert pi.max(1).min() > 0.95, "imitation goes on until nothing else is left"
    assert (pi.argmax(1) != process.pi[REACHABLE].argmax(1)).sum() >= 3, "the old policy was already the improvement"


def test_imitation_without_the_filter_only_copies_the_log(slow, process):
    model = build(slow, process, torch.zeros(STATES, TOKENS), actor_objective="sft", critic_coef=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    rng = np.random.default_rng(0)
    skewed = Process(process.following, process.reward, process.logits, rng.integers(1, 4, process.count.shape))
    batch = skewed.batch()
    for _ in range(300):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
    second = [[second_state(s, a) for a in range(VALID)] for s in range(SITUATIONS)]
    assert np.abs(learned_pi(model)[second] - skewed.behaviour).max() < 1e-3


@pytest.mark.parametrize("baseline", ["online", "target"])
def test_learning_actor_and_critic_together_finds_the_best_policy(slow, process, baseline):
    best = process.q_of_best_policy()
    assert gap(best) > 0.01
    model = build(slow, process, torch.zeros(STATES, TOKENS), td_horizon="token", advantage_baseline=baseline)
    model.filter_state.beta = 0.0
    parameters = [{"params": model.critic.parameters(), "lr": 5e-3}, {"params": [model.model.logits], "lr": 0.1}]
    train(model, process.batch(), parameters, steps=2000, lr=5e-3)
    pi = learned_pi(model)
    assert (pi[REACHABLE].argmax(1) == best[REACHABLE].argmax(1)).all()
    assert np.abs(learned_q(model) - best)[REACHABLE].max() < 0.05
    greedy = np.eye(VALID)[pi.argmax(1)]
    assert np.abs(process.q_of_policy(greedy) - best).max() < 1e-9

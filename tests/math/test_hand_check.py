# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The numbers that can be checked by hand."""

import math
import random

import pytest
import torch

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.losses import (
    TD_HORIZONS,
    Objective,
    TokenValues,
    actor_loss,
    actor_weights,
    advantage,
    td_targets,
)


@pytest.mark.parametrize("td_horizon", TD_HORIZONS)
@pytest.mark.parametrize("num_critics", [1, 2])
def test_critic_learns_that_a_reward_three_turns_ahead_is_worth_gamma_cubed(slow, td_horizon, num_critics):
    objective = Objective(gamma=0.99, td_horizon=td_horizon, reward_scale=1.0)
    actions = torch.tensor([[2], [0], [1], [2]])
    certain = torch.nn.functional.one_hot(actions[:, 0], 3) * 60.0  # the policy does what the log did
    torch.manual_seed(0)
    model = VLMActorCritic(slow.TableBackbone(certain), objective, critic_hidden_size=16, num_critics=num_critics)
    optimizer = torch.optim.Adam(model.critic.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.995)
    for _ in range(1200):
        output = model(
            labels=actions,
            inputs={"state": torch.arange(4)[:, None]},
            reward=torch.tensor([0.0, 0.0, 0.0, 1.0]),
            terminated=torch.tensor([False, False, False, True]),
            next_index=torch.tensor([1, 2, 3, 4]),
            row=torch.arange(4),
            role=torch.zeros_like(actions),
        )
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
        schedule.step()
        model.target_critic.update(model.critic, 0.1)
    q = model.critic(torch.eye(4)).mean(0)[torch.arange(4), actions[:, 0]]
    assert q[0].item() == pytest.approx(0.970299, abs=2e-6)
    assert q.tolist() == pytest.approx([0.99**3, 0.99**2, 0.99, 1.0], abs=2e-6)


@pytest.mark.parametrize("td_horizon", TD_HORIZONS)
@pytest.mark.parametrize("token_gamma", [1.0, 0.9])
def test_targets_of_turns_of_several_tokens_follow_the_formula(slow, td_horizon, token_gamma):
    objective = Objective(gamma=0.95, token_gamma=token_gamma, td_horizon=td_horizon, reward_scale=2.5)
    rng = random.Random(0)
    lengths = [1, 5, 3, 2, 4, 1, 5, 2]
    mask = torch.tensor([[i < n for i in range(5)] for n in lengths])
    generator = torch.Generator().manual_seed(0)
    v_target, q_target = (torch.randn(mask.shape, generator=generator, dtype=torch.float64) * mask for _ in range(2))
    logp = torch.rand(mask.shape, generator=generator, dtype=torch.float64).log() * mask
    reward = torch.tensor([rng.gauss(0, 1) for _ in lengths], dtype=torch.float32)
    next_v = torch.tensor([rng.gauss(0, 1) for _ in lengths], dtype=torch.float64)
    terminated = torch.tensor([i % 3 == 0 for i in range(len(lengths))])
    zeros = torch.zeros_like(v_target)
    values = TokenValues(
        logp=logp, entropy=zeros, q=zeros[None], v=zeros, v_target=v_target, q_target=q_target, mask=mask
    )

    y = td_targets(values, next_v, reward, terminated, objective)

    for b, n in enumerate(lengths):
        next_value = 0.0 if terminated[b] else next_v[b].item()
        expected = slow.targets(objective, slow.row(values, b, n), reward[b].item(), next_value)
        assert y[b].tolist() == pytest.approx(expected + [0.0] * (5 - n), abs=1e-12)


def test_a_nan_after_the_end_of_an_episode_does_not_reach_the_target():
    ones = torch.ones(1, 1)
    values = TokenValues(logp=ones, entropy=ones, q=ones[None], v=ones, v_target=ones, q_target=ones, mask=ones.bool())
    y = td_targets(values, torch.tensor([float("nan")]), torch.tensor([3.0]), torch.tensor([True]), Objective())
    assert y.item() == 3.0


def test_the_filter_keeps_what_is_strictly_better_and_what_is_confident():
    """1{A > beta}: with a critic that knows nothing (A = 0) and beta = 0 nothing is imitated but sure tokens."""
    q = torch.tensor([[[0.5, 0.25, 0.0, 0.0, 9.0]]])
    v = torch.tensor([[0.25, 0.25, 0.25, 0.25, 0.0]])
    logp = torch.tensor([[0.5, 0.5, 0.5, 0.99, 0.99]]).log()
    mask = torch.tensor([[True, True, True, True, False]])
    values = TokenValues(logp=logp, entropy=v * 0, q=q, v=v, v_target=v, q_target=v, mask=mask)
    settings = {"row": torch.tensor([0]), "beta": 0.0, "kept_share": 1.0, "step": 0}
    plain = Objective(filter_keep_confident=None)
    A = advantage(values, plain)
    assert A.tolist() == [[0.25, 0.0, -0.25, -0.25, 0.0]]
    assert actor_weights(values, A, objective=plain, **settings).tolist() == [[1, 0, 0, 0, 0]]
    kept = Objective(filter_keep_confident=0.98)
    assert actor_weights(values, A, objective=kept, **settings).tolist() == [[1, 0, 0, 1, 0]]
    assert actor_loss(values, torch.tensor([[1.0, 0, 0, 1, 0]]), 4, kept).item() == pytest.approx(
        -(math.log(0.5) + math.log(0.99)) / 4
    )


def test_targets_carry_no_gradient_to_the_policy_or_the_target_critic():
    v_target = torch.randn(2, 3, requires_grad=True)
    zeros, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    values = TokenValues(
        logp=zeros, entropy=zeros, q=zeros[None], v=zeros, v_target=v_target, q_target=v_target, mask=mask
    )
    for td_horizon in TD_HORIZONS:
        y = td_targets(
            values, v_target[:, 0], torch.ones(2), torch.zeros(2, dtype=torch.bool), Objective(td_horizon=td_horizon)
        )
        assert not y.requires_grad

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The target critic: how it follows, and in which precision."""

import pytest
import torch

from trl_vlmq.critic import TargetCritic, TokenCritic


NAMES = ("up_weight", "up_bias", "down_weight", "down_bias")


@pytest.fixture
def critic(slow) -> TokenCritic:
    torch.manual_seed(0)
    critic = TokenCritic(state_size=6, vocab_size=5, hidden_size=7, num_critics=2)
    with torch.no_grad():
        critic.down_weight.normal_()
        critic.down_bias.normal_()
    return critic


def test_values_are_zero_before_training_and_start_from_random_features():
    torch.manual_seed(0)
    fresh = TokenCritic(6, 5)
    states = torch.randn(3, 6)
    assert (fresh(states) == 0).all() and (TargetCritic(fresh)(states) == 0).all()
    assert fresh.up_weight.std() > 0.1


def test_heads_are_the_perceptrons_they_are_said_to_be(slow, critic):
    states = torch.randn(11, 6, dtype=torch.float64)
    q = critic.double()(states)
    assert q.shape == (2, 11, 5)
    assert q.detach().numpy() == pytest.approx(slow.Reference.q_values(critic, states.numpy()), abs=1e-12)


def test_each_update_goes_a_share_tau_of_the_way(critic):
    target = TargetCritic(critic)
    start = {name: getattr(target, name).clone() for name in NAMES}
    with torch.no_grad():
        for name in NAMES:
            getattr(critic, name).add_(torch.randn_like(getattr(critic, name)))
    tau, updates = 0.05, 7
    for _ in range(updates):
        target.update(critic, tau)
    for name in NAMES:
        expected = getattr(critic, name) + (1 - tau) ** updates * (start[name] - getattr(critic, name))
        assert torch.allclose(getattr(target, name), expected, rtol=0, atol=1e-6), name
    target.update(critic, 1.0)
    assert all(torch.equal(getattr(target, name), getattr(critic, name)) for name in NAMES)
    target.update(critic, 0.0)
    assert all(torch.equal(getattr(target, name), getattr(critic, name)) for name in NAMES)


def test_nothing_trains_the_target(critic):
    target = TargetCritic(critic)
    assert not list(target.parameters())
    states = torch.randn(3, 6, requires_grad=True)
    assert not target(states).requires_grad
    critic(states).sum().backward()
    assert all(not getattr(target, name).requires_grad for name in NAMES)


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.to(torch.bfloat16),
        lambda module: module.bfloat16(),
        lambda module: module.half(),
        lambda module: module.to(device="cpu", dtype=torch.bfloat16),
    ],
    ids=["to(bfloat16)", "bfloat16()", "half()", "to(device, dtype)"],
)
def test_casting_a_model_does_not_stall_its_target(critic, cast):
    """`bf16_full_eval` and DeepSpeed's bf16 engine (before 0.19.2) cast buffers too. In bfloat16 a target of about 1
    would not move by less than 1/256, and .005 of a small difference is less."""
    holder = torch.nn.ModuleDict({"critic": critic, "target": TargetCritic(critic)})
    target = holder["target"]
    start = {name: getattr(target, name).clone() for name in NAMES}
    cast(holder)
    for name in NAMES:
        assert getattr(target, name).dtype == torch.float32, name
        assert torch.equal(getattr(target, name), start[name]), "not even rounded on the way"
    with torch.no_grad():
        for name in NAMES:
            getattr(critic, name).copy_(start[name] + 0.1)
    for _ in range(600):
        target.update(critic, 0.005)
    for name in NAMES:
        assert torch.allclose(getattr(target, name), getattr(critic, name).float(), atol=0.01), name
    q = target(torch.randn(2, 6, dtype=torch.bfloat16))
    assert q.dtype == torch.float32


def test_a_float64_model_keeps_its_target_in_float64(critic):
    target = TargetCritic(critic)
    assert target.double().up_weight.dtype == torch.float64
    assert target(torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64
    assert target.float().up_weight.dtype == torch.float32


def test_a_bfloat16_trunk_gets_float32_values(critic):
    """Autocast must not round the critic's arithmetic."""
    target = TargetCritic(critic)
    states = torch.randn(4, 6).bfloat16()
    expected = critic(states.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(critic(states), expected)
        assert torch.equal(target(states), expected)

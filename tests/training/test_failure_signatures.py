# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A training that goes wrong says so, once, with the cure; a healthy one says nothing."""

import itertools

import pytest
import torch

from trl_vlmq.signatures import (
    FailureSignatureCallback,
    History,
    critic_says_nothing,
    filter_keeps_all_or_nothing,
    online_dip,
    possible_returns,
    q_is_impossible,
    syntax_is_low,
)


def logs(**series):
    """Values of metrics, logged every tenth step."""
    return {name: [(10 * i, value) for i, value in enumerate(values)] for name, values in series.items()}


def test_a_flat_critic_loss_while_success_falls():
    falling = logs(policy_success_rate=[0.2, 0.6, 0.5, 0.4, 0.3, 0.3], critic_loss=[0.5, 0.2, 0.2, 0.2, 0.21, 0.2])
    message = critic_says_nothing(History(falling, filter_started=5))
    assert "from 60% (step 10) to 30%" in message and "filter_warmup_ratio" in message
    assert critic_says_nothing(History(falling)) is None  # before the filter starts, SFT alone is to blame
    learning = logs(policy_success_rate=[0.2, 0.6, 0.5, 0.4, 0.3, 0.3], critic_loss=[0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    assert critic_says_nothing(History(learning, filter_started=5)) is None
    rising = logs(policy_success_rate=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7], critic_loss=[0.2] * 6)
    assert critic_says_nothing(History(rising, filter_started=5)) is None


@pytest.mark.parametrize("name", ["policy_syntax_accuracy", "rollout_syntax_accuracy"])
def test_low_syntax(name):
    history = logs(**{name: [0.0, 0.5, 0.7]})
    assert "Only 70%" in syntax_is_low(History(history, filter_closed=True))
    assert "invalid_penalty" in syntax_is_low(History(history, second_half=True))
    assert syntax_is_low(History(history)) is None
    assert syntax_is_low(History(logs(**{name: [0.0, 0.5, 0.95]}), second_half=True)) is None


def test_values_that_no_return_can_have():
    values = logs(q_p10=[0, 2, 5, 8, 9], q_p90=[1, 3, 7, 9, 10])
    assert "returns from 0 to 5 only" in q_is_impossible(History(values, return_range=(0, 5)))
    assert q_is_impossible(History(values, return_range=(0, 10))) is None
    assert q_is_impossible(History(values)) is None
    assert "diverges" in q_is_impossible(History(logs(q_p10=[-9] * 3, q_p90=[-8] * 3), return_range=(-1, 1)))
    once = logs(q_p10=[0, 0, 0], q_p90=[1, 1, 9])  # one entry is no divergence
    assert q_is_impossible(History(once, return_range=(0, 5))) is None


@pytest.mark.parametrize(("share", "what"), [(0.0, "keeps none"), (1.0, "keeps all")])
def test_a_filter_that_does_not_choose(share, what):
    history = logs(kept_unsure_choice=[0.5, share, share, share])
    assert what in filter_keeps_all_or_nothing(History(history, filter_closed=True))
    assert filter_keeps_all_or_nothing(History(history)) is None
    assert (
        filter_keeps_all_or_nothing(History(logs(kept_unsure_choice=[share, share, 0.3]), filter_closed=True)) is None
    )


def test_a_dip_at_the_online_switch():
    history = logs(policy_success_rate=[0.8, 0.75, 0.6]) | {"rollout_success": [(5, 0.4)]}
    assert "from 80% before the switch to online to 60% (step 20)" in online_dip(History(history))
    assert online_dip(History(logs(policy_success_rate=[0.8, 0.75, 0.6]))) is None  # offline
    assert online_dip(History(logs(policy_success_rate=[0.8, 0.75]) | {"rollout_success": [(5, 0.4)]})) is None


def test_possible_returns_are_those_of_all_reward_sequences():
    again, last, gamma = [0.0, -1.0, 0.5], [2.0, -3.0], 0.7
    returns = []
    for n in range(1, 5):
        for rewards in itertools.product(again, repeat=n):
            returns.append(sum(gamma**k * r for k, r in enumerate(rewards)))
        for rewards in itertools.product(again, repeat=n - 1):
            returns += [sum(gamma**k * r for k, r in enumerate((*rewards, end))) for end in last]
    bounds = possible_returns([*again, *last], [False] * 3 + [True] * 2, longest=4, gamma=gamma)
    assert bounds == pytest.approx((min(returns), max(returns)))
    assert possible_returns([0.0, 1.0], [False, True], longest=10, gamma=0.8) == (0.0, 1.0)


def watcher(trainer):
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, FailureSignatureCallback))


def test_a_run_whose_filter_keeps_nothing_says_so_once(make_trainer, caplog):
    trainer = make_trainer(filter_beta=1e6, filter_keep_fraction=0.0, filter_warmup_ratio=0.0, filter_ramp_ratio=0.0)
    trainer.train()
    assert list(watcher(trainer).warnings) == ["filter_keeps_all_or_nothing"]
    said = [record.message for record in caplog.records if record.name == "trl_vlmq.signatures"]
    assert len(said) == 1 and said[0].startswith("filter keeps all or nothing: The filter keeps none")


def test_a_run_whose_values_leave_the_possible_range_says_so(make_trainer):
    trainer = make_trainer(critic_learning_rate=1e-9)
    with torch.no_grad():
        trainer.model.critic.down_bias.fill_(50.0)
    trainer.train()
    message = watcher(trainer).warnings["q_is_impossible"]
    # Rewards of 1 at the end and -0.1 in the second turn, at most five turns, scaled by 5 and discounted.
    low, high = possible_returns([1.0, 0.0, -0.1], [True, False, False], 5, trainer.args.gamma)
    assert f"from {5 * low:.3g} to {5 * high:.3g} only" in message


@pytest.mark.parametrize("objective", ["afsft", "sft"])
def test_a_healthy_run_says_nothing(make_trainer, objective):
    trainer = make_trainer(actor_objective=objective, critic_coef=float(objective == "afsft"))
    trainer.train()
    assert watcher(trainer).warnings == {}

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Tokens that the logs never hold are not worth more than what the logs got."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from trl_vlmq.unseen import bad_return


def with_rewards(episodes: Dataset, change) -> Dataset:
    """The same turns with other rewards."""
    rewards = np.array([change(reward) for reward in episodes["reward"]], np.float32)
    return episodes.remove_columns("reward").add_column("reward", rewards, feature=episodes.features["reward"])


def ids_of(trainer, episodes: Dataset) -> set[int]:
    """Tokens of the logs, read from what the collator gives the model."""
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    return set(batch["labels"].flatten().tolist()) - {-100}


def test_where_every_return_is_good_nothing_changes(make_trainer, episodes):
    trainer = make_trainer(train_dataset=with_rewards(episodes, abs))
    assert not trainer.model.critic.down_bias.any() and not trainer.model.target_critic.down_bias.any()


def test_where_returns_are_bad_unseen_tokens_start_and_stay_there_and_others_learn(make_trainer, episodes):
    trainer = make_trainer(
        train_dataset=with_rewards(episodes, lambda r: r - 1.0), gamma=0.5, reward_scale=3.0, num_critics=2, max_steps=4,
        segments_per_epoch=64,
    )  # fmt: skip
    seen = ids_of(trainer, episodes)
    unseen = [token for token in range(trainer.model.backbone.n_logits) if token not in seen]
    ends = np.array([True, *(turn == 0 for turn in episodes["turn"][:0:-1])])  # from the last turn to the first
    returns = []
    for reward, last in zip(episodes["reward"][::-1], ends, strict=True):
        returns.append(reward - 1.0 + (0.0 if last else 0.5 * returns[-1]))
    expected = 3.0 * np.quantile(returns, 0.05)
    states = torch.randn(7, trainer.model.backbone.hidden_size)
    assert expected < -3
    for critic in (trainer.model.critic, trainer.model.target_critic):
        q = critic(states)
        assert torch.allclose(q[..., unseen], torch.tensor(expected, dtype=torch.float32))
        assert not q[..., sorted(seen)].any()
    trainer.train()
    q = trainer.model.critic(states)
    assert torch.allclose(q[..., unseen], torch.tensor(expected, dtype=torch.float32))
    assert q[..., sorted(seen)].all()


def test_a_critic_that_was_trained_keeps_its_values(make_trainer, episodes):
    bad = with_rewards(episodes, lambda r: r - 1.0)
    first = make_trainer(train_dataset=with_rewards(episodes, abs), max_steps=2)
    first.train()
    first.save_model()
    second = make_trainer(first.args.output_dir, lora=False, train_dataset=bad)
    for name, value in first.model.critic.named_parameters():
        assert torch.equal(value, second.model.critic.get_parameter(name)), name


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_a_bad_return_is_one_that_a_twentieth_of_the_turns_falls_below(gamma):
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 6, 400)
    reward = rng.normal(size=lengths.sum()).astype(np.float32)
    turn = np.concatenate([np.arange(n) for n in lengths])
    returns = []
    for episode in np.split(reward.astype(float), np.cumsum(lengths)[:-1]):
        returns += [sum(gamma**k * r for k, r in enumerate(episode[t:])) for t in range(len(episode))]
    found = bad_return(reward, turn, gamma)
    assert abs(np.mean(np.array(returns) < found) - 0.05) < 0.002

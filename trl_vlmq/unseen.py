# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the critic thinks of tokens that its logs do not hold."""

import numpy as np
import torch
from datasets import Dataset

from .actor_critic import VLMActorCritic
from .collator import TokenTDCollator


# The quantile of the logs' returns that an unseen token is taken to be worth.
_BAD_LUCK = 0.05


def seen_tokens(dataset: Dataset, collator: TokenTDCollator, n_logits: int) -> np.ndarray:
    """
    Which tokens occur in the actions of a dataset.

    Args:
        dataset ([`~datasets.Dataset`]):
            Turns.
        collator ([`TokenTDCollator`]):
            Reads them.
        n_logits (`int`):
            V, rows of the language head.

    Returns:
        `numpy.ndarray`: bool [V].
    """
    seen = np.zeros(n_logits, dtype=bool)
    columns = dataset.select_columns(["completion", "completion_ids", "completion_stopped"])
    for batch in columns.with_format("arrow").iter(1000):
        for row in batch.to_pylist():
            seen[collator.action(row)[0]] = True
    return seen


def bad_return(reward: np.ndarray, turn: np.ndarray, gamma: float) -> float:
    """
    A return that only one turn in twenty falls below: the 5% quantile of the discounted returns that follow the turns.

    Args:
        reward, turn (`numpy.ndarray`):
            Of the turns of whole episodes, in order, [T].
        gamma (`float`):
            Discount of a turn.
    """
    returns = reward.astype(np.float64)
    for t in range(len(returns) - 2, -1, -1):
        if turn[t + 1] > turn[t]:
            returns[t] += gamma * returns[t + 1]
    return float(np.quantile(returns, _BAD_LUCK))


@torch.no_grad()
def doubt_unseen_tokens(model: VLMActorCritic, dataset: Dataset) -> None:
    """
    Let the values of tokens that the logs never hold start at a bad return instead of 0, if that lies below 0 (ours).

    Nothing trains these values. At 0 they are hopes where returns are negative: V of a state in which the policy is unsure
    then lies above all that the logs did there, the filter drops all of it, and what is left of the policy drifts to such
    tokens. A critic that has been trained is left as it is.

    Args:
        model ([`VLMActorCritic`]):
            With a new critic.
        dataset ([`~datasets.Dataset`]):
            Its logs, validated.
    """
    if model.critic is None or model.critic.down_weight.any() or model.critic.down_bias.any():
        return
    turns = dataset.select_columns(["reward", "turn"]).with_format("numpy")[:]
    value = model.objective.reward_scale * bad_return(turns["reward"], turns["turn"], model.objective.gamma)
    if value < 0:
        unseen = ~seen_tokens(dataset, TokenTDCollator(model.backbone), model.backbone.n_logits)
        for critic in (model.critic, model.target_critic):
            critic.per_head("down_bias")[:, torch.from_numpy(unseen).to(critic.down_bias.device)] = value

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Can the critic be trusted: does Q tell the tokens of the data from all the others?"""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from scipy import stats

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.roles import TokenRole

from .batches import held_out_batches


# An AUROC from here on separates; down to 0.5 +- this much it is blind.
SEPARATES, BLIND = 0.7, 0.1


@dataclass
class TokenCalibration:
    """Q of the token that the data holds at P positions, and of other tokens at the same positions.

    Args:
        taken (`numpy.ndarray`): Q of the token of the data, float64 [P].
        elsewhere (`numpy.ndarray`): Q of tokens that the data holds at other positions only, float64 [P, K].
        never (`numpy.ndarray`): Q of tokens that occur in no action of the data, float64 [P, K].
        role (`numpy.ndarray`): [`TokenRole`] of each position, int64 [P].
    """

    taken: np.ndarray
    elsewhere: np.ndarray
    never: np.ndarray
    role: np.ndarray

    def overlap(self, others: str, role: TokenRole | None = None) -> dict[str, float]:
        """How far Q of the data's tokens lies above that of others.

        Args:
            others (`str`):
                `"elsewhere"` or `"never"`.
            role ([`TokenRole`], *optional*):
                Only positions of this role.

        Returns:
            `dict`: `auroc` (probability that the data's token has the higher Q at the same position, ties half) and
            `ks` (Kolmogorov-Smirnov distance of the two distributions over all positions); empty without positions.
        """
        chosen = slice(None) if role is None else self.role == role
        taken, other = self.taken[chosen], getattr(self, others)[chosen]
        if other.size == 0:
            return {}
        margin = taken[:, None] - other
        return {
            "auroc": float(((margin > 0) + 0.5 * (margin == 0)).mean()),
            "ks": float(stats.ks_2samp(taken, other.ravel()).statistic),
        }

    def summary(self) -> dict[str, dict[str, float]]:
        """The overlap with both kinds of other tokens, over all positions and for each role."""
        roles = [None, *(role for role in TokenRole if (self.role == role).any())]
        return {
            f"{others}{'' if role is None else '_' + role.name.lower()}": self.overlap(others, role)
            for others in ("elsewhere", "never")
            for role in roles
        }

    def verdict(self) -> str:
        """One plain sentence."""
        auroc = self.overlap("never").get("auroc")
        if auroc is None:
            return "Every token of the vocabulary occurs in the data: there is nothing to compare with."
        numbers = f"(AUROC {auroc:.2f}, {len(self.taken)} held-out positions)"
        if auroc >= SEPARATES:
            return f"Q separates the tokens of the data from tokens that never occur in it {numbers}."
        if auroc <= 1 - SEPARATES:
            return f"Q prefers tokens that never occur in the data to those that do {numbers}: do not maximise this Q."
        if abs(auroc - 0.5) < BLIND:
            return f"Q is blind to whether a token ever occurs in the data {numbers}: do not maximise this Q."
        return f"Q hardly separates the tokens of the data from tokens that never occur in it {numbers}."


@torch.no_grad()
def calibrate_tokens(
    model: VLMActorCritic, dataset: Dataset, num_tokens: int = 16, *, seed: int = 0, batch_size: int = 32
) -> TokenCalibration:
    """
    Q of the data's tokens beside Q of others, on held-out episodes. Ours; the question is the paper's readers'.

    The paper's filter needs Q(s, a) for tokens of the data and V, an average under the policy; a token that never occurs
    has a Q that nothing has trained. Whoever maximises Q ("epg") relies on it.

    Args:
        model ([`VLMActorCritic`]):
            Actor and critic, e.g. `trainer.model`.
        dataset ([`~datasets.Dataset`]):
            Held-out episodes.
        num_tokens (`int`, *optional*, defaults to `16`):
            Other tokens of each kind to look at for each position, drawn at random.
        seed (`int`, *optional*, defaults to `0`):
            Of the draw.
        batch_size (`int`, *optional*, defaults to `32`):
            Turns at once.

    Raises:
        ValueError: if the model has no critic.
    """
    valid = model.valid_tokens.cpu().numpy()
    batches = list(held_out_batches(model, dataset, batch_size))
    actions = [batch["labels"][batch["labels"] != -100].cpu().numpy() for batch in batches]
    occurs = np.zeros(len(valid), bool)
    occurs[np.concatenate(actions)] = True
    pools = {"elsewhere": np.flatnonzero(occurs & valid), "never": np.flatnonzero(~occurs & valid)}
    rng = np.random.default_rng(seed)
    found: dict[str, list] = {"taken": [], "elsewhere": [], "never": [], "role": []}
    training = model.training
    model.eval()
    for batch, taken in zip(batches, actions, strict=True):
        labels, inputs = batch["labels"], batch["inputs"]
        states, _ = model.backbone.forward(inputs, keep=labels.shape[1])
        q = model.critic(states[labels != -100]).mean(0).double().cpu().numpy()  # [positions, vocabulary]
        rows = np.arange(len(taken))[:, None]
        found["taken"].append(q[rows[:, 0], taken])
        for name, pool in pools.items():
            drawn = rng.integers(len(pool), size=(len(taken), num_tokens if len(pool) else 0)) if len(pool) else None
            tokens = pool[drawn] if drawn is not None else np.empty((len(taken), 0), np.int64)
            if name == "elsewhere" and len(pool) > 1:
                # The token of the data itself is none of the others: its neighbour in the pool stands in for it.
                same = tokens == taken[:, None]
                tokens[same] = pool[(drawn[same] + 1) % len(pool)]
            found[name].append(q[rows, tokens])
        found["role"].append(batch["role"][labels != -100].cpu().numpy())
    model.train(training)
    return TokenCalibration(**{name: np.concatenate(parts) for name, parts in found.items()})

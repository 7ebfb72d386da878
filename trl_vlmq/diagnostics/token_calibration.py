# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Can the critic be trusted: does Q tell the tokens of the data from all the others?"""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from scipy import stats

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.roles import TokenRole
from trl_vlmq.unseen import seen_tokens

from .batches import held_out_batches, require_critic


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
    require_critic(model)
    valid = model.valid_tokens.cpu().numpy()
    occurs = seen_tokens(prepare_episodes(dataset), TokenTDCollator(model.backbone), len(valid))
    pools = {"elsewhere": np.flatnonzero(occurs & valid), "never": np.flatnonzero(~occurs & valid)}
    rng = np.random.default_rng(seed)
    found: dict[str, list] = {"taken": [], "elsewhere": [], "never": [], "role": []}
    training = model.training
    model.eval()
    for batch in held_out_batches(model, dataset, batch_size):
        labels = batch["labels"]
        mask = labels != -100
        states, _ = model.backbone.forward(batch["inputs"], keep=labels.shape[1])
        q = model.critic(states[mask]).mean(0).double().cpu().numpy()  # [positions, vocabulary]
        taken = labels[mask].cpu().numpy()
        found["taken"].append(q[np.arange(len(taken)), taken])
        found["role"].append(batch["role"][mask].cpu().numpy())
        for name, pool in pools.items():
            tokens = _draw(pool, taken, num_tokens, rng)
            found[name].append(np.take_along_axis(q, tokens, axis=1))
    model.train(training)
    return TokenCalibration(**{name: np.concatenate(parts) for name, parts in found.items()})


def _draw(pool: np.ndarray, taken: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """So many tokens of a pool for each position, none of them the one taken there; none at all of a pool without others."""
    if len(pool) < 1 + np.isin(taken, pool).any():
        return np.empty((len(taken), 0), np.int64)
    drawn = rng.integers(len(pool), size=(len(taken), number))
    # In place of the token that was taken comes its neighbour in the pool.
    drawn = np.where(pool[drawn] == taken[:, None], (drawn + 1) % len(pool), drawn)
    return pool[drawn]

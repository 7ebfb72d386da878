# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What does the filter keep?"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.collator import completion_text
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.losses import advantage, confident, filter_keeps
from trl_vlmq.roles import TokenRole

from .batches import held_out_batches


@dataclass
class FilterReport:
    """What the advantage filter does to N action tokens of T turns.

    Args:
        turn (`numpy.ndarray`): number of each token's turn, int64 [N].
        role (`numpy.ndarray`): [`TokenRole`] of each token, int64 [N].
        advantage (`numpy.ndarray`): A of each token, float64 [N].
        kept (`numpy.ndarray`): whether the filter keeps it, bool [N].
        unsure (`numpy.ndarray`): whether the policy is not sure of it (`filter_keep_confident`), bool [N].
        behavior (`list[str]`): who acted in each turn [T].
        episode_return (`numpy.ndarray`): sum of rewards of each turn's episode, float64 [T].
        text (`list[str]`): each turn's action [T].
    """

    turn: np.ndarray
    role: np.ndarray
    advantage: np.ndarray
    kept: np.ndarray
    unsure: np.ndarray
    behavior: list[str]
    episode_return: np.ndarray
    text: list[str]

    @property
    def decisions(self) -> np.ndarray:
        """Choice tokens that the policy is not sure of, where there is something to decide, bool [N]."""
        return (self.role == TokenRole.CHOICE) & self.unsure

    def by_behavior(self) -> dict[str, dict[str, float]]:
        """For each behaviour `turns`, `unsure` (its decisions), `kept` (share of them) and `advantage` (their mean)."""
        return self._grouped(self.behavior)

    def by_return(self) -> dict[str, dict[str, float]]:
        """The same for the episodes with the lowest, the middle and the highest returns."""
        low, high = np.quantile(self.episode_return, [1 / 3, 2 / 3])
        names = [f"return up to {low:.3g}", f"return up to {high:.3g}", f"return above {high:.3g}"]
        return self._grouped([names[int(r > low) + int(r > high)] for r in self.episode_return])

    def by_text(self) -> dict[str, dict[str, float]]:
        """The same for each action text, the most frequent first."""
        report = self._grouped(self.text)
        return dict(sorted(report.items(), key=lambda item: -item[1]["turns"]))

    def by_role(self) -> dict[str, dict[str, float]]:
        """For each token role `tokens`, `kept` and `unsure` (shares of them)."""
        report = {}
        for role in TokenRole:
            chosen = self.role == role
            if chosen.any():
                report[role.name.lower()] = {
                    "tokens": int(chosen.sum()),
                    "kept": float(self.kept[chosen].mean()),
                    "unsure": float(self.unsure[chosen].mean()),
                }
        return report

    def examples(self, count: int = 5) -> dict[str, list[tuple[int, str, float]]]:
        """The decisions with the highest A among the `kept`, the lowest among the `dropped`: (turn, action text, A)."""
        examples = {}
        for name, chosen, sign in (("kept", self.kept, -1), ("dropped", ~self.kept, 1)):
            where = np.flatnonzero(self.decisions & chosen)
            where = where[np.argsort(sign * self.advantage[where], kind="stable")[:count]]
            examples[name] = [(int(self.turn[i]), self.text[self.turn[i]], float(self.advantage[i])) for i in where]
        return examples

    def table(self) -> str:
        """Everything as Markdown, for people."""
        lines = ["| decisions of | turns | decisions | kept | mean A |", "|---|---|---|---|---|"]
        for group in (self.by_behavior(), self.by_return(), dict(list(self.by_text().items())[:10])):
            for name, numbers in group.items():
                kept, mean = numbers.get("kept"), numbers.get("advantage")
                share = "" if kept is None else f"{kept:.0%}"
                lines.append(
                    f"| {name} | {numbers['turns']} | {numbers['unsure']} | {share} | "
                    f"{'' if mean is None else f'{mean:+.3f}'} |"
                )
        lines += ["", "| tokens that are | number | kept | unsure |", "|---|---|---|---|"]
        for name, numbers in self.by_role().items():
            lines.append(f"| {name} | {numbers['tokens']} | {numbers['kept']:.1%} | {numbers['unsure']:.1%} |")
        for name, examples in self.examples().items():
            lines += [
                "",
                f"{name.capitalize()}:",
                *(f"- row {turn}: `{text}` (A {A:+.3f})" for turn, text, A in examples),
            ]
        return "\n".join(lines)

    def _grouped(self, names: Sequence[Hashable]) -> dict:
        report = {}
        names = np.asarray(names, dtype=object)
        for name in dict.fromkeys(names):
            turns = names == name
            chosen = self.decisions & turns[self.turn]
            report[name] = {"turns": int(turns.sum()), "unsure": int(chosen.sum())}
            if chosen.any():
                report[name]["kept"] = float(self.kept[chosen].mean())
                report[name]["advantage"] = float(self.advantage[chosen].mean())
        return report


@torch.no_grad()
def report_filter(model: VLMActorCritic, dataset: Dataset, beta: float = 0.0, batch_size: int = 64) -> FilterReport:
    """
    What the advantage filter does to the actions of a dataset. Ours.

    Args:
        model ([`VLMActorCritic`]):
            Actor and critic, e.g. `trainer.model`.
        dataset ([`~datasets.Dataset`]):
            Episodes, held-out ones if the answer is to be believed.
        beta (`float`, *optional*, defaults to `0.0`):
            Threshold of the filter.
        batch_size (`int`, *optional*, defaults to `64`):
            Turns at once.

    Raises:
        ValueError: if the model has no critic.
    """
    dataset = prepare_episodes(dataset)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("turn", "role", "advantage", "kept", "unsure")}
    training = model.training
    model.eval()
    for batch in held_out_batches(model, dataset, batch_size):
        values, _ = model.token_values(batch["inputs"], batch["labels"])
        A = advantage(values, model.objective)
        columns = {
            "turn": batch["row"][:, None].expand_as(values.mask),
            "role": batch["role"],
            "advantage": A.double(),
            "kept": filter_keeps(values, A, beta, model.objective),
            "unsure": ~confident(values, model.objective),
        }
        for name, column in columns.items():
            found[name].append(column[values.mask].cpu().numpy())
    model.train(training)
    columns = dataset.select_columns(["behavior", "episode_id", "reward", "completion"]).to_dict()
    returns: dict[str, float] = {}
    for episode, reward in zip(columns["episode_id"], columns["reward"], strict=True):
        returns[episode] = returns.get(episode, 0.0) + reward
    return FilterReport(
        **{name: np.concatenate(parts) for name, parts in found.items()},
        behavior=[name or "unknown" for name in columns["behavior"]],
        episode_return=np.array([returns[episode] for episode in columns["episode_id"]]),
        text=[completion_text({"completion": completion}) for completion in columns["completion"]],
    )

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Whose actions does the filter keep?"""

import torch
from datasets import Dataset

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.losses import advantage, confident, filter_keeps
from trl_vlmq.replay import ReplayBuffer
from trl_vlmq.roles import TokenRole


@torch.no_grad()
def filter_by_behavior(
    model: VLMActorCritic, dataset: Dataset, beta: float = 0.0, batch_size: int = 64
) -> dict[str, dict[str, float]]:
    """
    What the advantage filter does to the choices of each behaviour in a dataset. Ours.

    Only choice tokens that the policy is not sure of are counted: where there is something to decide.

    Args:
        model ([`VLMActorCritic`]):
            Actor and critic, e.g. `trainer.model`.
        dataset ([`~datasets.Dataset`]):
            Episodes, held-out ones if the answer is to be believed.
        beta (`float`, *optional*, defaults to `0.0`):
            Threshold of the filter.
        batch_size (`int`, *optional*, defaults to `64`):
            Turns at once.

    Returns:
        `dict`: for each behaviour (and `"unknown"`) `turns`, `unsure` (number of such tokens), `kept` (share of them
        with A > beta) and `advantage` (their mean A); the last two are absent where there is no such token.

    Raises:
        ValueError: if the model has no critic.
    """
    if model.critic is None:
        raise ValueError("The model has no critic to ask: it was trained with actor_objective='sft', critic_coef=0.")
    dataset = prepare_episodes(dataset)
    behaviors = [name or "unknown" for name in dataset["behavior"]]
    collator = TokenTDCollator(model.backbone, with_bootstrap=False)
    buffer = ReplayBuffer(dataset)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in behaviors}
    training = model.training
    model.eval()
    for start in range(0, len(buffer), batch_size):
        batch = collator([buffer[i] for i in range(start, min(start + batch_size, len(buffer)))])
        inputs = {name: tensor.to(model.device) for name, tensor in batch["inputs"].items()}
        values, _ = model.token_values(inputs, batch["labels"].to(model.device))
        A = advantage(values, model.objective)
        kept = filter_keeps(values, A, beta, model.objective)
        role = batch["role"].to(model.device)
        unsure = values.mask & (role == TokenRole.CHOICE) & ~confident(values, model.objective)
        for i, row in enumerate(batch["row"].tolist()):
            found[behaviors[row]].append(torch.stack([A[i][unsure[i]], kept[i][unsure[i]].to(A)]).cpu())
    model.train(training)
    report = {}
    for name, parts in found.items():
        A, kept = torch.cat(parts, dim=1).double()
        report[name] = {"turns": len(parts), "unsure": len(A)}
        if len(A):
            report[name] |= {"kept": kept.mean().item(), "advantage": A.mean().item()}
    return report

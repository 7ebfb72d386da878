# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Training and held-out metrics from per-token values."""

import torch

from .roles import TokenRole


# One float32 column each of the rows that VLMActorCritic.forward returns, one row per action token.
TOKEN_COLUMNS = (
    "logp", "entropy", "q", "v", "advantage", "target", "critic_error", "weight", "kept", "confident", "role",
)  # fmt: skip


def token_columns(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rows [M, 11] -> a float64 tensor [M] for each of `TOKEN_COLUMNS`."""
    return dict(zip(TOKEN_COLUMNS, tokens.double().cpu().unbind(1), strict=True))


def summarise_tokens(tokens: torch.Tensor, with_critic: bool) -> dict[str, float]:
    """Metrics over all tokens of any number of batches; each is explained on the trainer page.

    Args:
        tokens (`torch.Tensor`):
            Rows [M, 11], float32, M > 0.
        with_critic (`bool`):
            Whether there are values to summarise.
    """
    column = token_columns(tokens)
    metrics = {
        "actor_loss": -(column["weight"] * column["logp"]).mean().item(),
        "nll": -column["logp"].mean().item(),
        "entropy": column["entropy"].mean().item(),
    }
    if not with_critic:
        return metrics
    error = column["q"] - column["target"]
    metrics |= {
        "critic_loss": column["critic_error"].mean().item(),
        "td_error": error.abs().mean().item(),
        "explained_variance": explained_variance(column["q"], column["target"]),
    }
    # Choice tokens that the policy is not sure of: where there is something to decide.
    choice = (column["role"] == TokenRole.CHOICE) & (column["confident"] == 0)
    for name in ("q", "v", "advantage"):
        metrics |= _distribution(name, column[name])
    if choice.any():
        metrics |= _distribution("advantage_choice", column["advantage"][choice])
        metrics["kept_unsure_choice"] = column["kept"][choice].mean().item()
    metrics["kept"] = column["kept"].mean().item()
    metrics["confident"] = column["confident"].mean().item()
    for role in TokenRole:
        chosen = column["role"] == role
        if chosen.any():
            metrics[f"kept_{role.name.lower()}"] = column["kept"][chosen].mean().item()
    return metrics


def explained_variance(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """1 - var(target - prediction) / var(target) over two tensors of one shape; 0 where all targets are the same."""
    spread = target.var(unbiased=False)
    return (1 - (target - prediction).var(unbiased=False) / spread).item() if spread > 0 else 0.0


def _distribution(name: str, values: torch.Tensor) -> dict[str, float]:
    low, middle, high = torch.quantile(values, values.new_tensor([0.1, 0.5, 0.9])).tolist()
    return {
        f"{name}_mean": values.mean().item(),
        f"{name}_std": values.std(unbiased=False).item(),
        f"{name}_p10": low,
        f"{name}_p50": middle,
        f"{name}_p90": high,
    }

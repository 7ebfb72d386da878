# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How the next token of an action is chosen."""

from collections.abc import Callable

import torch
from transformers import LogitsProcessor


class TokenSampler(LogitsProcessor):
    """Masks invalid tokens and chooses the next one by inverse transform sampling from given uniforms.

    Greedy decoding on its output then picks the chosen token, so that an action depends on its own uniforms and not on
    a global generator or on who shares the batch.
    """

    def __init__(
        self,
        valid: torch.Tensor | None,
        temperature: float,
        uniforms: Callable[[int], torch.Tensor] | None,
        epsilon: float = 0.0,
    ):
        if (temperature > 0 or epsilon > 0) and uniforms is None:
            raise ValueError("Sampling (temperature > 0 or epsilon > 0) needs `uniforms`.")
        self.valid, self.temperature, self.uniforms, self.epsilon = valid, temperature, uniforms, epsilon
        self.logps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.valid is not None:
            scores = scores.masked_fill(~self.valid, float("-inf"))
        logp = scores.float().log_softmax(-1)
        token = logp.argmax(-1, keepdim=True)
        if self.uniforms is not None:
            # One uniform serves twice: below epsilon it chooses among all tokens, above it from the policy.
            uniform = self.uniforms(len(self.logps)).to(scores.device)[:, None]
            if self.temperature > 0:
                policy = (logp.double() / self.temperature).softmax(-1)
                token = _inverse_transform(policy, (uniform - self.epsilon) / (1 - self.epsilon or 1))
            if self.epsilon > 0:
                anything = torch.isfinite(logp).double()
                random_token = _inverse_transform(anything, uniform / self.epsilon)
                token = torch.where(uniform < self.epsilon, random_token, token)
        self.logps.append(logp.gather(-1, token)[:, 0])
        return torch.full_like(scores, float("-inf")).scatter_(-1, token, 0.0)


def _inverse_transform(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Tokens [B, 1] drawn in proportion to float64 weights [B, V] by uniforms [B, 1]."""
    cumulative = weights.cumsum(-1)
    drawn = uniform * cumulative[:, -1:]
    return (cumulative <= drawn).sum(-1, keepdim=True).clamp(max=weights.shape[-1] - 1)

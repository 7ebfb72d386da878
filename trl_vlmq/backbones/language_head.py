# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a model's language head computes, as a formula that can be evaluated for some tokens at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from ..sharding import gathered_weight


@dataclass(frozen=True)
class LanguageHead:
    """What turns a state into logits: `softcap * tanh(x / softcap)` of `x = scale * (weight @ state + bias)`.

    Args:
        weight (`torch.Tensor`): [V, d].
        bias (`torch.Tensor`, *optional*): [V].
        scale (`float`, *optional*, defaults to `1.0`): factor of the logits (Cohere, Granite).
        softcap (`float`, *optional*): bound of the logits (Gemma 2).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, states: torch.Tensor, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Logits of the tokens `start` to `stop` for states [N, d]: [N, tokens], at least float32."""
        weight = self.weight[start:stop].to(states.dtype)
        if self.bias is None:
            x = states @ weight.T
        else:
            x = torch.addmm(self.bias[start:stop].to(states.dtype), states, weight.T)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.scale != 1.0:
            x = x * self.scale
        return x if self.softcap is None else self.softcap * torch.tanh(x / self.softcap)

    def times_slope(self, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """`x` times the derivative of a logit by `weight @ state`, at these logits."""
        if self.softcap is not None:
            x = x * (1 - (logits / self.softcap).clamp(-1, 1).square())
        return x if self.scale == 1.0 else x * self.scale


@torch.no_grad()
def find_language_head(
    model: PreTrainedModel, config: PretrainedConfig, logits_of: Callable[[torch.Tensor], torch.Tensor]
) -> LanguageHead | None:
    """
    The formula of a model's head, proven on the model itself.

    Models scale their logits or bound them, each under a name of its own, and some have the setting and do not use it.
    So every formula that the settings suggest is compared with what the model makes of states large enough to tell them
    apart.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model.
        config ([`~transformers.PretrainedConfig`]):
            Of its language model.
        logits_of (`Callable[[torch.Tensor], torch.Tensor]`):
            States [N, d] -> the logits that the model returns for them, [N, V].

    Returns:
        [`LanguageHead`], or `None` where no formula fits (weights that are quantised or elsewhere among them).
    """
    module = model.get_output_embeddings()
    weight, bias = module.weight, getattr(module, "bias", None)
    if len(getattr(weight, "ds_shape", weight.shape)) != 2 or not weight.is_floating_point() or weight.is_meta:
        return None
    generator = torch.Generator().manual_seed(0)
    with gathered_weight(weight):
        states = torch.randn(8, weight.shape[1], generator=generator)
        states = (states * 20 / weight.float().square().sum(1).mean().sqrt().cpu()).to(weight.device, weight.dtype)
    expected = logits_of(states).float()
    scale, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
    scales = {1.0, *([scale] if scale else []), *([divisor, 1 / divisor] if divisor else [])}
    tolerance = 1e-4 if expected.dtype == weight.dtype == torch.float32 else 2e-2
    with gathered_weight(weight, *([] if bias is None else [bias])):
        for cap in (None, getattr(config, "final_logit_softcapping", None)):
            for factor in scales:
                head = LanguageHead(weight, bias, factor, cap)
                if (head.logits(states) - expected).abs().max() <= tolerance * expected.abs().max():
                    return head
    return None

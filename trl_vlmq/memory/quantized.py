# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Layers that take the memory of bitsandbytes' 4-bit and 8-bit ones, without being them: those need real numbers."""

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from trl_vlmq._compat import quantizable_layers


BLOCK, NESTED_BLOCK = 64, 256  # weights per scale, and scales per scale of scales, in bitsandbytes' 4-bit layers


class FrozenQuantizedLinear(nn.Linear):
    """A linear layer whose weight is packed, and unpacked for each product.

    Args:
        linear (`torch.nn.Linear`):
            The layer that it replaces.
        quantization ([`~transformers.BitsAndBytesConfig`]):
            How the layer is quantised.
    """

    def __init__(self, linear: nn.Linear, quantization: BitsAndBytesConfig):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.in_4bit = bool(quantization.load_in_4bit)
        self.compute_dtype = quantization.bnb_4bit_compute_dtype if self.in_4bit else None
        size, device = linear.weight.numel(), linear.weight.device
        packed = (-(-size // 2), 1) if self.in_4bit else linear.weight.shape
        dtype = torch.uint8 if self.in_4bit else torch.int8
        self.weight = nn.Parameter(torch.empty(packed, dtype=dtype, device=device), requires_grad=False)

        def buffer(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> None:
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device=device))

        if not self.in_4bit:
            buffer("scales", self.out_features)
            return
        blocks, nested = -(-size // BLOCK), quantization.bnb_4bit_use_double_quant
        buffer("scales", blocks, dtype=torch.uint8 if nested else torch.float32)
        buffer("code", 16)
        if nested:
            buffer("scales_of_scales", -(-blocks // NESTED_BLOCK))
            buffer("code_of_scales", 256)
            buffer("offset")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As bitsandbytes' layers: 4 bits compute in `compute_dtype`, 8 bits in the dtype of what they read."""
        seen = x.to(self.compute_dtype or x.dtype)
        out = _UnpackedProduct.apply(seen, self.out_features, not self.in_4bit)
        return (out if self.bias is None else out + self.bias.to(out.dtype)).to(x.dtype)


class _UnpackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, out_features: int, keeps_input: bool) -> torch.Tensor:
        ctx.shape = (out_features, x.shape[-1])
        ctx.save_for_backward(x if keeps_input else None)  # bitsandbytes' 8-bit product keeps what it read
        return x @ x.new_empty(ctx.shape).t()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return gradient @ gradient.new_empty(ctx.shape), None, None


def quantize_in_place(model: PreTrainedModel, quantization: BitsAndBytesConfig) -> None:
    """Replace the layers that `from_pretrained` would load in 4 or 8 bits.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, on the `meta` device.
        quantization ([`~transformers.BitsAndBytesConfig`]):
            How it is quantised.
    """
    for name in quantizable_layers(model, quantization):
        model.set_submodule(name, FrozenQuantizedLinear(model.get_submodule(name), quantization))
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = bool(quantization.load_in_4bit), bool(quantization.load_in_8bit)

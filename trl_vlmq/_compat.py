# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The few helpers of other libraries that are not public. Each has a test that fails when it moves."""

from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module


def keep_4bit_layers_trainable(model: nn.Module) -> None:
    """
    Keep bitsandbytes from repacking 4-bit weights of a model on the CPU.

    On processors with AVX512-BF16, bitsandbytes 0.50 packs a 4-bit layer for inference as soon as it runs in evaluation
    mode. From then on its gradients are wrong, and `state_dict()` spoils its outputs, both without a word.

    Args:
        model (`torch.nn.Module`):
            The model.

    Raises:
        ValueError: if it has happened already.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        module.support_avx512bf16_for_cpu = False
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise ValueError(
                f"The 4-bit layer {name} has been used for inference on the CPU, after which bitsandbytes computes wrong "
                "gradients. Load the model again, and pass it on before you run it."
            )


def quantizable_layers(model: PreTrainedModel, quantization: BitsAndBytesConfig) -> list[str]:
    """
    Names of the layers that `from_pretrained` loads in 4 or 8 bits.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, not quantised.
        quantization ([`~transformers.BitsAndBytesConfig`]):
            How it is to be quantised.
    """
    spared = HfQuantizer.get_modules_to_not_convert(
        model, quantization.llm_int8_skip_modules, model._keep_in_fp32_modules
    )
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    return [name for name in linear if should_convert_module(name, spared)]

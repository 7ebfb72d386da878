# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which model to train and how: TRL's `ModelConfig` with our defaults."""

from dataclasses import dataclass, field, replace

import torch
from transformers import BitsAndBytesConfig
from trl import ModelConfig, get_quantization_config

from .backbones import Backbone, load_backbone, resolve_model
from .hardware import default_attention


@dataclass
class ModelArguments(ModelConfig):
    """`ModelConfig` whose defaults are LoRA on the embedded model."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model to train: Hub id or folder of a model, or of an adapter to go on with (and its critic), or the "
            "name of an embedded model. Default: the embedded tiny-babyai, which sees BabyAI pictures and runs on a CPU."
        },
    )
    dtype: str | None = field(default="auto", metadata={"help": "Dtype of the base model."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention of the base model; default: eager on a CPU, where it is faster."}
    )
    use_peft: bool = field(default=True, metadata={"help": "Train a LoRA adapter."})
    lora_r: int = field(default=32, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=64, metadata={"help": "Scale of the adapter."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapter."})

    @property
    def base(self) -> str:
        """Hub id or folder of the model, an embedded one by default."""
        return resolve_model(self.model_name_or_path or "tiny-babyai")

    def load(self) -> Backbone:
        """The model that these arguments describe."""
        kwargs = {"dtype": self.dtype, "attn_implementation": self.attn_implementation or default_attention()}
        if (quantization := self.quantization()) is not None:
            kwargs["quantization_config"] = quantization
        return load_backbone(self.base, **kwargs)

    def quantization(self) -> BitsAndBytesConfig | None:
        """How the base is quantised; in 4 bits it computes in `dtype`, "auto" is bfloat16 where the device has it."""
        dtype = self.dtype
        if dtype in (None, "auto"):
            dtype = "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
        return get_quantization_config(replace(self, dtype=dtype))

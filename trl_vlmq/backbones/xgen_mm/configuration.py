# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Sizes of an xGen-MM; the defaults are those of `xgen-mm-phi3-mini-instruct-*-r-v1.5`."""

from transformers import Phi3Config, PreTrainedConfig, SiglipVisionConfig
from transformers.configuration_utils import SubConfigSpec


SIGLIP_SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}


class XGenMMConfig(PreTrainedConfig):
    """Configuration of [`XGenMMForConditionalGeneration`].

    The model type is `xgen_mm`, not the `xgenmm` of the published checkpoints: those have to be converted first, and
    must not be mistaken for converted ones.

    Args:
        vision_config ([`~transformers.SiglipVisionConfig`] or `dict`, *optional*):
            The vision tower; by default SigLIP so400m at 384 pixels.
        text_config ([`~transformers.Phi3Config`] or `dict`, *optional*):
            The language model; by default Phi-3-mini with 32015 tokens. Its attention reaches over 2048 tokens: the
            published `sliding_window` of 2047 counts those before a token, transformers 5 counts the token too.
        num_image_tokens (`int`, *optional*, defaults to `128`):
            Tokens that one crop of an image becomes: the queries of the resampler.
        resampler_layers (`int`, *optional*, defaults to `6`):
            Layers of the resampler.
        resampler_heads (`int`, *optional*, defaults to `16`):
            Attention heads of each of them.
        resampler_head_dim (`int`, *optional*, defaults to `96`):
            Width of each head.
        image_token_id (`int`, *optional*, defaults to `32012`):
            The token `<image>`, which stands for one image token.
        image_placeholder_token_id (`int`, *optional*, defaults to `32013`):
            The token `<image placeholder>`, which instruct checkpoints neither read nor write.
        initializer_range (`float`, *optional*, defaults to `0.02`):
            Standard deviation of the resampler's random weights.
    """

    model_type = "xgen_mm"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=SiglipVisionConfig, init_kwargs={**SIGLIP_SO400M_384, "vision_use_head": False}
        ),
        "text_config": SubConfigSpec(
            config_class=Phi3Config, init_kwargs={"vocab_size": 32015, "sliding_window": 2048, "pad_token_id": 32011}
        ),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    num_image_tokens: int = 128
    resampler_layers: int = 6
    resampler_heads: int = 16
    resampler_head_dim: int = 96
    image_token_id: int = 32012
    image_placeholder_token_id: int | None = 32013
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

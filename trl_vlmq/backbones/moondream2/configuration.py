# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Configuration of MoonDream2: a SigLIP tower, a projector and a Phi decoder."""

from huggingface_hub.dataclasses import strict
from transformers import PhiConfig, PreTrainedConfig, SiglipVisionConfig
from transformers.configuration_utils import SubConfigSpec


@strict
class MoonDream2Config(PreTrainedConfig):
    """Sizes and the three things in which the generations of MoonDream2 differ; defaults are those of 2025.

    Args:
        vision_config ([`~transformers.SiglipVisionConfig`] or `dict`, *optional*):
            The vision tower; defaults to the published one (378 pixels, patches of 14, 27 layers).
        text_config ([`~transformers.PhiConfig`] or `dict`, *optional*):
            The decoder; defaults to the published one (24 layers, context of 2048).
        image_token_id (`int`, *optional*, defaults to `50295`):
            Token that stands for one position of an image; it may lie outside of the embedding.
        projector_hidden_size (`int`, *optional*, defaults to `8192`):
            Hidden width of the projector.
        overlap_margin (`int`, *optional*, defaults to `4`):
            Patches by which a local crop reaches into its neighbours on each side; 0 in 2024.
        bidirectional_prefix (`bool`, *optional*, defaults to `True`):
            Whether everything up to the end of the image attends in both directions; `False` in 2024.
    """

    model_type = "moondream2"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=SiglipVisionConfig,
            init_kwargs={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 378,
                "patch_size": 14,
                "layer_norm_eps": 1e-5,  # SigLIP's own is 1e-6
                "vision_use_head": False,
            },
        ),
        "text_config": SubConfigSpec(
            config_class=PhiConfig, init_kwargs={"bos_token_id": 50256, "eos_token_id": 50256}
        ),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 50295
    projector_hidden_size: int = 8192
    overlap_margin: int = 4
    bidirectional_prefix: bool = True
    tie_word_embeddings: bool = False

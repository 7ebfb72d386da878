# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which models can be measured: any that can be trained, and four shapes that need no download."""

from collections.abc import Callable
from pathlib import Path

from transformers import LlamaConfig, LlavaConfig, LlavaProcessor, PreTrainedConfig, SiglipVisionConfig
from transformers.models.siglip import SiglipImageProcessorPil

from trl_vlmq.backbones import (
    MoonDream2Config,
    MoonDream2Processor,
    XGenMMConfig,
    XGenMMImageProcessorPil,
    XGenMMProcessor,
    base_of_adapter,
    is_adapter,
    resolve_model,
)
from trl_vlmq.backbones.loading import has_vision, load_config, load_processor
from trl_vlmq.backbones.moondream2.image_processing import MoonDream2ImageProcessor
from trl_vlmq.backbones.moondream2.processing import question_template
from trl_vlmq.backbones.tiny import CHAT_TEMPLATE, build_tiny_tokenizer
from trl_vlmq.backbones.xgen_mm.configuration import SIGLIP_SO400M_384


def load_shape(name_or_path: str) -> tuple[PreTrainedConfig, object]:
    """A model's configuration and its processor; no weight is read.

    Args:
        name_or_path (`str`):
            One of `PRESETS`, the name of an embedded model, or the folder or Hub id of a model or adapter.

    Raises:
        OSError: if there is no such folder or repository.
        ValueError: if it is a checkpoint that has to be converted first.
    """
    if name_or_path in PRESETS and not Path(name_or_path).is_dir():
        config, processor = PRESETS[name_or_path]()
        config.dtype = "bfloat16"
        return config, processor
    name_or_path = resolve_model(name_or_path)
    base = base_of_adapter(name_or_path) if is_adapter(name_or_path) else name_or_path
    config = load_config(base)
    return config, load_processor(name_or_path, fallback=base, has_vision=has_vision(config))


# The tokenizer of a preset stands in for the published one: only how many rows embedding and head have takes memory.


def _moondream2() -> tuple[PreTrainedConfig, MoonDream2Processor]:
    """The published checkpoints since 2025-01-09."""
    tokenizer = build_tiny_tokenizer(["a"])
    config = MoonDream2Config(image_token_id=tokenizer.convert_tokens_to_ids("<image>"))
    template = question_template(tokenizer, "\n\nQuestion: ", "\n\nAnswer:", " ")
    return config, MoonDream2Processor(MoonDream2ImageProcessor(), tokenizer, chat_template=template)


def _xgen_mm() -> tuple[PreTrainedConfig, XGenMMProcessor]:
    """`xgen-mm-phi3-mini-instruct-*-r-v1.5`."""
    tokenizer = build_tiny_tokenizer(["a"])
    config = XGenMMConfig(image_token_id=tokenizer.convert_tokens_to_ids("<image>"), image_placeholder_token_id=None)
    return config, XGenMMProcessor(XGenMMImageProcessorPil(), tokenizer)


def _llava(**llama: int) -> tuple[PreTrainedConfig, LlavaProcessor]:
    """A LLaVA of SigLIP so400m at 384 pixels and a Llama 3."""
    tokenizer = build_tiny_tokenizer(["a"])
    vision = SiglipVisionConfig(**SIGLIP_SO400M_384, vision_use_head=False)
    side = vision.image_size // vision.patch_size
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=128256, max_position_embeddings=131072, tie_word_embeddings=False, **llama),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=side**2,
        tie_word_embeddings=False,
    )
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": vision.image_size, "width": vision.image_size}),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    return config, processor


def _llava_8b() -> tuple[PreTrainedConfig, LlavaProcessor]:
    """Llama 3 8B (arXiv 2407.21783, table 3)."""
    return _llava(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    )


def _llava_70b() -> tuple[PreTrainedConfig, LlavaProcessor]:
    """Llama 3 70B (arXiv 2407.21783, table 3)."""
    return _llava(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
    )


PRESETS: dict[str, Callable[[], tuple[PreTrainedConfig, object]]] = {
    "moondream2-2b": _moondream2,
    "xgen-mm-4.6b": _xgen_mm,
    "llava-8b": _llava_8b,
    "llava-70b": _llava_70b,
}

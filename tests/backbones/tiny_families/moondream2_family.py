# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A tiny random MoonDream2, of the generation with a bidirectional prefix, to be trained.

It reads one picture a prompt, so that the contract, which shows several, is not for it: those tests are in a folder of
their own.
"""

from transformers import PhiConfig, SiglipVisionConfig

from trl_vlmq.backbones import MoonDream2Config, MoonDream2Processor
from trl_vlmq.backbones.moondream2.image_processing import MoonDream2ImageProcessor
from trl_vlmq.backbones.moondream2.processing import question_template

from .family import Family, with_tokens


def moondream2(byte_tokenizer) -> Family:
    tokenizer = with_tokens(byte_tokenizer)
    tokenizer.bos_token = tokenizer.eos_token
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=7,
        layer_norm_eps=1e-5,
        vision_use_head=False,
    )
    text = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    config = MoonDream2Config(
        vision_config=vision,
        text_config=text,
        projector_hidden_size=32,
        overlap_margin=1,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = MoonDream2Processor(
        MoonDream2ImageProcessor(image_size=28, patch_size=7, overlap_margin=1),
        tokenizer,
        chat_template=question_template(tokenizer, "\n\nQuestion: ", "\n\nAnswer:", " "),
    )
    return Family("moondream2", config, processor, ("<image>",), max_images=1)

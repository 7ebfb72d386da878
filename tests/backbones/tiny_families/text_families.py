# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Text-only families."""

import transformers

from .family import PADDED_ROWS, TEXT_SIZES, Family


def _family(name: str, config_class: type, tokenizer, *, config=None, **row) -> Family:
    settings = TEXT_SIZES | {"vocab_size": len(tokenizer) + PADDED_ROWS} | (config or {})
    return Family(name, config_class(**settings), tokenizer, **row)


def llama(tokenizer) -> Family:
    return _family("llama", transformers.LlamaConfig, tokenizer)


def qwen2(tokenizer) -> Family:
    return _family("qwen2", transformers.Qwen2Config, tokenizer)


def qwen3(tokenizer) -> Family:
    return _family("qwen3", transformers.Qwen3Config, tokenizer, config={"head_dim": 16})


def gemma2(tokenizer) -> Family:
    return _family(
        "gemma2",
        transformers.Gemma2Config,
        tokenizer,
        config={"head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 2.0},
        logits_of=lambda head: 2.0 * (head / 2.0).tanh(),
    )


def phi(tokenizer) -> Family:
    return _family("phi", transformers.PhiConfig, tokenizer, linears_per_layer=6)  # q, k, v, dense, fc1, fc2


def phi3(tokenizer) -> Family:
    return _family("phi3", transformers.Phi3Config, tokenizer, linears_per_layer=4)  # qkv, o, gate_up, down


def granite(tokenizer) -> Family:
    scale = {"logits_scaling": 4.0}
    return _family("granite", transformers.GraniteConfig, tokenizer, config=scale, logits_of=lambda head: head / 4.0)


TEXT_FAMILIES = {make.__name__: make for make in (llama, qwen2, qwen3, gemma2, phi, phi3, granite)}

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Sizes, masks and positions of a model, and what reading its states leaves behind."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, set_seed

from trl_vlmq.backbones import make_backbone


ACTIONS = ([7, 8, 9, 10, 1], [11, 1])


@torch.no_grad()
def test_padding_does_not_move_the_positions_of_a_model_that_learned_them(tiny_llm, observe):
    tokenizer = tiny_llm[1]
    set_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)
    backbone = make_backbone(AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    prompts = [backbone.encode(*observe(text)) for text in ("Short.", "A longer one than the other.")]
    states, _ = backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)
    alone, _ = backbone.forward(backbone.collate(prompts[:1], ACTIONS[:1]), keep=5)
    torch.testing.assert_close(states[0], alone[0], rtol=1e-4, atol=1e-5)
    together = backbone.generate(prompts, max_new_tokens=5)
    assert together[0].ids == backbone.generate(prompts[:1], max_new_tokens=5)[0].ids


def test_sizes_are_those_of_the_head(family):
    backbone = family.make()
    head = backbone.model.get_output_embeddings()
    assert (backbone.n_logits, backbone.hidden_size) == tuple(head.weight.shape)
    assert backbone.n_logits == family.config.get_text_config().vocab_size > len(backbone.tokenizer)
    assert backbone.max_length == 512


def test_padded_rows_and_image_tokens_are_no_actions(family):
    backbone = family.make()
    mask = backbone.valid_token_mask()
    excluded = (~mask).nonzero()[:, 0].tolist()
    image = backbone.tokenizer.convert_tokens_to_ids(list(family.image_tokens))
    assert excluded == sorted(image) + list(range(len(backbone.tokenizer), backbone.n_logits))
    assert mask[backbone.stop_token_id]


def test_the_hook_leaves_nothing_behind(family, observations):
    backbone = family.make()
    prompt = backbone.encode(*observations(family)[0])
    backbone.forward(backbone.collate([prompt]), keep=1)
    with pytest.raises(IndexError):
        backbone.forward(backbone.collate([prompt], [[10**6, 1]]), keep=1)
    assert not backbone.model.get_output_embeddings()._forward_pre_hooks

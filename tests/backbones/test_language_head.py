# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A head is streamed only where the model itself has shown what it computes."""

import pytest
import torch

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import make_backbone
from trl_vlmq.losses import Objective


PROMPT = [{"role": "user", "content": [{"type": "text", "text": "Which way?"}]}]
ACTION = [70, 80, 90, 1]


@pytest.fixture
def backbone(tiny_vlm):
    make, processor = tiny_vlm
    return make_backbone(make(), processor)


def inputs_of(backbone) -> dict[str, torch.Tensor]:
    return backbone.collate([backbone.encode(PROMPT, [])], [ACTION])


def logp_of(backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi(a|s) of the action from the actor-critic, and from the logits that the model returns."""
    inputs = inputs_of(backbone)
    model = VLMActorCritic(backbone, Objective(), mask_invalid_tokens=False).eval()
    with torch.no_grad():
        values, _ = model.token_values(inputs, torch.tensor([ACTION]))
        logits = backbone.model(**inputs).logits[0, -len(ACTION) :]
    return values.logp[0], logits.log_softmax(-1)[torch.arange(len(ACTION)), ACTION]


def patch_logits(model, monkeypatch, change) -> None:
    forward = model.forward

    def changed(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    monkeypatch.setattr(model, "forward", changed)


def test_a_scale_that_no_setting_names_is_not_overlooked(backbone, monkeypatch):
    patch_logits(backbone.model, monkeypatch, lambda logits: 1.7 * logits)
    assert backbone.language_head(inputs_of(backbone)) is None
    torch.testing.assert_close(*logp_of(backbone))


@pytest.mark.parametrize("setting", ["final_logit_softcapping", "logits_scaling", "logit_scale"])
def test_a_setting_that_the_model_does_not_use_is_not_used(backbone, monkeypatch, setting):
    monkeypatch.setattr(backbone.config.get_text_config(), setting, 4.0, raising=False)
    head = backbone.language_head(inputs_of(backbone))
    assert (head.scale, head.softcap) == (1.0, None)
    torch.testing.assert_close(*logp_of(backbone))


def test_a_bound_that_small_logits_never_feel_is_found(backbone, monkeypatch):
    patch_logits(backbone.model, monkeypatch, lambda logits: 30 * torch.tanh(logits / 30))
    monkeypatch.setattr(backbone.config.get_text_config(), "final_logit_softcapping", 30.0, raising=False)
    assert logp_of(backbone)[0].abs().max() < 10
    assert backbone.language_head(inputs_of(backbone)).softcap == 30.0


def test_the_head_is_the_models_own_after_it_was_replaced(backbone):
    inputs = inputs_of(backbone)
    before = backbone.language_head(inputs).weight
    backbone.model.lm_head.weight = torch.nn.Parameter(torch.randn_like(before))
    assert backbone.language_head(inputs).weight is backbone.model.lm_head.weight
    torch.testing.assert_close(*logp_of(backbone))


def test_looking_for_the_head_draws_no_random_numbers(backbone):
    """A run that goes on from a checkpoint looks once more: its dropout must be the uninterrupted run's."""
    for layer in backbone.model.modules():
        if hasattr(layer, "attention_dropout"):
            layer.attention_dropout = 0.5
    backbone.model.train()
    state = torch.get_rng_state()
    backbone.language_head(inputs_of(backbone))
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.model.training

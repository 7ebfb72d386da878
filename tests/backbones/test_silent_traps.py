# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a model would compute, without a word of warning, were the adapter to leave something out."""

import pytest
import torch


ACTIONS = ([7, 8, 9, 10, 1], [11, 1], [1], [12, 13, 14])

# Inputs, one entry per token, that tell a family what is text and what is image, and their value on action tokens.
TOKEN_TYPES = {
    "qwen2_vl": ("mm_token_type_ids", 0),
    "qwen2_5_vl": ("mm_token_type_ids", 0),
    "qwen3_vl": ("mm_token_type_ids", 0),
    "gemma3": ("token_type_ids", 0),
    "paligemma": ("token_type_ids", 1),  # 0 is read in both directions: the prompt would see the action
    "paligemma2": ("token_type_ids", 1),
}


@pytest.fixture(params=TOKEN_TYPES)
def typed(request, families):
    return (families(request.param), *TOKEN_TYPES[request.param])


@torch.no_grad()
def test_token_types_reach_a_model_that_computes_something_else_without_them(typed, prompts):
    family, types, _ = typed
    backbone = family.make()
    inputs = backbone.collate(prompts(backbone, family), ACTIONS)
    states, _ = backbone.forward(inputs, keep=5)
    blank = inputs | {types: torch.zeros_like(inputs[types])}
    wrong, _ = backbone.forward(blank, keep=5)
    assert (states[0] - wrong[0]).abs().max() > 1e-3


@torch.no_grad()
def test_action_tokens_are_typed_as_text_that_is_written(typed, prompts):
    family, types, on_actions = typed
    backbone = family.make()
    encoded = prompts(backbone, family)
    looking, acting = backbone.collate(encoded), backbone.collate(encoded, ACTIONS)
    width = looking["input_ids"].shape[1]
    assert acting[types].shape == acting["input_ids"].shape
    assert torch.equal(acting[types][:, :width], looking[types])
    assert (acting[types][:, width:] == on_actions).all()
    if types == "mm_token_type_ids":
        return  # of these a wrong one is refused; in the others it is silent
    states, _ = backbone.forward(acting, keep=5)
    other = acting | {types: torch.cat([looking[types], 1 - acting[types][:, width:]], dim=1)}
    wrong, _ = backbone.forward(other, keep=5)
    assert (states[0] - wrong[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["paligemma", "paligemma2"])
def test_labels_that_a_processor_makes_up_are_not_passed_on(families, observe, name):
    family = families(name)
    backbone = family.make()
    messages, images = observe("Look.", 1)
    text = backbone.render(messages)
    assert "labels" in family.processor(text=[text], images=[images], return_tensors="pt")
    assert "labels" not in backbone.collate([backbone.encode(messages, images)], [[7, 1]])


def test_a_prompt_that_is_too_long_is_refused_and_not_cut_inside_its_image_tokens(vision_family, observe, monkeypatch):
    backbone = vision_family.make()
    observation = observe("Look.", 2)
    whole = backbone.encode(*observation)
    again = vision_family.make()
    monkeypatch.setattr(again.tokenizer, "model_max_length", 8)
    assert torch.equal(again.encode(*observation).tokens["input_ids"], whole.tokens["input_ids"])
    backbone.max_length = len(whole) + 2
    backbone.check_length(whole, 2, "row 7")
    with pytest.raises(ValueError, match="row 7: .* prompts are never cut"):
        backbone.check_length(whole, 3, "row 7")


@torch.no_grad()
def test_hidden_states_of_inner_layers_are_not_kept_and_only_actions_reach_the_head(family, prompts):
    backbone = family.make()
    outputs, projected = [], []
    backbone.model.register_forward_hook(lambda module, args, output: outputs.append(output))
    backbone.model.get_output_embeddings().register_forward_hook(
        lambda module, args, logits: projected.append(logits.shape[1])
    )
    backbone.forward(backbone.collate(prompts(backbone, family), ACTIONS), keep=5)
    assert outputs[0].hidden_states is None and projected == [5]

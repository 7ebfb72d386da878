# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the critic and the actor see of a model is what the model itself computes, whoever shares the batch."""

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GPT2Config, GraniteConfig, set_seed

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import make_backbone


ACTIONS = ([7, 8, 9, 10, 1], [11, 1], [1], [12, 13, 14])


@torch.no_grad()
def test_states_are_the_input_of_the_head_and_logits_its_output(any_family, observations):
    backbone = any_family.make()
    prompts = [backbone.encode(*observation) for observation in observations(any_family)]
    inputs = backbone.collate(prompts, ACTIONS)
    states, logits = backbone.forward(inputs, keep=5)
    assert states.shape == (4, 5, backbone.hidden_size) and logits.shape == (4, 5, backbone.n_logits)
    assert torch.equal(backbone.model.get_output_embeddings()(states), logits)
    output = backbone.model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(states, output.hidden_states[-1][:, -5:])
    torch.testing.assert_close(logits, output.logits[:, -5:])
    assert states.std() > 0.1


@torch.no_grad()
def test_a_batch_of_one_equals_a_batch_of_many(any_family, observations):
    backbone = any_family.make()
    prompts = [backbone.encode(*observation) for observation in observations(any_family)]
    states, logits = backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)
    for row, (prompt, action) in enumerate(zip(prompts, ACTIONS, strict=True)):
        n = len(action)
        state, logit = backbone.forward(backbone.collate([prompt], [action]), keep=n)
        torch.testing.assert_close(states[row, :n], state[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[row, :n], logit[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_does_not_move_the_positions_of_a_model_that_learned_them(tiny_llm, observe):
    tokenizer = tiny_llm[1]
    set_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)
    backbone = make_backbone(AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    prompts = [backbone.encode(*observe(text)) for text in ("Short.", "A longer one than the other.")]
    states, _ = backbone.forward(backbone.collate(prompts, ACTIONS[:2]), keep=5)
    alone, _ = backbone.forward(backbone.collate(prompts[:1], ACTIONS[:1]), keep=5)
    torch.testing.assert_close(states[0], alone[0], rtol=1e-4, atol=1e-5)
    together = backbone.generate(prompts, max_new_tokens=5)
    assert together[0].ids == backbone.generate(prompts[:1], max_new_tokens=5)[0].ids


@torch.no_grad()
def test_the_first_action_state_is_the_last_state_of_the_prompt(any_family, observations):
    """The bootstrap forward, over observations alone, must see the state that the training forward sees."""
    backbone = any_family.make()
    prompts = [backbone.encode(*observation) for observation in observations(any_family)]
    acting, _ = backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)
    looking, _ = backbone.forward(backbone.collate(prompts), keep=1)
    torch.testing.assert_close(acting[:, 0], looking[:, 0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_new_adapter_changes_nothing(any_family, observations):
    """LoRA starts at zero; whatever the adapter of the family asks of the model must survive the wrapping."""
    backbone = any_family.make()
    prompts = [backbone.encode(*observation) for observation in observations(any_family)]
    before = backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2))
    backbone.model.eval()
    after = backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])


@torch.no_grad()
def test_the_processors_own_call_gives_the_same_logits(any_vision_family, observations):
    backbone = any_vision_family.make()
    for messages, images in observations(any_vision_family):
        text = backbone.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        native = backbone.processor(text=[text], images=[images] if images else None, return_tensors="pt")
        native.pop("labels", None)
        _, logits = backbone.forward(backbone.collate([backbone.encode(messages, images)]), keep=2)
        torch.testing.assert_close(logits[0], backbone.model(**native).logits[0, -2:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_actions_and_pictures_reach_the_states(any_family, observations, observe):
    backbone = any_family.make()
    prompts = [backbone.encode(*observation) for observation in observations(any_family)]
    states, _ = backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)
    changed, _ = backbone.forward(backbone.collate(prompts, ([7, 20, 9, 10, 1], *ACTIONS[1:])), keep=5)
    same = (states[0] - changed[0]).abs().amax(-1) < 1e-6
    assert same.tolist() == [True, True, False, False, False], "token 2 is read by the states after it, and only them"
    torch.testing.assert_close(states[1:], changed[1:])
    if any_family.has_vision:
        text = "Look."
        seen = [backbone.encode(*observe(text, 2, seed)) for seed in (1, 2)]
        states, _ = backbone.forward(backbone.collate(seen), keep=1)
        assert (states[0] - states[1]).abs().max() > 1e-3


@torch.no_grad()
def test_logits_of_a_model_that_scales_them_are_its_own(tiny_llm):
    tokenizer = tiny_llm[1]
    set_seed(0)
    model = AutoModelForCausalLM.from_config(
        GraniteConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            logits_scaling=4.0,
        )
    ).eval()
    backbone = make_backbone(model, tokenizer)
    prompt = backbone.encode([{"role": "user", "content": "hello"}], [])
    states, logits = backbone.forward(backbone.collate([prompt], [[7, 8]]), keep=2)
    torch.testing.assert_close(logits, model.get_output_embeddings()(states) / 4)


def test_sizes_are_those_of_the_head(family):
    backbone = family.make()
    head = backbone.model.get_output_embeddings()
    assert (backbone.n_logits, backbone.hidden_size) == tuple(head.weight.shape)
    assert backbone.n_logits == len(backbone.tokenizer) + 6 and backbone.hidden_size == 32
    assert backbone.max_length == 512


def test_padded_rows_and_image_tokens_are_no_actions(family):
    backbone = family.make()
    mask = backbone.valid_token_mask()
    excluded = (~mask).nonzero()[:, 0].tolist()
    image = [backbone.tokenizer.convert_tokens_to_ids("<image>")] if family.has_vision else []
    assert excluded == sorted(image + list(range(len(backbone.tokenizer), backbone.n_logits)))
    assert mask[backbone.stop_token_id]


def test_gradients_pass_through_the_captured_state_into_the_adapter(any_family, observations):
    backbone = any_family.make()
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, init_lora_weights=False))
    prompts = [backbone.encode(*observation) for observation in observations(any_family)]
    states, _ = backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)
    states.square().sum().backward()
    gradients = {name: p.grad for name, p in backbone.model.named_parameters() if p.requires_grad}
    assert gradients and all(grad is not None and grad.any() for grad in gradients.values())


def test_the_hook_leaves_nothing_behind(family, observations):
    backbone = family.make()
    prompt = backbone.encode(*observations(family)[0])
    backbone.forward(backbone.collate([prompt]), keep=1)
    with pytest.raises(IndexError):
        backbone.forward(backbone.collate([prompt], [[10**6, 1]]), keep=1)
    assert not backbone.model.get_output_embeddings()._forward_pre_hooks

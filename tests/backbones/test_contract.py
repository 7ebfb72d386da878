# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the trainer relies on, for every family of the table: a tiny random model and its processor."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from trl_vlmq import load_backbone
from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import loading
from trl_vlmq.losses import Objective


ACTIONS = ([7, 8, 9, 10, 1], [11, 1], [1], [12, 13, 14])
# Families whose image features an adapter computes once per picture.
REMEMBERED = ("llava", "xgen_mm")


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def labels_of(actions) -> torch.Tensor:
    rows = [torch.tensor(action) for action in actions]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)


# ---- States and logits ----


@torch.no_grad()
def test_states_are_what_the_head_reads_and_logits_what_the_model_returns(family, prompts):
    backbone = family.make()
    inputs = backbone.collate(prompts(backbone, family), ACTIONS)
    states, logits = backbone.forward(inputs, keep=5)
    assert states.shape == (4, 5, backbone.hidden_size) and logits.shape == (4, 5, backbone.n_logits)
    head = backbone.model.get_output_embeddings()
    assert (backbone.n_logits, backbone.hidden_size) == tuple(head.weight.shape)
    close(family.logits_of(head(states)), logits)
    output = backbone.model(**inputs, output_hidden_states=True)
    close(states, output.hidden_states[-1][:, -5:])
    close(logits, output.logits[:, -5:])
    assert states.std() > 0.1


@torch.no_grad()
def test_the_head_is_a_formula_that_gives_the_models_own_logits(family, prompts):
    backbone = family.make()
    inputs = backbone.collate(prompts(backbone, family), ACTIONS)
    states, logits = backbone.forward(inputs, keep=5)
    head = backbone.language_head(inputs)
    close(head.logits(states.flatten(0, 1), 3, 50), logits.flatten(0, 1)[:, 3:50])
    assert torch.equal(backbone.states(inputs, keep=5), states)


@torch.no_grad()
def test_log_probabilities_are_those_that_the_model_itself_generates_with(family, observations, prompts):
    """Against `generate` of transformers on the processor's own tensors: scaling, soft caps, positions and masks."""
    backbone = family.make()
    own_ids, own_logits = [], []
    for observation in observations(family):
        inputs = family.own_inputs(backbone, *observation)
        output = backbone.model.generate(
            **inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        own_ids.append(output.sequences[0, inputs["input_ids"].shape[1] :].tolist())
        own_logits.append(torch.stack(output.logits, dim=1)[0])
    lengths = (5, 3, 1, 4)  # padding on the right as well as on the left
    actions = [ids[:length] for ids, length in zip(own_ids, lengths, strict=True)]
    model = VLMActorCritic(backbone, Objective(), mask_invalid_tokens=False).eval()
    values, _ = model.token_values(backbone.collate(prompts(backbone, family), actions), labels_of(actions))
    for row, (ids, logits) in enumerate(zip(actions, own_logits, strict=True)):
        logps = logits[: len(ids)].log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        close(values.logp[row, : len(ids)], logps)


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_prompt_with_several_pictures_and_one_with_none_give_the_models_own_logits(vision_family, observe, count):
    if vision_family.needs_image and not count:
        pytest.skip("its processor refuses prompts without an image")
    backbone = vision_family.make()
    observation = observe("What now?", count, 1)
    own = backbone.model(**vision_family.own_inputs(backbone, *observation)).logits[0, -3:]
    prompt = backbone.encode(*observation)
    # Beside a longer prompt and one with other images, on the left of them as well as on the right.
    others = [backbone.encode(*observe("x" * 90, int(vision_family.needs_image), 2))]
    others.append(backbone.encode(*observe("", 2, 3)))
    for row, batch in ((2, [*others, prompt]), (0, [prompt, *others])):
        _, logits = backbone.forward(backbone.collate(batch), keep=3)
        close(logits[row], own)


@torch.no_grad()
def test_a_batch_of_one_equals_a_batch_of_many(family, prompts):
    backbone = family.make()
    encoded = prompts(backbone, family)
    states, logits = backbone.forward(backbone.collate(encoded, ACTIONS), keep=5)
    for row, (prompt, action) in enumerate(zip(encoded, ACTIONS, strict=True)):
        n = len(action)
        state, logit = backbone.forward(backbone.collate([prompt], [action]), keep=n)
        close(states[row, :n], state[0])
        close(logits[row, :n], logit[0])


@torch.no_grad()
def test_the_bootstrap_sees_the_state_that_training_sees(family, prompts):
    """The first state of an action is the last of its prompt."""
    backbone = family.make()
    encoded = prompts(backbone, family)
    acting, _ = backbone.forward(backbone.collate(encoded, ACTIONS), keep=5)
    looking, _ = backbone.forward(backbone.collate(encoded), keep=1)
    close(acting[:, 0], looking[:, 0])


@torch.no_grad()
def test_each_token_reaches_the_states_after_it_and_no_others(family, prompts):
    backbone = family.make()
    encoded = prompts(backbone, family)
    states, _ = backbone.forward(backbone.collate(encoded, ACTIONS), keep=5)
    changed, _ = backbone.forward(backbone.collate(encoded, ([7, 20, 9, 10, 1], *ACTIONS[1:])), keep=5)
    same = (states[0] - changed[0]).abs().amax(-1) < 1e-6
    assert same.tolist() == [True, True, False, False, False]
    close(states[1:], changed[1:])


@torch.no_grad()
def test_every_picture_reaches_the_state(vision_family, observe, picture):
    backbone = vision_family.make()
    messages, images = observe("Look.", 2)
    seen = [images, [picture(7, images[0].size), images[1]], [images[0], picture(8, images[1].size)]]
    states, _ = backbone.forward(backbone.collate([backbone.encode(messages, shown) for shown in seen]), keep=1)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (states[one] - states[other]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_generated_has_the_log_probability_that_training_computes(family, prompts, temperature):
    backbone = family.make()
    encoded = prompts(backbone, family)
    table = torch.rand(4, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    generated = backbone.generate(
        encoded, max_new_tokens=5, temperature=temperature, uniforms=lambda position: table[:, position]
    )
    actions = [action.ids for action in generated]
    model = VLMActorCritic(backbone, Objective()).eval()
    values, _ = model.token_values(backbone.collate(encoded, actions), labels_of(actions))
    assert values.logp.sum(1).tolist() == pytest.approx([action.logp for action in generated], abs=1e-4)


# ---- Learning ----


def language_linears(model: nn.Module) -> set[str]:
    """All linear layers but the head and whatever looks at pictures."""
    apart = ("lm_head", "vision", "visual", "projector", "connector", "resampler")
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name for name in names if not any(part in name for part in apart)}


def test_lora_adapts_the_whole_language_model_and_no_vision_weight(family):
    backbone = family.make()
    expected = language_linears(backbone.model)
    assert len(expected) == 2 * family.linears_per_layer
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2))
    trained = [name for name, p in backbone.model.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trained)
    assert {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trained} == expected


@torch.no_grad()
def test_a_new_adapter_changes_nothing(family, prompts):
    """LoRA starts at zero; whatever the adapter of the family asks of the model must survive the wrapping."""
    backbone = family.make()
    encoded = prompts(backbone, family)
    before = backbone.forward(backbone.collate(encoded, ACTIONS), keep=5)
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2))
    backbone.model.eval()
    after = backbone.forward(backbone.collate(encoded, ACTIONS), keep=5)
    for now, then in zip(after, before, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-6, atol=1e-6)  # some CPUs round by where a tensor lies in memory


def gradients(family, prompts, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Of the states and the log-probabilities, with respect to a LoRA."""
    backbone = family.make()
    torch.manual_seed(0)
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, init_lora_weights=False))
    model = VLMActorCritic(backbone, Objective()).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    assert backbone.model.get_base_model().is_activation_checkpointing == checkpointing
    states, logits = backbone.forward(backbone.collate(prompts(backbone, family), ACTIONS), keep=5)
    (states.square().mean() + logits.log_softmax(-1)[..., 7].mean()).backward()
    return {name: p.grad for name, p in backbone.model.named_parameters() if p.requires_grad}


def test_gradients_reach_every_adapted_layer_with_gradient_checkpointing_and_without(family, prompts):
    plain = gradients(family, prompts, checkpointing=False)
    assert plain and all(grad is not None and grad.any() for grad in plain.values())
    checkpointed = gradients(family, prompts, checkpointing=True)
    assert plain.keys() == checkpointed.keys()
    for name, grad in plain.items():
        close(checkpointed[name], grad)


@torch.no_grad()
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "adapter"])
def test_a_model_comes_back_from_disk_as_it_went_there(family, prompts, tmp_path, monkeypatch, adapter):
    def outputs(backbone) -> torch.Tensor:
        backbone.model.eval()
        return backbone.forward(backbone.collate(prompts(backbone, family), ACTIONS), keep=5)[1]

    if family.needs_torchvision:  # the model goes to disk and back, the processor stays
        monkeypatch.setattr(loading, "load_processor", lambda *args, **kwargs: family.processor)
    family.make_model(seed=3).save_pretrained(tmp_path / "base")
    family.processor.save_pretrained(tmp_path / "base")
    backbone = load_backbone(str(tmp_path / "base"))
    assert type(backbone) is type(family.make())
    base = outputs(backbone)
    assert torch.equal(base, outputs(family.make(seed=3)))
    if adapter:
        torch.manual_seed(0)
        VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, init_lora_weights=False))
    else:
        backbone.model.get_input_embeddings().weight.mul_(1.5)
    expected = outputs(backbone)
    assert not torch.allclose(expected, base, atol=1e-2)

    VLMActorCritic(backbone, Objective()).save_pretrained(tmp_path / "saved")
    if not adapter:
        family.processor.save_pretrained(tmp_path / "saved")
    again = load_backbone(str(tmp_path / "saved"))
    assert torch.equal(outputs(again), expected)
    assert again.stop_token_ids == backbone.stop_token_ids
    assert again.completion_ids("go") == backbone.completion_ids("go")


# ---- Image features ----


@torch.no_grad()
def test_image_features_computed_apart_give_the_same_states(vision_family, prompts):
    backbone = vision_family.make()
    whole, _ = backbone.forward(backbone.collate(prompts(backbone, vision_family), ACTIONS), keep=5)
    backbone.model.requires_grad_(False)
    backbone.trainability_changed()
    encoded = prompts(backbone, vision_family)
    assert ("image_features" in encoded[0].vision) == (vision_family.name in REMEMBERED)
    apart, _ = backbone.forward(backbone.collate(encoded, ACTIONS), keep=5)
    close(apart, whole)
    generated = backbone.generate(encoded, max_new_tokens=4)
    actions = [action.ids for action in generated]
    values, _ = VLMActorCritic(backbone, Objective()).token_values(
        backbone.collate(encoded, actions), labels_of(actions)
    )
    assert values.logp.sum(1).tolist() == pytest.approx([action.logp for action in generated], abs=1e-4)

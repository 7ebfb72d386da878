# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What actor and critic see of MoonDream2, of either generation, is what the model itself computes."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from trl_vlmq import AFSFTConfig, AFSFTTrainer
from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import ImageTextBackbone, MoonDream2ForConditionalGeneration, load_backbone
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.losses import Objective


ACTIONS = ([7, 8, 9, 10, 256], [11, 256], [256], [12, 13, 14])


@pytest.fixture
def observations(observe, picture) -> list:
    """Of different lengths: a small picture, none, a wide one of several crops, a high one."""
    texts = ("A word.", "No picture at all, but some more to read.", "", "Go\non.")
    sizes = ((16, 16), None, (90, 45), (40, 80))
    return [
        (observe(text, size is not None)[0], [picture(seed, size)] if size else [])
        for seed, (text, size) in enumerate(zip(texts, sizes, strict=True))
    ]


@pytest.fixture
def encoded(observations):
    return lambda backbone: [backbone.encode(*observation) for observation in observations]


@pytest.fixture(params=[False, True], ids=["pixels", "features"])
def looking(request, backbone):
    """The adapter as it is where the vision tower learns, and where it does not and features are computed once."""
    backbone.model.requires_grad_(not request.param)
    backbone.trainability_changed()
    assert backbone.caches_features == request.param
    return backbone


# ---- States and logits ----


def test_it_loads_like_any_other_model(backbone):
    assert type(backbone) is ImageTextBackbone and type(backbone.model) is MoonDream2ForConditionalGeneration
    assert (backbone.n_logits, backbone.hidden_size, backbone.max_length) == (265, 32, 512)


@torch.no_grad()
def test_states_are_the_input_of_the_head_and_logits_its_output(backbone, encoded):
    inputs = backbone.collate(encoded(backbone), ACTIONS)
    states, logits = backbone.forward(inputs, keep=5)
    assert states.shape == (4, 5, 32) and logits.shape == (4, 5, 265)
    assert torch.equal(backbone.model.get_output_embeddings()(states), logits)
    output = backbone.model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(states, output.hidden_states[-1][:, -5:])
    torch.testing.assert_close(logits, output.logits[:, -5:])


@torch.no_grad()
def test_features_computed_apart_give_the_same_states(backbone, encoded):
    together = encoded(backbone)
    assert [set(prompt.vision) for prompt in together] == [
        set() if i == 1 else {"pixel_values", "image_grids"} for i in range(4)
    ]
    assert len(together[2].vision["pixel_values"]) > 1, "this picture was to have local crops"
    expected_states, expected = backbone.forward(backbone.collate(together, ACTIONS), keep=5)
    backbone.model.requires_grad_(False)
    backbone.trainability_changed()
    apart = encoded(backbone)
    assert [set(prompt.vision) for prompt in apart] == [set() if i == 1 else {"image_features"} for i in range(4)]
    states, logits = backbone.forward(backbone.collate(apart, ACTIONS), keep=5)
    torch.testing.assert_close(states, expected_states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_processors_own_call_gives_the_same_logits(backbone, observations, encoded):
    for (messages, images), prompt in zip(observations, encoded(backbone), strict=True):
        text = backbone.render(messages)
        native = backbone.processor(text=[text], images=images or None, return_tensors="pt")
        _, logits = backbone.forward(backbone.collate([prompt]), keep=2)
        torch.testing.assert_close(logits[0], backbone.model(**native).logits[0, -2:], rtol=1e-4, atol=1e-5)
        if images:  # where the image is can be read from the tokens
            native.pop("mm_token_type_ids")
            torch.testing.assert_close(logits[0], backbone.model(**native).logits[0, -2:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_batch_of_one_equals_a_batch_of_many(looking, encoded):
    backbone, prompts = looking, encoded(looking)
    states, logits = backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)
    for row, (prompt, action) in enumerate(zip(prompts, ACTIONS, strict=True)):
        n = len(action)
        state, logit = backbone.forward(backbone.collate([prompt], [action]), keep=n)
        torch.testing.assert_close(states[row, :n], state[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[row, :n], logit[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_prefix_attends_in_both_directions_in_2025_and_nothing_else_does(backbone, observe, picture, generation):
    """Which positions a change is seen from: of the picture, and of the question's last letter."""
    base = backbone.collate([backbone.encode(*observe("Look?", 1))])
    other = backbone.collate([backbone.encode(observe("Look!", 1)[0], observe("Look?", 1)[1])])

    def states(inputs: dict) -> torch.Tensor:
        return backbone.model(**inputs, output_hidden_states=True).hidden_states[-1][0]

    pixels = base["pixel_values"].clone()
    pixels[..., -1, -1] += 1  # of the last patch; the tower mixes it into all features, but not into BOS
    moved = (states(base) - states(base | {"pixel_values": pixels})).abs().amax(-1) > 1e-6
    assert moved[0] == (generation == 2025) and moved[1:].all()
    changed = (states(base) - states(other)).abs().amax(-1) > 1e-6
    letter = base["input_ids"][0].tolist().index(backbone.tokenizer.convert_tokens_to_ids("?"))
    assert changed.tolist() == [i >= letter for i in range(len(changed))]


@torch.no_grad()
def test_both_ways_to_compute_attention_agree(converted, generation, encoded):
    logits = []
    for implementation in ("sdpa", "eager"):
        backbone = load_backbone(str(converted(generation)), attn_implementation=implementation)
        logits.append(backbone.forward(backbone.collate(encoded(backbone), ACTIONS), keep=5)[1])
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_actor_log_probabilities_are_those_of_the_models_own_logits(backbone, encoded):
    prompt, action = encoded(backbone)[2], ACTIONS[0]
    values, _ = VLMActorCritic(backbone, Objective()).token_values(
        backbone.collate([prompt], [action]), torch.tensor([action])
    )
    logits = backbone.forward(backbone.collate([prompt], [action]), keep=5)[1][0, :, :257]
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(action)[:, None])[:, 0]
    torch.testing.assert_close(values.logp[0], expected)


@torch.no_grad()
def test_labels_give_the_usual_loss(backbone, encoded):
    inputs = backbone.collate(encoded(backbone)[:1], ACTIONS[:1])
    output = backbone.model(**inputs, labels=inputs["input_ids"])
    expected = nn.functional.cross_entropy(output.logits[0, 17:-1], inputs["input_ids"][0, 18:])
    labels = inputs["input_ids"].clone()
    labels[:, :18] = -100
    torch.testing.assert_close(backbone.model(**inputs, labels=labels).loss, expected)


def test_inputs_that_do_not_fit_are_refused(backbone, encoded, generation):
    inputs = backbone.collate(encoded(backbone)[2:3])
    with pytest.raises(ValueError, match="ask for 1 crops, but there are"):
        backbone.model(**inputs | {"image_grids": torch.tensor([[1, 1]])})
    with pytest.raises(ValueError, match="16 image tokens for 0 positions"):
        backbone.model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="15 image tokens for 16 positions"):
        backbone.model(**{name: inputs[name][:, 2:] if inputs[name].dim() == 2 and name != "image_grids" else inputs[name]
                          for name in inputs})  # fmt: skip
    embeds = backbone.model.get_input_embeddings()(torch.tensor([[256, 5, 6]]))
    if generation == 2025:
        with pytest.raises(ValueError, match="pass mm_token_type_ids"):
            backbone.model(inputs_embeds=embeds)
    else:
        assert backbone.model(inputs_embeds=embeds).logits.shape == (1, 3, 265)


# ---- Acting ----


@torch.no_grad()
def test_what_acting_computes_step_by_step_training_computes_at_once(looking, encoded):
    backbone, prompts = looking, encoded(looking)
    table = torch.rand(4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    actions = backbone.generate(
        prompts, max_new_tokens=8, temperature=1.0, uniforms=lambda position: table[:, position]
    )
    assert len({tuple(action.ids) for action in actions}) == 4
    model = VLMActorCritic(backbone, Objective())
    for row, (prompt, action) in enumerate(zip(prompts, actions, strict=True)):
        values, _ = model.token_values(backbone.collate([prompt], [action.ids]), torch.tensor([action.ids]))
        assert values.logp.sum().item() == pytest.approx(action.logp, abs=1e-4)
        (alone,) = backbone.generate(
            [prompt],
            max_new_tokens=8,
            temperature=1.0,
            uniforms=lambda position, row=row: table[row : row + 1, position],
        )
        assert alone.ids == action.ids


@torch.no_grad()
def test_generating_without_a_cache_is_the_same(backbone, observations):
    messages, images = observations[2]
    native = backbone.processor(text=[backbone.render(messages)], images=images, return_tensors="pt")
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with_cache, without = (backbone.model.generate(**native, **settings, use_cache=use) for use in (True, False))
    assert with_cache.shape[1] == native["input_ids"].shape[1] + 5 and torch.equal(with_cache, without)


# ---- Training ----


def test_default_lora_covers_the_decoder_and_nothing_else(backbone):
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2))
    adapted = {name.split(".lora_A")[0] for name, _ in backbone.model.named_modules() if ".lora_A." in name}
    decoder = backbone.model.get_base_model().model.language_model
    linears = {id(m) for m in decoder.modules() if hasattr(m, "base_layer")}
    assert len(adapted) == len(linears) == 12 and all(".language_model.layers." in name for name in adapted)
    assert all("lora_" in name for name, p in backbone.model.named_parameters() if p.requires_grad)
    assert backbone.caches_features


@torch.no_grad()
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "adapter"])
def test_it_comes_back_from_disk_as_it_went_there(backbone, encoded, tmp_path, adapter):
    def logits(of) -> torch.Tensor:
        of.model.eval()
        return of.forward(of.collate(encoded(of), ACTIONS), keep=5)[1]

    base = logits(backbone)
    if adapter:
        torch.manual_seed(0)
        VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, init_lora_weights=False))
    else:
        backbone.model.model.language_model.final_layernorm.weight.mul_(1.5)
    expected = logits(backbone)
    assert not torch.allclose(expected, base, atol=1e-2)
    VLMActorCritic(backbone, Objective()).save_pretrained(tmp_path)
    if not adapter:
        backbone.processor.save_pretrained(tmp_path)
    again = load_backbone(str(tmp_path))
    assert torch.equal(logits(again), expected)
    assert again.config.to_dict().keys() == backbone.config.to_dict().keys()
    assert again.completion_ids("go") == backbone.completion_ids("go")


@pytest.fixture
def train(converted, generation, observe, tmp_path):
    def run(**arguments) -> AFSFTTrainer:
        def turn(episode: int, number: int) -> Turn:
            prompt, pictures = observe(f"Turn {number}.", 1, number + 3 * episode)
            return Turn(prompt, pictures, "go" * (number + 1), float(number == 2), number == 2, False)

        backbone = load_backbone(str(converted(generation)))
        torch.manual_seed(0)
        trainer = AFSFTTrainer(
            model=backbone.model,
            args=AFSFTConfig(
                str(tmp_path),
                max_steps=3,
                per_device_train_batch_size=2,
                segment_length=2,
                learning_rate=1e-2,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                **arguments,
            ),
            train_dataset=episodes_to_dataset([Episode(f"e{i}", [turn(i, n) for n in range(3)]) for i in range(2)]),
            processing_class=backbone.processor,
            peft_config=LoraConfig(r=2),
        )
        trainer.before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train()
        return trainer

    return run


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_trains_and_gradient_checkpointing_changes_nothing_but_memory(train):
    trainer = train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, trainer.before[name])}
    assert moved == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(losses(trainer)) == 3 and torch.tensor(losses(trainer)).isfinite().all()
    assert losses(train(activation_checkpointing=True)) == losses(trainer)

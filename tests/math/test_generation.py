# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Acting and training are about the same policy: the one that samples is the one whose log pi is trained."""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import GenerationConfig

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import make_backbone
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.losses import Objective
from trl_vlmq.replay import ReplayBuffer


LIMIT = 9


@pytest.fixture(scope="module")
def observations(slow):
    rng = np.random.default_rng(4)
    return [(slow.make_prompt(count, rng), slow.make_images(count, rng)) for count in (0, 1, 2, 1, 0, 2, 1, 2)]


def uniforms_for(rows: int, seed: int):
    table = torch.rand(rows, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda position: table[:, position]


def stopping_model(make_actor_critic, mask_invalid_tokens: bool = True, **kwargs):
    """A policy that stops now and then, so that actions have different lengths and some meet the limit."""
    model = make_actor_critic(Objective(), mask_invalid_tokens=mask_invalid_tokens, seed=1, **kwargs)
    head = model.model.get_output_embeddings()
    stop = model.backbone.stop_token_id
    with torch.no_grad():
        head.weight.mul_(0.5)
        head.weight[stop] *= 4
        if not mask_invalid_tokens:
            # Nothing else keeps the policy from an image token, which no forward could read without its image.
            head.weight[model.backbone.image_token_ids] = 0
    return model


def trained_logp(model, observations, actions) -> list[float]:
    """Sum of log pi over each action, as the training forward sees it."""
    episodes = [
        Episode(
            str(i),
            [Turn(prompt, images, a.text, 0.0, True, False, completion_ids=a.ids, completion_stopped=a.stopped)],
        )
        for i, ((prompt, images), a) in enumerate(zip(observations, actions, strict=True))
    ]
    rows = ReplayBuffer(prepare_episodes(episodes_to_dataset(episodes)))
    batch = TokenTDCollator(model.backbone)(list(rows))
    with torch.no_grad():
        values, _ = model.token_values(batch["inputs"], batch["labels"])
    return values.logp.sum(1).tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("mask_invalid_tokens", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("frozen_vision", [False, True], ids=["trained vision", "frozen vision"])
def test_logp_of_generation_is_logp_of_training(
    make_actor_critic, observations, temperature, mask_invalid_tokens, frozen_vision
):
    model = stopping_model(make_actor_critic, mask_invalid_tokens, frozen_vision=frozen_vision)
    prompts = [model.backbone.encode(*observation) for observation in observations]
    actions = model.backbone.generate(
        prompts,
        max_new_tokens=LIMIT,
        temperature=temperature,
        uniforms=uniforms_for(len(prompts), 3),
        mask_invalid_tokens=mask_invalid_tokens,
    )
    lengths = {len(action.ids) for action in actions}
    assert temperature == 0 or len(lengths) > 2
    assert trained_logp(model, observations, actions) == pytest.approx([a.logp for a in actions], abs=1e-4)
    for action in actions:
        assert action.stopped == (action.ids[-1] in model.backbone.stop_token_ids)
        assert action.stopped or len(action.ids) == LIMIT
        assert not set(action.ids[:-1]) & set(model.backbone.stop_token_ids)


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_logp_is_that_of_the_raw_logits_of_transformers_own_generate(
    slow, make_actor_critic, tiny_vlm, observations, sampled
):
    """One prompt at a time, by model.generate with output_logits, and no code of ours in between."""
    model = stopping_model(make_actor_critic, mask_invalid_tokens=False)
    _, processor = tiny_vlm
    for i, (prompt, images) in enumerate(observations):
        text = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        features = processor(text=[text], images=[images] if images else None, return_tensors="pt")
        torch.manual_seed(i)
        config = GenerationConfig(
            max_new_tokens=LIMIT, do_sample=sampled, eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=0,
            top_k=0,
        )  # fmt: skip
        output = model.model.generate(
            **features, generation_config=config, output_logits=True, return_dict_in_generate=True
        )
        ids = output.sequences[0, features["input_ids"].shape[1] :].tolist()
        raw = torch.cat(output.logits).double().log_softmax(-1)
        logp = [raw[position, token].item() for position, token in enumerate(ids)]

        values = slow.Reference(model).values(prompt, images, ids)
        assert values.logp.tolist() == pytest.approx(logp, abs=1e-4)
        if not sampled:
            (ours,) = model.backbone.generate(
                [model.backbone.encode(prompt, images)], max_new_tokens=LIMIT, mask_invalid_tokens=False
            )
            assert ours.ids == ids
            assert ours.logp == pytest.approx(sum(logp), abs=1e-4)


def test_an_action_depends_on_its_own_prompt_and_uniforms_only(make_actor_critic, observations):
    model = stopping_model(make_actor_critic)
    prompts = [model.backbone.encode(*observation) for observation in observations]
    uniforms = uniforms_for(len(prompts), 5)
    together = model.backbone.generate(prompts, max_new_tokens=LIMIT, temperature=1.0, uniforms=uniforms)
    for i, prompt in enumerate(prompts):
        (alone,) = model.backbone.generate(
            [prompt],
            max_new_tokens=LIMIT,
            temperature=1.0,
            uniforms=lambda position, i=i: uniforms(position)[i : i + 1],
        )
        assert alone.ids == together[i].ids
        assert alone.logp == pytest.approx(together[i].logp, abs=1e-4)


@pytest.mark.parametrize(
    "shipped",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 5},
        {"suppress_tokens": list(range(100, 180))},
        {"num_beams": 3},
        {"temperature": 0.3, "top_k": 5, "top_p": 0.5, "do_sample": True},
        {"eos_token_id": 7},
    ],
    ids=lambda shipped: next(iter(shipped)),
)
def test_what_a_checkpoint_ships_for_generation_does_not_change_the_policy(make_actor_critic, observations, shipped):
    """Qwen2.5-VL ships a repetition penalty, for one: data sampled under it would be off-policy without anyone knowing."""
    model = stopping_model(make_actor_critic)
    prompts = [model.backbone.encode(*observation) for observation in observations]
    settings = {"max_new_tokens": LIMIT, "temperature": 1.0, "uniforms": uniforms_for(len(prompts), 5)}
    expected = model.backbone.generate(prompts, **settings)
    before = model.model.generation_config.to_dict()
    model.model.generation_config.update(**shipped)
    actions = model.backbone.generate(prompts, **settings)
    assert [a.ids for a in actions] == [a.ids for a in expected]
    assert [a.logp for a in actions] == pytest.approx([a.logp for a in expected], abs=1e-5)
    assert model.model.generation_config.to_dict() == before | shipped, "what the checkpoint ships is saved with it"


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_an_adapter_acts_as_it_is_trained(slow, lively_vlm, tiny_vlm, observations, task_type):
    backbone = make_backbone(lively_vlm(), tiny_vlm[1])
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=4, init_lora_weights=False, task_type=task_type))
    model = VLMActorCritic(backbone, Objective())
    slow.randomise_critics(model)
    backbone.model.get_base_model().generation_config.update(repetition_penalty=1.5)
    prompts = [backbone.encode(*observation) for observation in observations]
    settings = {"max_new_tokens": LIMIT, "temperature": 0.8, "uniforms": uniforms_for(len(prompts), 2)}
    actions = backbone.generate(prompts, **settings)
    assert trained_logp(model, observations, actions) == pytest.approx([a.logp for a in actions], abs=1e-4)
    with backbone.model.disable_adapter():
        assert [a.ids for a in backbone.generate(prompts, **settings)] != [a.ids for a in actions]


@pytest.fixture(scope="module")
def one_prompt(slow, make_actor_critic):
    rng = np.random.default_rng(0)
    model = stopping_model(make_actor_critic)
    prompt, images = slow.make_prompt(1, rng), slow.make_images(1, rng)
    return model, prompt, images, model.backbone.encode(prompt, images)


def tempered(slow, model, prompt, images, action: list[int], temperature: float) -> np.ndarray:
    """softmax(logits / T) over valid tokens, where the last token of `action` is chosen."""
    reference = slow.Reference(model)
    _, logits = reference.states_and_logits(prompt, images, action)
    return np.exp(reference.policy(logits[-1:] / temperature)[0])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_first_tokens_are_sampled_by_softmax_of_logits_over_temperature(slow, one_prompt, temperature):
    model, prompt, images, encoded = one_prompt
    probability = tempered(slow, model, prompt, images, [0], temperature)
    count = 4000
    sampled = []
    for block in range(4):
        uniforms = uniforms_for(count // 4, block)
        sampled += model.backbone.generate(
            [encoded] * (count // 4), max_new_tokens=1, temperature=temperature, uniforms=uniforms
        )
    observed = np.bincount([action.ids[0] for action in sampled], minlength=model.backbone.n_logits)
    assert (observed > 20).sum() >= 5, "too peaked to show anything"
    assert slow.chi_square_p(observed, count * probability) > 1e-3
    other = tempered(slow, model, prompt, images, [0], temperature * 0.6)
    assert slow.chi_square_p(observed, count * other) < 1e-6, "the test would not notice another temperature"
    assert observed[model.backbone.image_token_ids].sum() == 0


def test_evenly_spread_uniforms_give_each_token_its_exact_share(slow, one_prompt):
    model, prompt, images, encoded = one_prompt
    count = 1000
    probability = tempered(slow, model, prompt, images, [0], 1.3)
    spread = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    actions = model.backbone.generate([encoded] * count, max_new_tokens=1, temperature=1.3, uniforms=lambda _: spread)
    observed = np.bincount([action.ids[0] for action in actions], minlength=model.backbone.n_logits)
    assert np.abs(observed - count * probability).max() <= 1 + 1e-2


def test_second_tokens_follow_the_policy_after_the_first(slow, one_prompt):
    model, prompt, images, encoded = one_prompt
    count, temperature = 2000, 0.5
    actions = model.backbone.generate(
        [encoded] * count, max_new_tokens=2, temperature=temperature, uniforms=uniforms_for(count, 11)
    )
    firsts = np.array([action.ids[0] for action in actions])
    going_on = [token for token in np.unique(firsts) if token not in model.backbone.stop_token_ids]
    first = max(going_on, key=lambda token: (firsts == token).sum())
    seconds = [action.ids[1] for action in actions if action.ids[0] == first]
    assert len(seconds) > 200
    probability = tempered(slow, model, prompt, images, [int(first), 0], temperature)
    observed = np.bincount(seconds, minlength=model.backbone.n_logits)
    assert slow.chi_square_p(observed, len(seconds) * probability) > 1e-3


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_unit_interval_choose_a_possible_token(one_prompt, uniform):
    model, _, _, encoded = one_prompt
    edge = torch.tensor([uniform], dtype=torch.float64)
    (action,) = model.backbone.generate([encoded], max_new_tokens=3, temperature=1.0, uniforms=lambda _: edge)
    assert model.valid_tokens[action.ids].all()
    assert np.isfinite(action.logp)

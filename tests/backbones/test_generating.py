# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An action ends where the model ends it, or at the limit, and does not depend on who acts at the same time."""

import pytest
import torch
from peft import LoraConfig

from trl_vlmq.actor_critic import VLMActorCritic


@pytest.fixture
def force():
    """`force(backbone, rows)`: makes greedy decoding write these tokens, row by row, and 9 after them; 8 is next best."""
    handles = []

    def install(backbone, rows: list[list[int]]) -> None:
        steps = []

        def hook(module, args, logits):
            wanted = [row[len(steps)] if len(steps) < len(row) else 9 for row in rows]
            steps.append(wanted)
            logits = torch.full_like(logits, -1000)  # a soft cap must not level what is forced
            logits[:, -1, 8] = 0
            logits[torch.arange(len(rows)), -1, wanted] = 1000
            return logits

        handles.append(backbone.model.get_output_embeddings().register_forward_hook(hook))

    yield install
    for handle in handles:
        handle.remove()


def test_an_action_ends_with_the_stop_token_or_at_the_limit(family, observations, force):
    backbone = family.make()
    stop = backbone.stop_token_id
    words = backbone.completion_ids("go")[:-1]
    force(backbone, [[*words, stop], [stop], [7, 8, 10, 11, 12, 13], [7, 8, 10, 11, stop]])
    prompts = [backbone.encode(*observation) for observation in observations(family)]
    actions = backbone.generate(prompts, max_new_tokens=5)
    assert [action.ids for action in actions] == [[*words, stop], [stop], [7, 8, 10, 11, 12], [7, 8, 10, 11, stop]]
    assert [action.stopped for action in actions] == [True, True, False, True]
    assert [action.text for action in actions][:2] == ["go", ""]
    assert actions[3].text == backbone.decode([7, 8, 10, 11])


def test_eos_ends_an_action_where_the_template_uses_another_token(families, observations, force):
    family = families("idefics3")
    backbone = family.make()
    eos = backbone.tokenizer.eos_token_id
    assert eos != backbone.stop_token_id
    force(backbone, [[7, eos, 8]])
    (action,) = backbone.generate([backbone.encode(*observations(family)[0])], max_new_tokens=5)
    assert action.ids == [7, eos] and action.stopped


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_action_does_not_depend_on_who_acts_at_the_same_time(family, observations, temperature):
    backbone = family.make()
    prompts = [backbone.encode(*observation) for observation in observations(family)]
    table = torch.rand(len(prompts), 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def act(rows: list[int]):
        return backbone.generate(
            [prompts[row] for row in rows],
            max_new_tokens=8,
            temperature=temperature,
            uniforms=lambda position: table[rows, position],
        )

    together = act([0, 1, 2, 3])
    alone = [act([row])[0] for row in range(4)]
    backwards = act([3, 2, 1, 0])[::-1]
    for others in (alone, backwards):
        assert [action.ids for action in others] == [action.ids for action in together]
        assert [action.text for action in others] == [action.text for action in together]
        assert [action.logp for action in others] == pytest.approx([action.logp for action in together], abs=1e-4)
    if temperature:
        assert len({tuple(action.ids) for action in together}) == 4


def test_no_token_is_sampled_that_is_no_action(family, observations, force):
    backbone = family.make()
    refused = [backbone.n_logits - 1, *backbone.tokenizer.convert_tokens_to_ids(list(family.image_tokens))]
    force(backbone, [[*refused, 7]])
    (action,) = backbone.generate([backbone.encode(*observations(family)[0])], max_new_tokens=len(refused) + 1)
    assert action.ids == [8] * len(refused) + [7]


def test_sampling_needs_a_source_of_randomness(families, observations):
    family = families("llama")
    backbone = family.make()
    with pytest.raises(ValueError, match="needs `uniforms`"):
        backbone.generate([backbone.encode(*observations(family)[0])], max_new_tokens=3, temperature=1.0)


@pytest.mark.parametrize("training", [True, False])
def test_acting_leaves_the_model_in_the_mode_it_was_in(families, observations, training):
    family = families("llava")
    backbone = family.make()
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, lora_dropout=0.5, init_lora_weights=False))
    backbone.model.train(training)
    state = torch.random.get_rng_state()
    prompt = backbone.encode(*observations(family)[0])
    first, second = (backbone.generate([prompt], max_new_tokens=6)[0] for _ in range(2))
    assert first.logp == second.logp, "dropout was on"
    assert backbone.model.training == training
    assert torch.equal(torch.random.get_rng_state(), state), "acting drew from the global generator"

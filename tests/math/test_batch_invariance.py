# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A row's values are its own: padding and the rows beside it change nothing."""

import itertools

import numpy as np
import pytest
import torch

from trl_vlmq.backbones import EncodedPrompt
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.losses import Objective
from trl_vlmq.replay import ReplayBuffer


FIELDS = ("logp", "entropy", "q", "v", "v_target", "q_target")


@pytest.fixture(scope="module")
def turns(slow) -> list[Turn]:
    """Prompts of 0, 1 and 2 images and many lengths, with actions from one token (stop) to 27."""
    rng = np.random.default_rng(0)
    completions = ("", "a", '{"action": "turn left"}', "go", '{"a": 1}', "x" * 26)
    return [
        Turn(slow.make_prompt(count, rng), slow.make_images(count, rng), completion, 0.5, True, False)
        for count, completion in itertools.product((0, 1, 2), completions)
    ]


@pytest.fixture(scope="module")
def rows(turns) -> ReplayBuffer:
    return ReplayBuffer(prepare_episodes(episodes_to_dataset(Episode(str(i), [t]) for i, t in enumerate(turns))))


@pytest.fixture(scope="module", params=[False, True], ids=["trained vision", "frozen vision"])
def model(make_actor_critic, request):
    """With a frozen vision tower, features are remembered per image instead of computed per batch."""
    model = make_actor_critic(Objective(), num_critics=2, frozen_vision=request.param)
    assert model.backbone.caches_features == request.param
    return model


def values_of(model, rows: ReplayBuffer, chosen: list[int]) -> dict[int, dict[str, np.ndarray]]:
    """Row -> field -> values of its action tokens."""
    batch = TokenTDCollator(model.backbone)([rows[i] for i in chosen])
    with torch.no_grad():
        values, _ = model.token_values(batch["inputs"], batch["labels"])
    return {
        row: {name: getattr(values, name)[..., b, :][..., values.mask[b]].numpy() for name in FIELDS}
        for b, row in enumerate(chosen)
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], where) -> None:
    for name in FIELDS:
        assert found[name].shape == expected[name].shape
        difference = np.abs(found[name] - expected[name]).max()
        assert difference < 1e-5, (name, difference, where)


def test_a_row_alone_has_the_values_of_an_unpadded_forward(slow, model, rows, turns):
    reference = slow.Reference(model)
    for row, turn in enumerate(turns):
        expected = reference.turn_values(turn)
        found = values_of(model, rows, [row])[row]
        assert_same(found, {name: getattr(expected, name) for name in FIELDS}, row)


@pytest.mark.parametrize("seed", range(4))
def test_a_row_has_the_same_values_in_any_batch(model, rows, seed):
    rng = np.random.default_rng(seed)
    alone = {row: values_of(model, rows, [row])[row] for row in range(len(rows))}
    order = rng.permutation(len(rows)).tolist()
    cuts = [order] if seed == 0 else [chunk.tolist() for chunk in np.array_split(order, 2 + 2 * seed)]
    for chunk in cuts:
        for row, found in values_of(model, rows, chunk).items():
            assert_same(found, alone[row], chunk)


def test_rows_without_any_image_form_a_batch(model, rows, turns):
    chosen = [i for i, turn in enumerate(turns) if not turn.images]
    batch = TokenTDCollator(model.backbone)([rows[i] for i in chosen])
    assert not {"pixel_values", "image_features"} & batch["inputs"].keys()
    for row, found in values_of(model, rows, chosen).items():
        assert_same(found, values_of(model, rows, [row])[row], chosen)


def test_each_row_sees_its_own_images_in_order(slow, model, turns):
    """A batch whose rows swapped images, or one row's images in reverse, is another batch: the values must move."""
    pair = [i for i, turn in enumerate(turns) if len(turn.images) == 2][2]
    turn = turns[pair]
    swapped = Turn(turn.prompt, turn.images[::-1], turn.completion, 0.5, True, False)
    other = Turn(turn.prompt, slow.make_images(2, np.random.default_rng(9)), turn.completion, 0.5, True, False)
    variants = [turn, swapped, other]
    rows = ReplayBuffer(prepare_episodes(episodes_to_dataset(Episode(str(i), [t]) for i, t in enumerate(variants))))
    found = values_of(model, rows, [0, 1, 2])
    reference = slow.Reference(model)
    for row, variant in enumerate(variants):
        expected = reference.turn_values(variant)
        assert_same(found[row], {name: getattr(expected, name) for name in FIELDS}, row)
    for a, b in itertools.combinations(range(3), 2):
        assert np.abs(found[a]["logp"] - found[b]["logp"]).max() > 1e-2
        assert np.abs(found[a]["v_target"] - found[b]["v_target"]).max() > 1e-3


def test_the_state_value_of_a_prompt_is_that_of_its_first_action_token(slow, model, rows, turns):
    """The bootstrap forward (prompts only) and the training forward agree on a state."""
    batch = TokenTDCollator(model.backbone)([rows[i] for i in range(len(rows))])
    prompts: list[EncodedPrompt] = [model.backbone.encode(turn.prompt, turn.images) for turn in turns]
    with torch.no_grad():
        _, first = model.token_values(batch["inputs"], batch["labels"])
        state = model.state_values(model.backbone.collate(prompts))
    assert (first - state).abs().max() < 1e-5
    reference = slow.Reference(model)
    expected = [reference.first_value(turn.prompt, turn.images) for turn in turns]
    assert state.tolist() == pytest.approx(expected, abs=1e-5)


def test_an_image_given_as_stored_bytes_or_decoded_is_the_same_state(model, rows, turns):
    for row, turn in enumerate(turns):
        stored = model.backbone.encode(turn.prompt, rows[row].rows[0]["images"])
        decoded = model.backbone.encode(turn.prompt, turn.images)
        assert torch.equal(stored.tokens["input_ids"], decoded.tokens["input_ids"])
        assert stored.vision.keys() == decoded.vision.keys()
        for name, tensor in stored.vision.items():
            assert torch.equal(tensor, decoded.vision[name])

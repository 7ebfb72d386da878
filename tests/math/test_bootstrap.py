# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which state each turn bootstraps from, against a separate forward of every single prompt."""

import numpy as np
import pytest
import torch

from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.episodes import episodes_to_dataset
from trl_vlmq.losses import TD_HORIZONS, Objective
from trl_vlmq.replay import ReplayBuffer
from trl_vlmq.token_metrics import token_columns


# Lengths around the segments' 1, 2 and 4 turns: ends inside of a segment, at its end, one after it; all three endings.
ENDINGS = [
    (1, "terminated"), (4, "truncated"), (5, "terminated"), (2, "both"), (1, "truncated"), (3, "terminated"),
    (6, "truncated"), (8, "terminated"),
]  # fmt: skip


@pytest.fixture(scope="module")
def episodes(slow):
    return slow.make_episodes(ENDINGS, seed=7)


@pytest.fixture(scope="module")
def dataset(slow):
    return prepare_episodes(slow.make_dataset(ENDINGS, seed=7))


def turns_of(episodes):
    return [(episode, index) for episode in episodes for index in range(episode.length)]


@pytest.fixture(scope="module")
def expected_targets(slow, make_actor_critic, episodes):
    """Targets of all rows, one list each, by the loop over single prompts."""

    def compute(objective: Objective) -> list[list[float]]:
        reference = slow.Reference(make_actor_critic(objective, num_critics=2))
        return [
            slow.targets(
                objective,
                reference.turn_values(episode.turns[index]),
                episode.turns[index].reward,
                reference.next_value(episode, index),
            )
            for episode, index in turns_of(episodes)
        ]

    return compute


def batch_targets(model, batch: dict) -> dict[int, list[float]]:
    """Row of the dataset -> the targets that the loss saw."""
    with torch.no_grad():
        column = token_columns(model(**batch)["tokens"])["target"].tolist()
    lengths = (batch["labels"] != -100).sum(1).tolist()
    ends = np.cumsum(lengths)
    return {row: column[end - n : end] for row, n, end in zip(batch["row"].tolist(), lengths, ends, strict=True)}


@pytest.mark.parametrize("td_horizon", TD_HORIZONS)
def test_targets_are_the_same_however_episodes_are_cut_into_segments(
    make_actor_critic, dataset, expected_targets, td_horizon
):
    objective = Objective(gamma=0.9, token_gamma=0.97, td_horizon=td_horizon, reward_scale=1.5)
    expected = expected_targets(objective)
    model = make_actor_critic(objective, num_critics=2)
    for segment_length in (1, 2, 4, 16):
        buffer = ReplayBuffer(dataset, segment_length)
        collate = TokenTDCollator(model.backbone)
        order = np.random.default_rng(segment_length).permutation(len(buffer))
        found = {}
        for chunk in np.array_split(order, max(1, len(buffer) // 5)):
            found |= batch_targets(model, collate([buffer[i] for i in chunk]))
        assert sorted(found) == list(range(len(dataset))), "every turn in exactly one segment"
        for row, targets in enumerate(expected):
            assert found[row] == pytest.approx(targets, abs=1e-5), (segment_length, row)


def test_the_choice_of_the_following_state_matters_in_this_batch(expected_targets):
    """Were all following values alike, the test above would prove nothing."""
    targets = expected_targets(Objective(gamma=1.0, td_horizon="token", reward_scale=1e-9))
    last = np.array([row[-1] for row in targets])
    assert len(np.unique(last.round(3))) > 0.6 * len(last)


def test_a_truncated_turn_bootstraps_and_a_terminated_one_does_not(slow, make_actor_critic, episodes, dataset):
    objective = Objective(gamma=0.9, td_horizon="token")
    model = make_actor_critic(objective)
    reference = slow.Reference(model)
    buffer = ReplayBuffer(dataset, segment_length=4)
    found = batch_targets(model, TokenTDCollator(model.backbone)(list(buffer)))
    seen = {"terminated": 0, "truncated": 0, "both": 0}
    for row, (episode, index) in enumerate(turns_of(episodes)):
        if index < episode.length - 1:
            continue
        turn = episode.turns[index]
        final = reference.first_value(turn.final_prompt, turn.final_images) if turn.truncated else 0.0
        if turn.terminated:  # with both flags the task itself ended: nothing can follow, whatever was stored
            assert found[row][-1] == pytest.approx(turn.reward, abs=1e-6)
            seen["both" if turn.truncated else "terminated"] += 1
        else:
            assert abs(final) > 1e-3
            assert found[row][-1] == pytest.approx(turn.reward + 0.9 * final, abs=1e-5)
            seen["truncated"] += 1
    assert min(seen.values()) >= 1


@pytest.mark.parametrize("segment_length", [1, 2, 4])
def test_each_turn_points_at_the_place_of_what_follows_it(episodes, dataset, make_actor_critic, segment_length):
    """(turns, bootstrap rows, zero): the contract between collator and loss, place by place."""
    model = make_actor_critic()
    buffer = ReplayBuffer(dataset, segment_length)
    turns = turns_of(episodes)
    for chunk in np.array_split(np.random.default_rng(0).permutation(len(buffer)), 3):
        batch = TokenTDCollator(model.backbone)([buffer[i] for i in chunk])
        rows = batch["row"].tolist()
        extra = batch.get("bootstrap_inputs", {}).get("input_ids", [])
        zero, unused = len(rows) + len(extra), set(range(len(rows), len(rows) + len(extra)))
        for row, place in zip(rows, batch["next_index"].tolist(), strict=True):
            episode, index = turns[row]
            turn = episode.turns[index]
            if turn.terminated:
                assert place == zero
            elif not turn.truncated and index % segment_length < segment_length - 1:
                assert rows[place] == row + 1
            else:
                following = turn if turn.truncated else episode.turns[index + 1]
                prompt, images = (
                    (turn.final_prompt, turn.final_images) if turn.truncated else (following.prompt, following.images)
                )
                expected = model.backbone.encode(prompt, images).tokens["input_ids"]
                ids, mask = (batch["bootstrap_inputs"][n][place - len(rows)] for n in ("input_ids", "attention_mask"))
                assert torch.equal(ids[mask.bool()], expected)
                unused.remove(place)
        assert not unused, "every bootstrap row is some turn's"


def test_a_segment_of_k_turns_encodes_at_most_one_more_prompt(make_actor_critic, dataset):
    """The price promised: K + 1 forwards, K where the episode ends with termination."""
    model = make_actor_critic()
    for segment_length in (1, 2, 4):
        for segment in ReplayBuffer(dataset, segment_length):
            batch = TokenTDCollator(model.backbone)([segment])
            bootstraps = len(batch.get("bootstrap_inputs", {"input_ids": []})["input_ids"])
            assert bootstraps == (0 if segment.rows[-1]["terminated"] else 1)
            assert len(batch["labels"]) == len(segment.rows) <= segment_length


def test_rewards_and_flags_follow_their_row(dataset, episodes, make_actor_critic):
    model = make_actor_critic()
    buffer = ReplayBuffer(dataset, segment_length=4)
    turns = [episode.turns[index] for episode, index in turns_of(episodes)]
    batch = TokenTDCollator(model.backbone)([buffer[i] for i in reversed(range(len(buffer)))])
    for row, reward, terminated in zip(batch["row"], batch["reward"], batch["terminated"], strict=True):
        assert reward.item() == turns[row].reward
        assert terminated.item() == turns[row].terminated


def test_sampled_tokens_are_used_as_they_were_sampled(slow, make_actor_critic, tiny_vlm):
    """Not re-tokenised, and without a stop token where none was sampled."""
    _, processor = tiny_vlm
    objective = Objective(td_horizon="token", gamma=0.9)
    episodes = slow.make_episodes([(2, "terminated")], seed=1)
    ids = processor.tokenizer("go go go")["input_ids"][:5]
    episodes[0].turns[0].completion_ids, episodes[0].turns[0].completion_stopped = ids, False
    model = make_actor_critic(objective)
    reference = slow.Reference(model)
    collate = TokenTDCollator(model.backbone)
    batch = collate(list(ReplayBuffer(prepare_episodes(episodes_to_dataset(episodes)), 2)))
    assert batch["labels"][0][batch["labels"][0] != -100].tolist() == ids
    turn = episodes[0].turns[0]
    expected = slow.targets(objective, reference.turn_values(turn), turn.reward, reference.next_value(episodes[0], 0))
    assert batch_targets(model, batch)[0] == pytest.approx(expected, abs=1e-5)

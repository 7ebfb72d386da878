# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which segments training sees, and what the buffer keeps."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from trl_vlmq import LinearSchedule, ReplayBuffer
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.priorities import Prioritization


def played(lengths: list[int], name: str = "e", returns: list[float] | None = None) -> Dataset:
    """Episodes of these lengths, without images."""

    def turn(index: int, last: bool, reward: float) -> Turn:
        prompt = [{"role": "user", "content": [{"type": "text", "text": f"Turn {index}."}]}]
        return Turn(prompt, [], "x", reward if last else 0.0, last, False)

    returns = returns or [0.0] * len(lengths)
    return prepare_episodes(
        episodes_to_dataset(
            Episode(f"{name}{i}", [turn(t, t == length - 1, total) for t in range(length)])
            for i, (length, total) in enumerate(zip(lengths, returns, strict=True))
        )
    )


def identity(segment) -> tuple:
    return tuple((row["episode_id"], row["turn"]) for row in segment.rows)


def everything(buffer: ReplayBuffer) -> list[tuple]:
    return [identity(buffer[i]) for i in range(len(buffer))]


def test_without_play_an_epoch_is_every_turn_once():
    buffer = ReplayBuffer(played([3, 5, 1]), segment_length=2)
    for epoch in range(2):
        buffer.begin_epoch(epoch)
        turns = [turn for segment in everything(buffer) for turn in segment]
        assert sorted(turns) == sorted((f"e{i}", t) for i, n in enumerate([3, 5, 1]) for t in range(n))


@pytest.mark.parametrize("length", [3, 7, 25])
def test_epochs_of_another_length_still_walk_through_all_logs(length):
    buffer = ReplayBuffer(played([2] * 10), segment_length=1, segments_per_epoch=length, seed=3)
    seen = []
    for epoch in range(60 // length + 1):
        buffer.begin_epoch(epoch)
        seen += everything(buffer)
    for start in range(0, 60, 20):  # each pass holds every segment once
        assert len(set(seen[start : start + 20])) == 20
    assert seen[:20] != seen[20:40]  # in another order


def test_an_index_means_the_same_to_everybody():
    def make():
        buffer = ReplayBuffer(
            played([4] * 10), 2, segments_per_epoch=40, seed=5, prioritization=Prioritization("return")
        )
        buffer.add_online(played([3] * 10, "on", returns=[1.0, 0.0] * 5), 0)
        buffer.begin_epoch(2)
        return buffer

    buffer = make()
    in_order = everything(buffer)
    assert [identity(buffer[i]) for i in reversed(range(40))] == in_order[::-1]
    assert everything(make()) == in_order
    workers = DataLoader(buffer, batch_size=4, num_workers=2, collate_fn=lambda segments: segments)
    assert [identity(segment) for batch in workers for segment in batch] == in_order
    buffer.begin_epoch(3)
    assert everything(buffer) != in_order


def test_the_share_of_online_segments_follows_its_schedule():
    buffer = ReplayBuffer(
        played([2] * 50), 1, segments_per_epoch=4000, online_share=LinearSchedule(0.0, 0.6, 3), seed=1
    )
    buffer.begin_epoch(6)
    assert not any(row["episode_id"].startswith("on") for i in range(100) for row in buffer[i].rows)
    buffer.add_online(played([2] * 50, "on"), 7)
    for epoch, share in ((7, 0.2), (8, 0.4), (9, 0.6), (20, 0.6)):
        buffer.begin_epoch(epoch)
        online = np.mean([buffer[i].rows[0]["episode_id"].startswith("on") for i in range(4000)])
        assert abs(online - share) < 4 * np.sqrt(0.25 / 4000)


def test_online_segments_are_drawn_alike():
    buffer = ReplayBuffer(None, 1, segments_per_epoch=20_000, seed=2)
    buffer.add_online(played([2, 3], "a"), 0)
    buffer.add_online(played([5], "b"), 0)
    buffer.begin_epoch(0)
    counts = Counter(identity(buffer[i]) for i in range(20_000))
    assert len(counts) == 10 and all(abs(n - 2000) < 4.5 * np.sqrt(20_000 * 0.09) for n in counts.values())


def test_what_was_just_played_is_seen_from_the_next_epoch_on():
    buffer = ReplayBuffer(None, 1, segments_per_epoch=50)
    buffer.add_online(played([4], "a"), 0)
    buffer.begin_epoch(0)
    before, version = everything(buffer), buffer.version
    buffer.add_online(played([4], "b"), 1)
    assert everything(buffer) == before and buffer.version == version
    buffer.begin_epoch(1)
    assert {s[0][0] for s in everything(buffer)} == {"a0", "b0"} and buffer.version == version + 1


@pytest.mark.parametrize("capacity", [7, 10, 23])
def test_the_oldest_online_episodes_go_first_and_logs_stay(capacity):
    lengths = [3, 2, 4, 1, 5, 2, 3, 3, 4]
    buffer = ReplayBuffer(played([2] * 4), 1, segments_per_epoch=400, capacity_turns=capacity)
    for i, length in enumerate(lengths):
        buffer.add_online(played([length], f"on{i}-"), i)
        kept, turns = [], 0  # the longest row of newest episodes that fits
        for j in range(i, -1, -1):
            if turns + lengths[j] > capacity:
                break
            kept, turns = [*kept, j], turns + lengths[j]
        buffer.begin_epoch(i)
        seen = {turn for segment in everything(buffer) for turn in segment}
        online = {turn for turn in seen if turn[0].startswith("on")}
        assert buffer.online_turns == turns and buffer.num_online_episodes == len(kept)
        assert online == {(f"on{j}-0", t) for j in kept for t in range(lengths[j])}
        assert len(seen - online) == 8


def test_how_episodes_are_packed_into_files_does_not_matter():
    lengths = [3, 2, 4, 1, 5, 2, 3, 3, 4]
    whole = played(lengths, "on")
    contents = []
    for cuts in ([9], [1] * 9, [4, 5], [2, 3, 4]):
        buffer = ReplayBuffer(None, 2, segments_per_epoch=60, capacity_turns=12)
        first = 0
        for number in cuts:
            start, stop = sum(lengths[:first]), sum(lengths[: first + number])
            buffer.add_online(whole.select(range(start, stop)), 0)
            first += number
        buffer.begin_epoch(0)
        contents.append((everything(buffer), [buffer[i].rows[0]["row"] for i in range(60)]))
    assert all(content == contents[0] for content in contents)


def test_bytes_are_limited_too():
    one = played([4], "x")
    free = ReplayBuffer(None, 1, segments_per_epoch=4)
    free.add_online(one, 0)
    size = free.online_bytes
    assert size > 4 * 20  # some text each
    buffer = ReplayBuffer(None, 1, segments_per_epoch=50, capacity_bytes=3 * size)
    for i in range(10):
        buffer.add_online(played([4], "x"), i)
        assert buffer.online_bytes <= 3 * size
    assert buffer.num_online_episodes == 3
    with pytest.raises(ValueError, match=r"does not fit into capacity_bytes=\d+: allow more"):
        ReplayBuffer(None, 1, segments_per_epoch=50, capacity_bytes=size - 1).add_online(one, 0)


def test_an_evicted_row_is_called_so():
    buffer = ReplayBuffer(played([2]), 1, segments_per_epoch=5, capacity_turns=3)
    buffer.add_online(played([2], "a"), 0)
    buffer.add_online(played([3], "b"), 0)
    assert buffer.describe(1) == "row 1 (episode 'e0', turn 1)"
    assert buffer.describe(2) == "row 2 (evicted by now)"
    assert buffer.describe(6) == "row 6 (episode 'b0', turn 2)"


def test_an_empty_buffer_says_what_is_missing():
    with pytest.raises(ValueError, match="set segments_per_epoch"):
        ReplayBuffer(None)
    with pytest.raises(RuntimeError, match="needs an OnlineRolloutCallback with start_epoch=0"):
        ReplayBuffer(None, segments_per_epoch=3)[0]


# ---- Priorities ----


def test_segments_are_drawn_by_their_td_error_and_weighted_for_it():
    """P and w against the formulas of the docstring, computed here."""
    alpha, beta, errors = 0.7, 0.5, np.array([0.0, 1.0, 2.0, 5.0])
    buffer = ReplayBuffer(
        played([1] * 4), 1, segments_per_epoch=40_000, prioritization=Prioritization("td_error", alpha, beta)
    )
    buffer.begin_epoch(0)
    buffer.record_td_errors(np.arange(4), errors)
    flat = Counter(identity(buffer[i]) for i in range(40_000))
    assert max(flat.values()) - min(flat.values()) < 700  # not before the next epoch
    buffer.begin_epoch(1)
    p = (errors / errors.mean() + 0.1) ** alpha
    p /= p.sum()
    counts, weights = Counter(), {}
    for i in range(40_000):
        segment = buffer[i]
        number = int(segment.rows[0]["episode_id"][1:])
        counts[number] += 1
        weights[number] = segment.weight
    drawn = np.array([counts[i] for i in range(4)]) / 40_000
    assert np.all(np.abs(drawn - p) < 4 * np.sqrt(p * (1 - p) / 40_000))
    np.testing.assert_allclose([weights[i] for i in range(4)], (p.min() / p) ** beta, rtol=1e-12)


def test_what_was_never_trained_on_counts_as_the_worst():
    buffer = ReplayBuffer(played([1] * 3), 1, segments_per_epoch=9000, prioritization=Prioritization("td_error", 1.0))
    buffer.begin_epoch(0)
    buffer.record_td_errors(np.array([0, 1]), np.array([1.0, 4.0]))
    buffer.begin_epoch(1)
    counts = Counter(int(buffer[i].rows[0]["episode_id"][1:]) for i in range(9000))
    assert abs(counts[2] - counts[1]) < 300 and counts[0] < counts[1] / 2


def test_a_segment_is_as_bad_as_its_turns_on_average():
    buffer = ReplayBuffer(played([4]), 2, segments_per_epoch=10, prioritization=Prioritization("td_error"))
    buffer.begin_epoch(0)
    buffer.record_td_errors(np.array([0, 1, 2]), np.array([1.0, 3.0, 7.0]))
    np.testing.assert_array_equal(buffer.state_dict()["offline_news"], [2.0, 7.0])


def test_good_episodes_are_drawn_more_often_by_return():
    buffer = ReplayBuffer(
        played([1] * 4, returns=[-1.0, 0.0, 1.0, 1.0]), 1, segments_per_epoch=30_000,
        prioritization=Prioritization("return", 1.0, 1.0),
    )  # fmt: skip
    buffer.begin_epoch(0)
    p = np.array([0.0, 1.0, 2.0, 2.0]) / 1.25 + 0.1
    p /= p.sum()
    counts = Counter(int(buffer[i].rows[0]["episode_id"][1:]) for i in range(30_000))
    assert np.all(np.abs(np.array([counts[i] for i in range(4)]) / 30_000 - p) < 4 * np.sqrt(p * (1 - p) / 30_000))
    # with beta = 1 the weighted average over what is drawn is proportional to the plain average over all
    segments = [buffer[i] for i in range(30_000)]
    values = np.array([1.0, 10.0, 100.0, 1000.0])
    drawn = np.array([values[int(s.rows[0]["episode_id"][1:])] * s.weight for s in segments])
    weights = np.array([s.weight for s in segments])
    assert abs(drawn.sum() / weights.sum() / values.mean() - 1) < 0.05


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("midway", [True, False])
def test_priorities_survive_a_checkpoint(midway, rounds):
    """Taken in epoch 2, of whose three epochs the last `rounds` had episodes of the agent's own."""

    def make():
        return ReplayBuffer(
            played([2] * 6), 1, segments_per_epoch=300, seed=4, capacity_turns=10,
            prioritization=Prioritization("td_error"),
        )  # fmt: skip

    def errors(buffer, seed):
        rows = np.array(sorted({buffer[i].rows[0]["row"] for i in range(300)}))
        buffer.record_td_errors(rows, np.random.default_rng(seed).random(len(rows)))

    straight = make()
    for epoch in range(3):
        if epoch >= 3 - rounds:
            straight.add_online(played([4], f"on{epoch}-"), epoch)
        straight.begin_epoch(epoch)
        errors(straight, epoch)
    state = straight.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    last = 2 if midway else 3
    for epoch in range(3 - rounds, last + 1):
        resumed.add_online(played([4], f"on{epoch}-"), epoch)
    if not midway:
        straight.add_online(played([4], "on3-"), 3)
        straight.begin_epoch(3)
    resumed.begin_epoch(last)
    for buffer in (straight, resumed):
        errors(buffer, 7)
        buffer.begin_epoch(last + 1)
    assert everything(resumed) == everything(straight) and resumed.version == straight.version
    for name, values in straight.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], values)


def test_priorities_of_other_segments_are_refused_with_a_warning(caplog):
    buffer = ReplayBuffer(played([2] * 6), 1, prioritization=Prioritization("td_error"))
    other = ReplayBuffer(played([2] * 5), 1, prioritization=Prioritization("td_error"))
    other.load_state_dict(buffer.state_dict())
    other.begin_epoch(0)
    assert "they start anew" in caplog.text and len(everything(other)) == 10

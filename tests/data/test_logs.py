# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Who acts in logs, what is in them, and which of them are held out."""

import json
import math

import PIL.Image
import pytest

from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.logs import describe_logs, logs_table, parse_mixture, split_episodes


def episode(number: int, turns: int, behavior: str | None, success: bool | None) -> Episode:
    def turn(index: int) -> Turn:
        last = index == turns - 1
        prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Go."}]}]
        image = PIL.Image.new("RGB", (4, 4))
        return Turn(prompt, [image], "go", 0.0, last, False, success=success, behavior=behavior)

    return Episode(f"e{number}", [turn(index) for index in range(turns)])


@pytest.fixture
def logs():
    """Six episodes of 1, 2, ..., 6 turns."""
    who = [("good", True), ("bad", False), ("good", True), ("bad", True), ("good", False), ("bad", False)]
    return episodes_to_dataset(episode(i, i + 1, *actor) for i, actor in enumerate(who))


def test_a_mixture_is_names_with_weights():
    assert parse_mixture("expert:2, wrong_goal:0.5,random") == {"expert": 2, "wrong_goal": 0.5, "random": 1}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"), ("expert:", "'expert:'"), ("expert:2,,random", "''"), ("expert:two", "'expert:two'"),
        ("expert:-1", "'expert:-1'"), ("expert:nan", "'expert:nan'"), ("expert:inf", "'expert:inf'"),
        ("expert:1:2", "'expert:1:2'"), (":2", "':2'"), ("a:1,a:2", "'a' twice"), ("a:0,b:0", "nobody a weight"),
    ],
)  # fmt: skip
def test_a_mixture_that_cannot_be_read_names_the_part(text, named):
    with pytest.raises(ValueError) as error:
        parse_mixture(text)
    assert named in str(error.value)


def test_logs_are_counted_by_episode_not_by_turn(logs):
    assert describe_logs(logs) == {
        "all": {"episodes": 6, "turns": 21, "success": 0.5},
        "bad": {"episodes": 3, "turns": 12, "success": 1 / 3},
        "good": {"episodes": 3, "turns": 9, "success": 2 / 3},
    }
    assert "| good | 3 | 66.7% | 9 | 3.0 |" in logs_table(describe_logs(logs))


def test_logs_that_record_neither_success_nor_behavior_are_described(logs):
    silent = episodes_to_dataset([episode(0, 2, None, None), episode(1, 2, None, None)])
    report = describe_logs(silent)
    assert list(report) == ["all"] and math.isnan(report["all"]["success"])
    assert "| all | 2 | unknown | 4 | 2.0 |" in logs_table(report)
    json.dumps(describe_logs(logs))


@pytest.mark.parametrize(("share", "left"), [(0.05, 5), (0.5, 3), (0.99, 1)])
def test_whole_episodes_are_held_out_and_both_parts_have_some(logs, share, left):
    train, held_out = split_episodes(logs, share)
    assert sorted(set(train["episode_id"])) == [f"e{i}" for i in range(left)]
    assert sorted(set(held_out["episode_id"])) == [f"e{i}" for i in range(left, 6)]
    assert len(train) + len(held_out) == len(logs)


def test_what_cannot_be_split_is_refused(logs):
    with pytest.raises(ValueError, match="1 episode"):
        split_episodes(logs.select(range(1)))
    with pytest.raises(ValueError, match="share of 1"):
        split_episodes(logs, 1)

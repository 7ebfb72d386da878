# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Logs of other teams come in as what they say: turns, episodes with steps, conversations."""

import gzip
import json

import pytest

from trl_vlmq.importing import FieldMapping, import_logs


def text(turn) -> str:
    return "".join(part.get("text", "") for message in turn.prompt for part in message["content"])


def roles(turn) -> list[str]:
    return [message["role"] for message in turn.prompt]


def colors(turn) -> list[int]:
    return [picture.convert("L").getpixel((0, 0)) for picture in turn.images]


def line(episode, turn, **fields) -> dict:
    return {"episode_id": episode, "turn": turn, "prompt": f"{episode}{turn}", "completion": "ok", **fields}


# --- one turn a line -------------------------------------------------------------------------------------------------


def test_turns_with_rewards_come_in_as_they_are(log_folder):
    log_folder.image("red.png", 50)
    report = log_folder.run(
        line("a", 0, reward=-0.5, image="red.png"),
        line("a", 1, reward=2, image=["red.png", "red.png"], terminated=True, policy="bot", env_id="maze"),
        line("b", 0, reward=0.25, terminated=True),
    )
    assert (report.format, report.lines, report.all.episodes, report.all.turns) == ("turns", 3, 2, 3)
    episodes = log_folder.episodes()
    first, second = episodes["a"].turns
    assert [turn.reward for turn in (first, second)] == [-0.5, 2.0]
    assert [(turn.terminated, turn.truncated) for turn in (first, second)] == [(False, False), (True, False)]
    assert first.prompt == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a0"}]}]
    assert (colors(first), colors(second), episodes["b"].turns[0].images) == ([50], [50, 50], [])
    assert (episodes["a"].behavior, episodes["a"].env_id, episodes["b"].behavior) == ("bot", "maze", None)
    assert episodes["a"].success is None


def test_names_of_fields_come_from_the_mapping_however_deep(log_folder):
    log_folder.run(
        {"run": 7, "t": 1, "obs": {"text": "go"}, "choices": [{"said": "left"}], "meta": {"r": 3}, "a.b": "x"},
        fields={
            "episode_id": "run",
            "turn": "t",
            "prompt": "obs.text",
            "completion": "choices.0.said",
            "reward": "meta.r",
            "executed_action": "a.b",
        },
    )
    (turn,) = log_folder.episodes()["7"].turns
    assert (text(turn), turn.completion, turn.reward, turn.executed_action) == ("go", "left", 3.0, "x")


def test_a_common_name_with_another_meaning_can_be_passed_over(log_folder):
    log_folder.run({"id": "a", "step": 4711, "prompt": "go", "completion": "x", "reward": 1}, fields={"turn": None})
    assert log_folder.episodes()["a"].length == 1


def test_the_episodes_reward_goes_to_its_last_turn(log_folder):
    log_folder.run(line("a", 0), line("a", 1), line("a", 2, score=7.5))
    assert [turn.reward for turn in log_folder.episodes()["a"].turns] == [0.0, 0.0, 7.5]


def test_success_becomes_a_reward_where_there_is_none(log_folder):
    report = log_folder.run(
        line("a", 0, outcome=None), line("a", 1, outcome="Won"),
        line("b", 0, outcome="lost"),
        line("c", 0, outcome=True),
        line("d", 0, outcome="gave up"),
        success_reward=10, failure_reward=-2, outcomes={"failure": ["gave up"]},
    )  # fmt: skip
    episodes = log_folder.episodes()
    assert {name: [turn.reward for turn in each.turns] for name, each in episodes.items()} == {
        "a": [0.0, 10.0], "b": [-2.0], "c": [10.0], "d": [-2.0],
    }  # fmt: skip
    assert [episodes[name].success for name in "abcd"] == [True, False, True, False]
    assert report.all.success_rate == 0.5
    assert all(turn.success for turn in episodes["a"].turns)


def test_an_own_outcome_may_overrule_a_common_one(log_folder):
    log_folder.run(line("a", 0, outcome="pass"), outcomes={"failure": ["pass"]})
    assert log_folder.episodes()["a"].success is False


def test_rows_without_ids_end_where_a_flag_says_so(log_folder):
    rows = [{"prompt": [{"role": "user", "content": str(i)}], "completion": "x", "reward": i} for i in range(5)]
    flags = [False, True, False, False, True]
    log_folder.run(*({**row, "done": flag} for row, flag in zip(rows, flags, strict=True)))
    assert {name: [turn.reward for turn in each.turns] for name, each in log_folder.episodes().items()} == {
        "log-1": [0.0, 1.0],
        "log-3": [2.0, 3.0, 4.0],
    }


def test_trl_rows_without_ids_and_flags_are_episodes_of_one_turn(log_folder):
    completion = [{"role": "assistant", "content": [{"type": "text", "text": "yes"}]}]
    log_folder.run(*({"prompt": f"{i}?", "completion": completion, "reward": i} for i in range(3)))
    assert [
        (each.turns[0].completion, each.total_reward, each.terminated) for each in log_folder.episodes().values()
    ] == [("yes", float(i), True) for i in range(3)]


def test_a_turn_may_be_a_conversation_that_ends_with_the_answer(log_folder):
    messages = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
    log_folder.run({"episode_id": "a", "step": 0, "messages": messages, "reward": 1})
    (turn,) = log_folder.episodes()["a"].turns
    assert (text(turn), turn.completion) == ("1+1", "2")


def test_turns_may_count_from_one_and_an_empty_answer_is_an_answer(log_folder):
    log_folder.run(line("a", 1, reward=0), line("a", 2, reward=1) | {"completion": ""}, line("b", 1, reward=0))
    assert [turn.completion for turn in log_folder.episodes()["a"].turns] == ["ok", ""]


# --- one episode a line ----------------------------------------------------------------------------------------------


def test_episodes_with_steps_take_common_facts_from_the_line(log_folder):
    steps = [{"observation": "s0", "action": "left", "image": log_folder.image(color=9)}, {"action": "right"}]
    report = log_folder.run({"id": "a", "instruction": "walk", "steps": steps, "reward": 5, "success": True})
    assert report.format == "episodes"
    first, second = log_folder.episodes()["a"].turns
    assert [text(first), text(second)] == ["s0", "walk"]
    assert [first.completion, second.completion] == ["left", "right"]
    assert ([first.reward, second.reward], colors(first), colors(second)) == ([0.0, 5.0], [9], [])
    assert second.terminated and second.success


def test_steps_may_have_rewards_and_flags_of_their_own(log_folder):
    steps = [{"prompt": str(i), "completion": "x", "reward": i, "done": i == 2} for i in range(3)]
    log_folder.run({"steps": steps, "return": 99})
    (episode,) = log_folder.episodes().values()
    assert ([turn.reward for turn in episode.turns], episode.episode_id) == ([0.0, 1.0, 2.0], "log-1")


# --- conversations ---------------------------------------------------------------------------------------------------


def conversation() -> list[dict]:
    return [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "u0"}]},
        {"role": "assistant", "content": "a0"},
        {"role": "tool", "content": [{"type": "text", "text": "t1"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a1"}]},
        {"role": "user", "content": "u2"},
        {"role": "assistant", "content": "a2"},
    ]


@pytest.mark.parametrize(
    "history, texts, seen",
    [
        ("all", ["Su0", "Su0a0t1", "Su0a0t1a1u2"], [[10], [10, 20], [10, 20]]),
        (0, ["Su0", "St1", "Su2"], [[10], [20], []]),
        (1, ["Su0", "Su0a0t1", "St1a1u2"], [[10], [10, 20], [20]]),
    ],
)
def test_each_assistant_message_is_a_turn_with_as_much_history_as_asked(log_folder, history, texts, seen):
    images = [log_folder.image("0.png", 10), log_folder.image("1.png", 20)]
    report = log_folder.run({"id": "a", "messages": conversation(), "images": images, "score": 1}, history=history)
    assert report.format == "messages"
    turns = log_folder.episodes()["a"].turns
    assert [turn.completion for turn in turns] == ["a0", "a1", "a2"]
    assert ([text(turn) for turn in turns], [colors(turn) for turn in turns]) == (texts, seen)
    assert roles(turns[1])[-1] == "tool"
    assert [turn.reward for turn in turns] == [0.0, 0.0, 1.0]


def test_images_may_stand_in_the_messages_and_rewards_in_a_list(log_folder):
    messages = conversation()
    messages[1]["content"][0] = {"type": "image_url", "image_url": {"url": log_folder.image("0.png", 30)}}
    messages[3]["content"][1] = {"type": "image", "image": log_folder.image("1.png", 40)}
    log_folder.run({"messages": messages, "rewards": [1, 2, 3]})
    turns = log_folder.episodes()["log-1"].turns
    assert [colors(turn) for turn in turns] == [[30], [30, 40], [30, 40]]
    assert [turn.reward for turn in turns] == [1.0, 2.0, 3.0]


def test_the_reward_of_a_conversation_may_lie_deep_in_its_line(log_folder):
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "reward": 9}]
    log_folder.run({"messages": messages, "meta": {"r": 4}}, fields={"reward": "meta.r"})
    assert log_folder.episodes()["log-1"].total_reward == 4.0


def test_a_tool_call_is_written_out(log_folder):
    call = {"function": {"name": "click", "arguments": '{"x": 3, "name": "Größe"}'}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done"},
        {"role": "assistant", "content": "thinking", "tool_calls": [call]},
    ]
    log_folder.run({"messages": messages, "success": 1})
    written = '{"name": "click", "arguments": {"x": 3, "name": "Größe"}}'
    first, second = log_folder.episodes()["log-1"].turns
    assert [first.completion, second.completion] == [written, f"thinking\n{written}"]
    assert written in text(second)


def test_one_image_without_a_place_is_seen_first(log_folder):
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    log_folder.run({"messages": messages, "images": [log_folder.image(color=5)], "reward": 1})
    (turn,) = log_folder.episodes()["log-1"].turns
    assert turn.prompt[0]["content"] == [{"type": "image"}, {"type": "text", "text": "u"}]


# --- how episodes end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, ends",
    [
        ({}, (True, False)),
        ({"done": True}, (True, False)),
        ({"terminated": True}, (True, False)),
        ({"terminated": True, "truncated": True}, (True, True)),
        ({"terminated": True, "success": "timeout"}, (True, False)),
        ({"truncated": True}, (False, True)),
        ({"truncated": True, "done": True}, (False, True)),
        ({"terminated": False, "truncated": False}, (False, True)),
        ({"done": False}, (False, True)),
        ({"success": "timeout"}, (False, True)),
        ({"success": "timeout", "done": True}, (False, True)),
        ({"truncated": 0, "done": 1}, (True, False)),
    ],
)
def test_the_end_of_an_episode_is_what_the_log_says(log_folder, flags, ends):
    log_folder.run(line("a", 0, reward=1), line("a", 1, reward=2, final_prompt="next", **flags))
    episode = log_folder.episodes()["a"]
    assert (episode.terminated, episode.truncated) == ends
    assert episode.length == 2
    final = episode.turns[-1].final_prompt
    assert final == ([{"role": "user", "content": [{"type": "text", "text": "next"}]}] if ends[1] else None)


def test_a_cut_off_episode_without_final_observation_gives_its_last_turn_for_it(log_folder):
    shots = [log_folder.image(f"{i}.png", i) for i in range(3)]
    report = log_folder.run(
        *(line("a", i, reward=i, image=shots[i], truncated=i == 2) for i in range(3)),
        *(line("b", i, score=5, truncated=i == 2) for i in range(3)),
    )
    assert report.lost_last_actions == 2
    cut, scored = log_folder.episodes()["a"], log_folder.episodes()["b"]
    assert ([turn.reward for turn in cut.turns], cut.truncated, cut.terminated) == ([0.0, 1.0], True, False)
    assert cut.turns[-1].final_prompt[0]["content"][-1]["text"] == "a2"
    assert [picture.getpixel((0, 0)) for picture in cut.turns[-1].final_images] == [(2, 2, 2)]
    assert [turn.reward for turn in scored.turns] == [0.0, 5.0]


def test_a_cut_off_conversation_that_ends_with_an_answer_loses_it_with_its_reward(log_folder):
    messages = [{"role": role, "content": f"{role[0]}{i}"} for i in range(3) for role in ("user", "assistant")]
    report = log_folder.run({"messages": messages, "rewards": [1, 2, 4], "truncated": True})
    (episode,) = log_folder.episodes().values()
    assert [turn.reward for turn in episode.turns] == [1.0, 2.0]
    assert "".join(message["content"][0]["text"] for message in episode.turns[-1].final_prompt) == "u0a0u1a1u2"
    assert report.lost_last_actions == 1


def test_what_follows_the_last_answer_is_the_final_observation_of_a_cut_off_conversation(log_folder):
    messages = [*conversation(), {"role": "user", "content": "u3"}]
    for part in (messages[1]["content"][0], messages[3]["content"][1]):
        part["image"] = log_folder.image()
    record = {"messages": messages, "reward": 0}
    report = log_folder.run({**record, "truncated": True}, record, history=0)
    cut, finished = log_folder.episodes().values()
    assert cut.turns[-1].final_prompt == [
        {"role": "system", "content": [{"type": "text", "text": "S"}]},
        {"role": "user", "content": [{"type": "text", "text": "u3"}]},
    ]
    assert (cut.length, finished.length, report.lost_last_actions) == (3, 3, 0)
    assert finished.terminated and finished.turns[-1].final_prompt is None


# --- files -----------------------------------------------------------------------------------------------------------


def test_compressed_and_several_files_are_read_and_their_ids_kept_apart(log_folder):
    one = log_folder.write(line(1, 0, reward=1), name="w0/log.jsonl")
    two = log_folder.write(line(1, 0, reward=2), name="w1/log.jsonl")
    packed = two.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(two.read_bytes()))
    report = import_logs([one, packed], log_folder.folder / "episodes.parquet", mapping=FieldMapping())
    assert {name: each.total_reward for name, each in log_folder.episodes().items()} == {
        "w0/log.jsonl:1": 1.0,
        "w1/log.jsonl.gz:1": 2.0,
    }
    assert report.lines == 2
    two.write_text("{")
    report = import_logs([one, two], log_folder.folder / "episodes.parquet", overwrite=True)
    assert next(iter(report.dropped.values())).examples[0].startswith("w1/log.jsonl:1: ")


def test_blank_lines_and_a_byte_order_mark_do_not_matter(log_folder):
    path = log_folder.folder / "log.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(line("ä", 0, reward=1)).encode() + b"\r\n\r\n")
    report = import_logs(path, log_folder.folder / "episodes.parquet")
    assert (report.lines, list(log_folder.episodes())) == (1, ["ä"])

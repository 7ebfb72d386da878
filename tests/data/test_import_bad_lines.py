# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A bad line costs its episode, never the run, and its author is told which line, which field and what to do."""

import json
import re

import pytest

from trl_vlmq.importing import FieldMapping, import_logs


GOOD = {"episode_id": "good", "turn": 0, "prompt": "p", "completion": "c", "reward": 1}


def line(turn, **fields) -> dict:
    return {"episode_id": "bad", "turn": turn, "prompt": "p", "completion": "c", "reward": 1, **fields}


def without(*names: str, **fields) -> dict:
    return {name: value for name, value in line(0, **fields).items() if name not in names}


CHAT = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
TWO = [*CHAT, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]

# The lines of an episode, the line that is to blame, the field, words of the message, words of the cure.
TURNS = {
    "no completion": ([without("completion")], 2, "completion", "is missing (the fields are episode_id", "fields: {completion"),
    "null completion": ([line(0, completion=None)], 2, "completion", "is null", '""'),
    "completion of a user": (
        [line(0, completion=[{"role": "user", "content": "x"}])], 2, "completion", "not exactly one assistant", "agent's text",
    ),
    "number as completion": ([line(0, completion=3)], 2, "completion", "neither a text nor a list", "write a text"),
    "empty prompt": ([line(0, prompt=[{"role": "assistant", "content": None}])], 2, "prompt", "is empty", "was told"),
    "no prompt": ([without("prompt")], 2, "prompt", "is missing", "fields: {prompt"),
    "unknown role": ([line(0, prompt=[{"role": "human", "content": "x"}])], 2, "prompt", "'human'", "'assistant'"),
    "video in the prompt": (
        [line(0, prompt=[{"role": "user", "content": [{"type": "video"}]}])], 2, "prompt", "type 'video'", '"type": "image"',
    ),
    "half a character": (['{"episode_id": "bad", "turn": 0, "prompt": "\\ud83d", "completion": "c", "reward": 1}'], 2,
                         "prompt", "half a character", "UTF-8"),
    "nan reward": ([line(0, reward=float("nan"))], 2, "reward", "not a finite number", "environment"),
    "nan reward of an action that is lost": (
        [line(0), line(1), line(2, reward=float("nan"), truncated=True)], 4, "reward", "not a finite number", "environment",
    ),
    "huge reward": ([line(0), line(1, reward=1e39)], 3, "reward", "1e+39", "environment"),
    "reward of 400 digits": ([line(0, reward=10**400)], 2, "reward", "not a finite number", "environment"),
    "text as reward": ([line(0, reward="0.5")], 2, "reward", "not a number ('0.5')", "write a number"),
    "true as reward": ([line(0, reward=True)], 2, "reward", "not a number", "success"),
    "reward missing in one turn": ([line(0), without("reward") | {"turn": 1}], 3, "reward", "missing in a turn", "write 0"),
    "no reward at all": ([without("reward")], 2, "reward", "nothing says how", "map one of"),
    "gap": ([line(0), line(2)], 3, "turn", "2 instead of 1", "never met"),
    "repeated turn": ([line(0), line(0)], 3, "turn", "0 instead of 1", "number turns"),
    "out of order": ([line(1), line(0)], 2, "turn", "1 instead of 0", "number turns"),
    "turn is text": ([line("0")], 2, "turn", "'0'", "number turns"),
    "turn without number": ([line(0), line(None)], 3, "turn", "None", "number turns"),
    "end before the last turn": ([line(0, done=True), line(1)], 2, "done", "before its last turn", "own"),
    "flag is text": ([line(0, truncated="no")], 2, "truncated", "'no'", "true or false"),
    "unknown outcome": ([line(0, outcome="draw")], 2, "success", "'draw' is unknown", "outcomes"),
    "cut off after the only turn": ([line(0, truncated=True)], 2, "final_prompt", "only turn", "last action"),
    "missing image": ([line(0, image="none.png")], 2, "images", "'none.png' in the folder", "--images"),
    "folder as image": ([line(0, image=".")], 2, "images", "cannot be read", "--images"),
    "image that is a text": ([line(0), line(1, image="log.jsonl")], 3, "images", "does not decode", "PNG"),
    "cut image": ([line(0, image="cut.png")], 2, "images", "does not decode", "complete PNG"),
    "broken base64": ([line(0, image="data:image/png;base64,%%%")], 2, "images", "not base64", "base64"),
    "number as image": ([line(0, image=7)], 2, "images", "not an image", "path"),
    "image on the network": ([line(0, image="https://a.b/c.png")], 2, "images", "on the network", "download"),
    "more images than places": (
        [line(0, image=["a.png", "a.png"], prompt=[{"role": "user", "content": [{"type": "image"}]}])],
        2, "images", "2 image(s), 1 image part(s)", "for each image",
    ),
    "place without image": (
        [line(0, prompt=[{"role": "user", "content": [{"type": "image"}]}])], 2, "images", "0 image(s), 1", "for each image",
    ),
    "null id": ([line(0) | {"episode_id": None}], 2, "episode_id", "not an id", "whole number"),
    "lost id": ([without("episode_id")], 2, "episode_id", "is missing", "episode_id"),
    "not json": (['{"episode_id": "bad", "turn": 0'], 2, "(line)", "is not JSON", "one complete JSON object"),
    "not utf-8": (["\udcff\udcfe"], 2, "(line)", "is not JSON", "one complete JSON object"),
    "a list": (["[1, 2]"], 2, "(line)", "not a JSON object (a list)", "one JSON object"),
    "deep nesting": (["[" * 200_000], 2, "(line)", "is not JSON", "one complete"),
}  # fmt: skip

RECORDS = {
    "empty steps": ({"steps": []}, "steps", "is empty", "leave it out"),
    "steps of numbers": ({"steps": [1]}, "steps", "not a list of turns", "JSON object"),
    "id twice": ({"id": "good", "steps": [{"prompt": "p", "completion": "c"}]}, "episode_id", "log.jsonl:1", "own"),
    "rewards too few": (
        {"steps": [{"prompt": "p", "completion": "c"}] * 2, "rewards": [1]}, "episode_reward", "1 rewards, 2", "each turn",
    ),
    "gap in steps": (
        {"steps": [{"turn": i, "prompt": "p", "completion": "c"} for i in (0, 2)], "reward": 1}, "turn", "2 instead", "never met",
    ),
}  # fmt: skip

CHATS = {
    "no answer": ({"messages": CHAT[:1]}, "messages", "no assistant message", "leave it out"),
    "answer first": ({"messages": CHAT[1:]}, "messages", "answers nothing", "before each"),
    "two answers": ({"messages": [*CHAT, CHAT[1]]}, "messages", "answers nothing", "join"),
    "text for messages": ({"messages": "hi"}, "messages", "not a list", "one list"),
    "no messages": ({"messages": None}, "messages", "not a list", "one list"),
    "image of the agent": (
        {"messages": [CHAT[0], {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}]},
        "messages", "image in an assistant message", "leave the image out",
    ),
    "images without places": ({"messages": TWO, "images": ["a.png", "a.png"]}, "images", "2 image(s), 0", "where it was seen"),
    "two tool calls": (
        {"messages": [CHAT[0], {"role": "assistant", "content": "", "tool_calls": [{}, {}]}]}, "messages", "2 calls", "content",
    ),
    "arguments that are no JSON": (
        {"messages": [CHAT[0], {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "messages", "tool calls", "content",
    ),
    "empty observation": ({"messages": [{"role": "user"}, CHAT[1]]}, "messages", "without content", "write a text"),
}  # fmt: skip


def told(report, where: str, field: str, what: str, cure: str) -> None:
    assert report.episodes_dropped == 1
    ((_, dropped),) = report.dropped.items()
    (message,) = dropped.examples
    assert message.startswith(f"{where}: field {field!r}: ")
    before, after = message.split(". Cure: ")
    assert what in before
    assert cure in after
    assert "\n" not in message


@pytest.mark.parametrize("case", TURNS)
def test_a_bad_turn_costs_its_episode_only(log_folder, case):
    lines, number, *expected = TURNS[case]
    whole = (log_folder.folder / log_folder.image()).read_bytes()
    (log_folder.folder / "cut.png").write_bytes(whole[:-20])
    log = log_folder.write(GOOD, *[x if isinstance(x, str) else json.dumps(x) for x in lines if x != "\udcff\udcfe"])
    if "\udcff\udcfe" in lines:
        log.write_bytes(log.read_bytes() + b"\xff\xfe\n")
    with open(log, "a") as file:
        file.write(json.dumps(GOOD | {"episode_id": "later"}) + "\n")
    if case in ("null id", "lost id", "not json", "not utf-8", "a list", "deep nesting"):
        # Such a line may be the last of the episode before; there, it had ended.
        log.write_text(log.read_text(errors="surrogateescape").replace('"reward": 1}', '"reward": 1, "done": true}', 1),
                       errors="surrogateescape")  # fmt: skip
    report = import_logs(log, log_folder.folder / "episodes.parquet")
    assert list(log_folder.episodes()) == ["good", "later"]
    told(report, f"log.jsonl:{number}", *expected)


@pytest.mark.parametrize("case", RECORDS)
def test_a_bad_episode_line_costs_that_episode(log_folder, case):
    record, *expected = RECORDS[case]
    good = {"id": "good", "steps": [{"prompt": "p", "completion": "c", "reward": 1}]}
    report = log_folder.run(good, record, good | {"id": "later"})
    assert list(log_folder.episodes()) == ["good", "later"]
    told(report, "log.jsonl:2", *expected)


@pytest.mark.parametrize("case", CHATS)
def test_a_bad_conversation_costs_that_conversation(log_folder, case):
    log_folder.image()
    record, *expected = CHATS[case]
    good = {"messages": CHAT, "reward": 1}
    report = log_folder.run(good, record | {"reward": 1}, good)
    assert list(log_folder.episodes()) == ["log-1", "log-3"]
    told(report, "log.jsonl:2", *expected)


def test_a_field_that_the_mapping_names_and_the_line_lacks_is_an_error(log_folder):
    report = log_folder.run(
        GOOD | {"meta": {"r": 1}}, line(0, meta={"return": 1}, image=None), fields={"reward": "meta.r", "images": None}
    )
    told(
        report, "log.jsonl:2", "meta.r", "is missing (the fields are episode_id, turn, prompt, completion, reward, meta.return",
        "correct `fields.reward` in the mapping",
    )  # fmt: skip


def test_an_episode_field_of_the_mapping_must_be_in_one_line_at_least(log_folder):
    report = log_folder.run(GOOD | {"won": 1}, line(0), line(1), fields={"success": "won"})
    told(report, "log.jsonl:2", "won", "is in no line of the episode", "fields.success")


def test_an_episode_that_comes_again_is_dropped_with_both_places(log_folder):
    report = log_folder.run(line(0), line(1), GOOD, line(2), GOOD | {"episode_id": "later"}, line(3))
    assert list(log_folder.episodes()) == ["good", "later"]
    told(report, "log.jsonl:1", "episode_id", "ends in log.jsonl:2 and comes again in log.jsonl:4", "sort the log")


def test_an_unreadable_line_may_have_belonged_to_either_neighbour(log_folder):
    def turns(name: str, **fields):
        return [{**GOOD, "episode_id": name, **fields} for _ in range(2)]

    unnumbered = {"turn": None}
    report = log_folder.run(
        *turns("a", **unnumbered), *turns("b", **unnumbered), "{", *turns("c", **unnumbered), *turns("d", **unnumbered)
    )
    assert list(log_folder.episodes()) == ["a", "d"]
    assert [dropped.count for dropped in report.dropped.values()] == [1, 1]
    assert all("log.jsonl:5" in dropped.examples[0] for dropped in report.dropped.values())


def test_a_log_that_was_cut_while_it_was_written_loses_its_last_episode(log_folder):
    report = log_folder.run(GOOD, line(0), line(1), json.dumps(line(2))[:40])
    assert list(log_folder.episodes()) == ["good"]
    told(report, "log.jsonl:4", "(line)", "is not JSON", "one complete JSON object")


def test_half_a_character_in_an_id_or_a_name_is_reported_like_any_problem(log_folder):
    steps = '"steps": [{"prompt": "p", "completion": "c", "reward": 1}]'
    report = log_folder.run(f'{{"id": "a", {steps}}}', f'{{"id": "\\ud83d", {steps}}}', '{"id": "b", "\\ud83d": 1}')
    assert list(log_folder.episodes()) == ["a"]
    assert report.dropped["episode_id: has a text with half a character"].count == 1
    assert "the fields are id, \\ud83d" in report.dropped["steps: is missing"].examples[0]


def test_strict_stops_at_the_first_problem_and_writes_nothing(log_folder):
    with pytest.raises(ValueError, match=re.escape("log.jsonl:2: field 'reward': is not a number ('x'). Cure: ")):
        log_folder.run(GOOD, line(0, reward="x"), strict=True)
    assert [path.name for path in log_folder.folder.iterdir()] == ["log.jsonl"]


def test_when_nothing_can_be_kept_there_is_an_error_and_no_file(log_folder):
    with pytest.raises(ValueError, match=r"No episode could be used, 2 dropped: 2 x log.jsonl:1: field 'reward'"):
        log_folder.run(without("reward"), without("reward") | {"episode_id": "b"})
    with pytest.raises(ValueError, match=r"There are no lines in .*log.jsonl"):
        log_folder.run("")
    assert [path.name for path in log_folder.folder.iterdir()] == ["log.jsonl"]


def test_an_output_that_is_there_is_kept_unless_asked(log_folder):
    log_folder.run(GOOD)
    before = (log_folder.folder / "episodes.parquet").read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        log_folder.run(GOOD | {"prompt": "other"}, overwrite=False)
    with pytest.raises(ValueError, match="No episode"):
        log_folder.run(without("reward"))
    assert (log_folder.folder / "episodes.parquet").read_bytes() == before
    log_folder.run(GOOD | {"prompt": "other"})
    assert (log_folder.folder / "episodes.parquet").read_bytes() != before


def test_files_that_are_not_there_are_named(log_folder):
    output = log_folder.folder / "episodes.parquet"
    with pytest.raises(FileNotFoundError, match="no log file '.*none.jsonl'"):
        import_logs(log_folder.folder / "none.jsonl", output)
    with pytest.raises(FileNotFoundError, match="no image folder 'shots'"):
        import_logs(log_folder.write(GOOD), output, image_root="shots")
    with pytest.raises(FileNotFoundError, match="no mapping file 'none.yaml'"):
        FieldMapping.from_yaml("none.yaml")
    with pytest.raises(ValueError, match="given twice"):
        import_logs([log_folder.write(GOOD)] * 2, output)


def test_problems_are_counted_by_kind_and_only_the_first_are_shown(log_folder):
    bad = [without("reward") | {"episode_id": str(i)} for i in range(8)]
    wrong = [line(0, outcome=f"value {i}") | {"episode_id": f"o{i}"} for i in range(60)]
    report = log_folder.run(GOOD, *bad, *wrong)
    assert report.episodes_dropped == 68
    first = report.dropped["reward: nothing says how the episode went"]
    assert (first.count, len(first.examples)) == (8, 5)
    assert first.examples[0].startswith("log.jsonl:2:")
    assert len(report.dropped) == 51
    assert report.dropped["other reasons"].count == 11
    assert "and 3 more" in report.to_text()


@pytest.mark.parametrize(
    "text, message",
    [
        ("fields: {reward: [a]}", r"fields.reward: \['a'\] is not the name of a field"),
        ("fields: {rewards: a}", r"fields: \['rewards'\] is unknown; the known names are \['episode_id'"),
        ("field: {reward: a}", r"unknown keys \['field'\]; a mapping file has the keys \['format'"),
        ("format: csv", r"format: 'csv' is none of \['turns', 'episodes', 'messages'\]"),
        ("history: -1", "history: -1 is neither 'all' nor"),
        ("success_reward: high", "success_reward: 'high' is not a finite number"),
        ("outcomes: {success: won}", "outcomes.success: 'won' is not a list"),
        ("outcomes: {success: [a], failure: [A]}", "'A' is listed under success and under failure"),
        ("- a", "unknown list at the top"),
        ("a: [", "is not YAML: "),
    ],
)
def test_mistakes_in_a_mapping_file_are_named(tmp_path, text, message):
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
        FieldMapping.from_yaml(path)

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Each mistake in a dataset is found before training, with the row, the column and what to do about it."""

import re
from io import BytesIO

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, DatasetDict, Features, Value

from trl_vlmq.columns import FEATURES, REQUIRED_COLUMNS
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.validation import EpisodeValidationError, validate_episodes


def png(value: int, form: str = "PNG") -> bytes:
    buffer = BytesIO()
    PIL.Image.fromarray(np.full((16, 16, 3), value, dtype=np.uint8)).save(buffer, format=form)
    return buffer.getvalue()


def prompt(images: int = 1) -> list[dict]:
    parts = [{"type": "image", "text": None}] * images + [{"type": "text", "text": "What do you do?"}]
    return [{"role": "user", "content": parts}]


def rows() -> list[dict]:
    """Two episodes of three turns: rows 0 to 2 terminated, rows 3 to 5 truncated."""
    made = []
    for index in range(6):
        made.append(
            {name: None for name in FEATURES}
            | {
                "episode_id": "ab"[index // 3],
                "turn": index % 3,
                "images": [{"bytes": png(index), "path": None}],
                "prompt": prompt(),
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": "go"}]}],
                "reward": 0.0,
                "terminated": index == 2,
                "truncated": index == 5,
            }
        )
    made[5] |= {"final_prompt": prompt(), "final_images": [{"bytes": png(9), "path": None}]}
    return made


def dataset(changed: list[dict]) -> Dataset:
    return Dataset.from_list(changed, features=FEATURES)


def message(*changes: tuple[int, str, object]) -> str:
    """What the validator says about the rows with these (row, column, value) changes."""
    changed = rows()
    for row, name, value in changes:
        changed[row][name] = value
    with pytest.raises(EpisodeValidationError) as error:
        validate_episodes(dataset(changed))
    return str(error.value)


def assistant(*texts: str) -> list[dict]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]} for text in texts]


def test_good_episodes_pass():
    validate_episodes(dataset(rows()))


MISTAKES = {
    **{f"{name} is null": ([(4, name, None)], 4, name, "is null", "fill it in") for name in REQUIRED_COLUMNS},
    "NaN reward": ([(1, "reward", float("nan"))], 1, "reward", "not a finite number", "environment's reward"),
    "infinite reward": ([(1, "reward", float("-inf"))], 1, "reward", "not a finite number", "environment's reward"),
    "a gap in the turns": ([(1, "turn", 2), (2, "turn", 3)], 1, "turn", "a gap or a repetition", "dataset.sort"),
    "a turn twice": ([(2, "turn", 1)], 2, "turn", "a gap or a repetition", "leave out the whole episode"),
    "turns from 1": ([(3 + i, "turn", 1 + i) for i in range(3)], 3, "turn", "is not 0 in the first row", "from 0"),
    "episodes interleaved": (
        [(1, "episode_id", "b"), (3, "episode_id", "a")],
        2,
        "episode_id",
        "continues an episode after rows of another one",
        '`dataset.sort(["episode_id", "turn"])`',
    ),
    "an episode without an end": (
        [(2, "terminated", False)],
        2,
        "terminated",
        "neither terminated nor truncated",
        "set terminated if the task ended there; else set truncated",
    ),
    "terminated too early": ([(0, "terminated", True)], 0, "terminated", "before the last row", "last row only"),
    "truncated too early": (
        [(3, "truncated", True), (3, "final_prompt", prompt(0))],
        3,
        "truncated",
        "before the last row",
        "an episode_id of their own",
    ),
    "truncated without what came next": (
        [(5, "final_prompt", None), (5, "final_images", None)],
        5,
        "final_prompt",
        "no state to bootstrap from",
        "store the observation after the last action",
    ),
    "final prompt without its images": (
        [(5, "final_images", None)],
        5,
        "final_images",
        "holds 0 image(s) but final_prompt has 1 image placeholder(s)",
        "for each image",
    ),
    "final prompt of a terminated episode": (
        [(2, "final_prompt", prompt(0))],
        2,
        "final_prompt",
        "although the row is not truncated",
        "set it to null",
    ),
    "final images of a terminated episode": (
        [(2, "final_images", [{"bytes": png(1), "path": None}])],
        2,
        "final_images",
        "although the row is not truncated",
        "set it to null",
    ),
    "no messages": ([(0, "prompt", []), (0, "images", [])], 0, "prompt", "is empty", "a message with content"),
    "no content": (
        [(0, "prompt", [{"role": "user", "content": []}]), (0, "images", [])],
        0,
        "prompt",
        "is empty",
        "a message with content",
    ),
    "an unknown role": (
        [(0, "prompt", [{"role": "human", "content": prompt()[0]["content"]}])],
        0,
        "prompt",
        "role is none of",
        "rename the role",
    ),
    "a video": (
        [(0, "prompt", [{"role": "user", "content": [{"type": "video"}, *prompt()[0]["content"]]}])],
        0,
        "prompt",
        "neither of type 'text' nor 'image'",
        '{"type": "image"}',
    ),
    "a text part without text": (
        [(0, "prompt", [{"role": "user", "content": [{"type": "image"}, {"type": "text"}]}])],
        0,
        "prompt",
        "has a text part without text",
        "drop the part",
    ),
    "more placeholders than images": (
        [(4, "prompt", prompt(3))],
        4,
        "images",
        "holds 1 image(s) but prompt has 3 image placeholder(s)",
        'put one `{"type": "image"}` into prompt',
    ),
    "two completions": (
        [(1, "completion", assistant("a", "b"))],
        1,
        "completion",
        "not exactly one assistant message",
        '"role": "assistant"',
    ),
    "no completion": ([(1, "completion", [])], 1, "completion", "not exactly one assistant message", "may be empty"),
    "a completion by the user": (
        [(1, "completion", [{"role": "user", "content": [{"type": "text", "text": "a"}]}])],
        1,
        "completion",
        "not exactly one assistant message",
        '"role": "assistant"',
    ),
    "an image as completion": (
        [(1, "completion", [{"role": "assistant", "content": [{"type": "image"}]}])],
        1,
        "completion",
        "has a content part that is not text",
        '"type": "text"',
    ),
    "no completion tokens": ([(1, "completion_ids", [])], 1, "completion_ids", "is an empty list", "set it to null"),
    "an image without data": (
        [(4, "images", [{"bytes": None, "path": None}])],
        4,
        "images",
        "neither bytes nor path",
        "store the image itself",
    ),
    "a file that is not there": (
        [(4, "images", [{"bytes": None, "path": "no/such/file.png"}])],
        4,
        "images",
        "an image file that does not exist",
        "correct the path",
    ),
    "raw pixels as bytes": (
        [(4, "images", [{"bytes": bytes(768), "path": None}])],
        4,
        "images",
        "cannot be opened",
        "PIL.Image.fromarray",
    ),
    "half a PNG": (
        [(5, "final_images", [{"bytes": png(9)[:-20], "path": None}])],
        5,
        "final_images",
        "cannot be opened",
        "complete PNG or JPEG bytes",
    ),
    "half a JPEG": (
        [(4, "images", [{"bytes": png(9, "JPEG")[:-200], "path": None}])],
        4,
        "images",
        "cannot be opened",
        "complete PNG or JPEG bytes",
    ),
}


@pytest.mark.parametrize(("changes", "row", "name", "what", "cure"), MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.parametrize("batch", [2, 1000])
def test_a_planted_mistake_is_named_with_row_column_and_cure(changes, row, name, what, cure, batch, monkeypatch):
    monkeypatch.setattr("trl_vlmq.validation._ROWS_PER_BATCH", batch)
    lines = message(*changes).splitlines()
    pattern = rf"row {row}\b.*column '{name}': .*{re.escape(what)}.* Cure: .*{re.escape(cure)}"
    assert any(re.search(pattern, line) for line in lines), "\n".join(lines)


@pytest.mark.parametrize("name", ["reward", "terminated", "prompt", "completion"])
def test_a_missing_column_is_named(name):
    with pytest.raises(EpisodeValidationError, match=rf"column '{name}': is missing among .* Cure: .*add_column"):
        validate_episodes(dataset(rows()).remove_columns(name))


def test_all_missing_columns_are_named_at_once():
    bare = dataset(rows()).select_columns(["prompt", "completion", "images"])
    with pytest.raises(EpisodeValidationError, match=r"(?s)column 'reward'.*column 'terminated'"):
        validate_episodes(bare)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("terminated", [0, 0, 1, 0, 0, 0]),
        ("truncated", ["no"] * 6),
        ("reward", ["0"] * 6),
        ("turn", [0.0, 1.0, 2.0] * 2),
        ("success", [1] * 6),
        ("prompt", ["What do you do?"] * 6),
        ("images", ["picture.png"] * 6),
        ("images", [[0.5]] * 6),
        ("completion_ids", [["1"]] * 6),
    ],
)
def test_a_column_of_another_kind_is_named_with_both_types(name, values):
    wrong = dataset(rows()).remove_columns(name).add_column(name, values)
    with pytest.raises(EpisodeValidationError) as error:
        validate_episodes(wrong)
    assert f"column '{name}': has the type {wrong.features[name]} instead of {FEATURES[name]}" in str(error.value)
    assert "Cure: " in str(error.value)


@pytest.mark.parametrize("images", ["picture.png", None])
def test_an_image_column_that_holds_no_lists_is_named_also_beside_plain_messages(images):
    row = {"completion": [{"role": "assistant", "content": "go"}], "reward": 0.0, "terminated": True, "images": images}
    plain = Dataset.from_list([{"prompt": [{"role": "user", "content": "What do you do?"}], **row}])
    with pytest.raises(EpisodeValidationError, match="column 'images'"):
        validate_episodes(plain)


def test_an_empty_dataset_is_refused():
    with pytest.raises(EpisodeValidationError, match="the dataset has no rows. Cure: collect or import"):
        validate_episodes(episodes_to_dataset([]))


def test_something_that_is_no_dataset_is_refused():
    with pytest.raises(TypeError, match="got DatasetDict. Cure: pass one split"):
        validate_episodes(DatasetDict(train=dataset(rows())))


def test_several_mistakes_are_shown_at_once_with_counts():
    text = message(*[(i, "reward", None) for i in range(6)], (1, "images", []), (4, "completion", []))
    assert text.splitlines()[0] == "The episode dataset has 3 kind(s) of problem:"
    assert "row 0, row 1, row 2 and 3 more, column 'reward': is null" in text
    assert "row 1, column 'images'" in text
    assert "row 4, column 'completion'" in text


def test_no_more_than_ten_kinds_of_mistakes_are_shown():
    many = [row | {"episode_id": str(i // 3), "prompt": prompt(2 + i)} for i, row in enumerate(rows() * 3)]
    with pytest.raises(EpisodeValidationError) as error:
        validate_episodes(dataset(many))
    assert len(str(error.value).splitlines()) == 12
    assert str(error.value).endswith("- and 8 more kind(s), shown once these are cured.")


@pytest.mark.parametrize(
    "changes",
    [
        [(1, "completion", assistant(""))],
        [(1, "completion", assistant("点击 “确定” 😀"))],
        [(0, "prompt", [{"role": "system", "content": [{"type": "text", "text": ""}]}, *prompt()])],
        [(0, "images", []), (0, "prompt", prompt(0))],
        [(4, "images", [{"bytes": png(3, "JPEG"), "path": "name.jpg"}])],
        [(2, "truncated", True)],
        [(5, "terminated", True)],
        [(5, "final_images", None), (5, "final_prompt", prompt(0))],
        [(i, "reward", -1e30) for i in range(6)],
    ],
    ids=[
        "an empty completion",
        "unicode",
        "an empty system text",
        "no image",
        "a JPEG with a name",
        "both ends without final observation",
        "both ends with final observation",
        "a final prompt without images",
        "large rewards",
    ],
)
def test_what_is_unusual_but_right_passes(changes):
    changed = rows()
    for row, name, value in changes:
        changed[row][name] = value
    validate_episodes(dataset(changed))


def test_rows_are_those_of_the_dataset_at_hand_not_of_its_source():
    changed = rows()
    changed[4]["reward"] = None
    with pytest.raises(EpisodeValidationError, match="row 1, column 'reward'"):
        validate_episodes(dataset(changed).select([3, 4, 5]))


def test_shuffled_turns_are_cured_by_the_sort_that_is_recommended():
    shuffled = dataset(rows()).shuffle(seed=1)
    with pytest.raises(EpisodeValidationError, match="dataset.sort"):
        validate_episodes(shuffled)
    validate_episodes(shuffled.sort(["episode_id", "turn"]))


def test_casting_as_recommended_cures_integer_flags():
    integers = dataset(rows()).cast(Features({**FEATURES, "terminated": Value("int64")}))
    with pytest.raises(EpisodeValidationError, match="cast_column"):
        validate_episodes(integers)
    validate_episodes(integers.cast_column("terminated", FEATURES["terminated"]))


def test_a_hundred_thousand_rows_are_checked_to_the_last():
    pictures = [PIL.Image.fromarray(np.full((16, 16, 3), value, dtype=np.uint8)) for value in range(50)]
    typed = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What do you do?"}]}]
    episodes = (
        Episode(
            str(i),
            [Turn(typed, [pictures[(i + j) % 50]], "go", float(j), j == 9 and i < 9_999, False) for j in range(10)],
        )
        for i in range(10_000)
    )
    with pytest.raises(
        EpisodeValidationError, match="row 99999, column 'terminated'.*neither terminated nor truncated"
    ):
        validate_episodes(episodes_to_dataset(episodes))

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Finds what is wrong with an episode dataset before a training run does, and says how to cure it."""

import hashlib
import os
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from trl_vlmq.columns import FEATURES, REQUIRED_COLUMNS, column, prepare_episodes


_ROWS_PER_BATCH = 2_000
_PROBLEMS_SHOWN = 10
_ROWS_SHOWN = 3
_ROLES = ["system", "user", "assistant", "tool"]
_LEAVE_OUT = "or leave out the whole episode (a gap inside it would join states that never met)"


class EpisodeValidationError(ValueError):
    """An episode dataset has problems; the message names rows, columns and cures."""


class _Problems:
    """Problems by kind, each with the rows that have it (none, if it is the column's as a whole)."""

    def __init__(self):
        self.rows: dict[tuple[str, str, str], list[int]] = {}

    def add(self, column: str, what: str, cure: str) -> None:
        self.rows[column, what, cure] = []

    def add_rows(self, rows: np.ndarray, column: str, what: str, cure: str) -> None:
        if len(rows):
            self.rows.setdefault((column, what, cure), []).extend(rows.tolist())

    def raise_if_any(self) -> None:
        if not self.rows:
            return
        lines = [f"The episode dataset has {len(self.rows)} kind(s) of problem:"]
        for (name, what, cure), rows in list(self.rows.items())[:_PROBLEMS_SHOWN]:
            where = f"column {name!r}"
            if rows:
                shown = ", ".join(f"row {row}" for row in rows[:_ROWS_SHOWN])
                more = f" and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
                where = f"{shown}{more}, {where}"
            lines.append(f"- {where}: {what}. Cure: {cure}.")
        if len(self.rows) > _PROBLEMS_SHOWN:
            lines.append(f"- and {len(self.rows) - _PROBLEMS_SHOWN} more kind(s), shown once these are cured.")
        raise EpisodeValidationError("\n".join(lines))


def validate_episodes(dataset: Dataset) -> None:
    """
    Check that a dataset can be trained on with temporal differences.

    Args:
        dataset ([`~datasets.Dataset`]):
            Episodes in the columns of [`~columns.FEATURES`], or anything [`~columns.prepare_episodes`] brings there.

    Raises:
        TypeError: If it is not a `datasets.Dataset`.
        EpisodeValidationError: Shows up to ten kinds of problem, each with its rows, its column and a cure.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"Expected a datasets.Dataset, got {type(dataset).__name__}. Cure: pass one split of a DatasetDict, "
            "or read a file with `load_episodes`."
        )
    dataset = prepare_episodes(dataset)
    problems = _Problems()
    _check_columns(dataset, problems)
    problems.raise_if_any()  # what follows reads the columns

    for name in REQUIRED_COLUMNS:
        rows = np.flatnonzero(column(dataset, name).is_null())
        problems.add_rows(rows, name, "is null", f"fill it in, {_LEAVE_OUT}")
    reward = column(dataset, "reward")
    rows = np.flatnonzero(pc.fill_null(pc.invert(pc.is_finite(reward)), False))
    problems.add_rows(rows, "reward", "is not a finite number", f"give it the environment's reward, {_LEAVE_OUT}")
    _check_episodes(dataset, problems)

    checked: dict[bytes | str, bool] = {}
    for start in range(0, len(dataset), _ROWS_PER_BATCH):
        batch = dataset.select(range(start, min(start + _ROWS_PER_BATCH, len(dataset))))
        for prompt, images in (("prompt", "images"), ("final_prompt", "final_images")):
            _check_prompts(batch, start, prompt, images, problems)
            _check_images(batch, start, images, checked, problems)
        _check_completions(batch, start, problems)
    problems.raise_if_any()


def _check_columns(dataset: Dataset, problems: _Problems) -> None:
    for name, feature in FEATURES.items():
        given = dataset.features.get(name)
        if given is None:
            cure = f"`dataset.add_column({name!r}, values)`, or rename the one that holds it"
            problems.add(name, f"is missing among {dataset.column_names}", cure)
        elif given != feature:
            cure = f"build the column with this type, or `dataset.cast_column({name!r}, FEATURES[{name!r}])`"
            problems.add(name, f"has the type {given} instead of {feature}", cure)
    if len(dataset) == 0:
        problems.add("episode_id", "the dataset has no rows", "collect or import episodes first")


def _check_episodes(dataset: Dataset, problems: _Problems) -> None:
    episode_id, turn = column(dataset, "episode_id"), column(dataset, "turn")
    if episode_id.null_count or turn.null_count:
        return  # reported already; the order means nothing without them
    codes = episode_id.combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    first_starts = starts[np.unique(codes[starts], return_index=True)[1]]
    sort = '`dataset.sort(["episode_id", "turn"])`'
    again = np.setdiff1d(starts, first_starts)
    problems.add_rows(again, "episode_id", "continues an episode after rows of another one", sort)
    if len(again):
        return

    turn = turn.to_numpy()
    problems.add_rows(
        starts[turn[starts] != 0],
        "turn",
        "is not 0 in the first row of an episode",
        f"number turns from 0, add the rows that are missing, or {sort} if they are only out of order",
    )
    jumps = np.diff(turn, prepend=turn[0] - 1) != 1
    jumps[starts] = False
    problems.add_rows(
        np.flatnonzero(jumps),
        "turn",
        "is not one more than in the row before (a gap or a repetition)",
        f"add the rows that are missing, {_LEAVE_OUT}, or {sort} if they are only out of order",
    )
    _check_ends(dataset, np.append(starts[1:], len(codes)) - 1, problems)


def _check_ends(dataset: Dataset, last: np.ndarray, problems: _Problems) -> None:
    terminated, truncated = (
        pc.fill_null(column(dataset, name), False).to_numpy() for name in ("terminated", "truncated")
    )
    ended = terminated | truncated
    problems.add_rows(
        last[~ended[last]],
        "terminated",
        "the last row of an episode is neither terminated nor truncated",
        "set terminated if the task ended there; else set truncated and store what came next in final_prompt and "
        "final_images",
    )
    inside = np.ones(len(dataset), dtype=bool)
    inside[last] = False
    for name, flags in (("terminated", terminated), ("truncated", truncated)):
        problems.add_rows(
            np.flatnonzero(flags & inside),
            name,
            "is set before the last row of its episode",
            "give the rows after it an episode_id of their own, or set it in the last row only",
        )

    final = column(dataset, "final_prompt").is_valid().to_numpy()
    problems.add_rows(
        np.flatnonzero(truncated & ~terminated & ~final),
        "final_prompt",
        "is null although the row is truncated, so there is no state to bootstrap from",
        "store the observation after the last action in final_prompt and final_images, or drop that row and make the "
        "one before it the truncated one, with the dropped row's prompt and images as its final ones",
    )
    images = pc.fill_null(pc.list_value_length(column(dataset, "final_images")), 0).to_numpy() > 0
    for name, given in (("final_prompt", final), ("final_images", images)):
        problems.add_rows(
            np.flatnonzero(given & ~truncated),
            name,
            "is given although the row is not truncated",
            "set it to null; only the last row of a truncated episode has a final observation",
        )


class _Messages:
    """A message column flattened to its messages and their parts, each with the row it belongs to."""

    def __init__(self, messages: pa.ChunkedArray):
        self.null = messages.is_null().to_numpy()
        self.rows = np.arange(len(messages)).repeat(_lengths(messages))  # of each message
        flat = pc.list_flatten(messages)
        self.roles = pc.struct_field(flat, "role")
        contents = pc.struct_field(flat, "content")
        self.part_rows = self.rows.repeat(_lengths(contents))
        parts = pc.list_flatten(contents)
        self.types = pc.struct_field(parts, "type")
        self.texts = pc.struct_field(parts, "text")

    def rows_with_type_outside(self, allowed: list[str]) -> np.ndarray:
        return np.unique(self.part_rows[~_is_in(self.types, allowed)])

    def rows_with_null_text(self) -> np.ndarray:
        return np.unique(self.part_rows[_is_in(self.types, ["text"]) & self.texts.is_null().to_numpy()])


def _check_prompts(batch: Dataset, start: int, prompt: str, images: str, problems: _Problems) -> None:
    messages = _Messages(column(batch, prompt))
    parts = np.bincount(messages.part_rows, minlength=len(batch))
    empty = np.flatnonzero((parts == 0) & ~messages.null)
    problems.add_rows(start + empty, prompt, "is empty", f"give it a message with content, {_LEAVE_OUT}")
    problems.add_rows(
        start + np.unique(messages.rows[~_is_in(messages.roles, _ROLES)]),
        prompt,
        f"has a message whose role is none of {_ROLES}",
        "rename the role",
    )
    problems.add_rows(
        start + messages.rows_with_type_outside(["text", "image"]),
        prompt,
        "has a content part that is neither of type 'text' nor 'image'",
        'use `{"type": "text", "text": "..."}` and `{"type": "image"}`',
    )
    problems.add_rows(
        start + messages.rows_with_null_text(),
        prompt,
        "has a text part without text",
        'write `{"type": "text", "text": "..."}`, or drop the part',
    )

    is_image = _is_in(messages.types, ["image"])
    placeholders = np.bincount(messages.part_rows[is_image], minlength=len(batch))
    given = _lengths(column(batch, images))
    wrong = np.flatnonzero((placeholders != given) & ~messages.null)
    for pair in np.unique(np.stack([placeholders, given])[:, wrong], axis=1).T:
        problems.add_rows(
            start + wrong[(placeholders[wrong] == pair[0]) & (given[wrong] == pair[1])],
            images,
            f"holds {pair[1]} image(s) but {prompt} has {pair[0]} image placeholder(s)",
            f'put one `{{"type": "image"}}` into {prompt} for each image, in order',
        )


def _check_completions(batch: Dataset, start: int, problems: _Problems) -> None:
    messages = _Messages(column(batch, "completion"))
    assistant = np.bincount(messages.rows[_is_in(messages.roles, ["assistant"])], minlength=len(batch))
    total = np.bincount(messages.rows, minlength=len(batch))
    cure = '`[{"role": "assistant", "content": [{"type": "text", "text": "..."}]}]`, the text may be empty'
    problems.add_rows(
        start + np.flatnonzero(((assistant != 1) | (total != 1)) & ~messages.null),
        "completion",
        "is not exactly one assistant message",
        cure,
    )
    rows = np.union1d(messages.rows_with_type_outside(["text"]), messages.rows_with_null_text())
    problems.add_rows(start + rows, "completion", "has a content part that is not text", cure)

    ids = column(batch, "completion_ids")
    rows = np.flatnonzero(ids.is_valid().to_numpy() & (_lengths(ids) == 0))
    cure = "set it to null to have the completion tokenised; even an empty completion is one token, the stop token"
    problems.add_rows(start + rows, "completion_ids", "is an empty list", cure)


def _check_images(
    batch: Dataset, start: int, name: str, checked: dict[bytes | str, bool], problems: _Problems
) -> None:
    images = column(batch, name)
    rows = np.arange(len(batch)).repeat(_lengths(images))
    flat = pc.list_flatten(images)
    data = pc.struct_field(flat, "bytes")
    paths = pc.if_else(data.is_null(), pc.struct_field(flat, "path"), None)  # a path beside bytes is only a name
    problems.add_rows(
        start + np.unique(rows[pc.and_(data.is_null(), paths.is_null()).to_numpy()]),
        name,
        "holds an image with neither bytes nor path",
        "store the image itself (PIL, PNG or JPEG bytes) or the path of its file",
    )
    problems.add_rows(
        start + np.unique(rows[~_each_distinct(paths, _exists)]),
        name,
        "names an image file that does not exist",
        "correct the path (a relative one starts at the working directory), or store the image itself",
    )
    opens = _each_distinct(paths, lambda path: not _exists(path) or "://" in path or _opens(path, path, checked))
    opens &= _each_distinct(data, lambda png: _opens(BytesIO(png), hashlib.sha256(png).digest(), checked))
    problems.add_rows(
        start + np.unique(rows[~opens]),
        name,
        "holds an image that cannot be opened",
        "store complete PNG or JPEG bytes, not raw pixels; an array becomes an image by `PIL.Image.fromarray`",
    )


def _each_distinct(values: pa.ChunkedArray, test: Callable[[Any], bool]) -> np.ndarray:
    """Whether each value passes the test, which sees each distinct value once; null passes."""
    encoded = values.combine_chunks().dictionary_encode()
    passed = np.array([test(value) for value in encoded.dictionary.to_pylist()] + [True], dtype=bool)
    return passed[pc.fill_null(encoded.indices, -1).to_numpy()]


def _exists(path: str) -> bool:
    return "://" in path or os.path.isfile(path)


def _opens(source: str | BytesIO, key: bytes | str, checked: dict[bytes | str, bool]) -> bool:
    if key not in checked:
        try:
            with PIL.Image.open(source) as image:
                # PNG has checksums, so its pixels need not be decoded to know that they are all there.
                image.verify() if image.format == "PNG" else image.load()
            checked[key] = True
        except Exception:  # Pillow raises whatever its decoder stumbles over
            checked[key] = False
    return checked[key]


def _lengths(lists: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy()


def _is_in(values: pa.ChunkedArray, allowed: list[str]) -> np.ndarray:
    return pc.is_in(values, value_set=pa.array(allowed)).to_numpy()

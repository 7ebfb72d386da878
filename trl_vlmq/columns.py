# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The columns of an episode dataset, one row per turn, and how a dataset in TRL's vision format is brought to them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, Json, List, Value, concatenate_datasets


_MESSAGES = List(
    {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
)  # an image part has the text `None`, which chat templates and TRL pass over

FEATURES = Features(
    {
        "episode_id": Value("string"),
        "turn": Value("int32"),
        "images": List(Image()),
        "prompt": _MESSAGES,
        "completion": _MESSAGES,
        "reward": Value("float32"),
        "terminated": Value("bool"),
        "truncated": Value("bool"),
        "final_prompt": _MESSAGES,
        "final_images": List(Image()),
        "completion_ids": List(Value("int32")),
        "completion_stopped": Value("bool"),
        "action_is_valid": Value("bool"),
        "success": Value("bool"),
        "behavior": Value("string"),
        "env_id": Value("string"),
        "executed_action": Value("string"),
    }
)
"""Name and type of each column."""

REQUIRED_COLUMNS = ("episode_id", "turn", "images", "prompt", "completion", "reward", "terminated", "truncated")
"""The columns without which a row is not a turn; the others may be null, or missing before [`prepare_episodes`]."""

_IMAGE_DTYPES = ("string", "large_string", "binary", "large_binary", "null")


def prepare_episodes(dataset: Dataset) -> Dataset:
    """
    Bring a dataset in TRL's vision format to the columns and types of [`FEATURES`].

    Does only what loses and invents nothing: images given as PIL, bytes or paths become image columns; message contents
    that are plain strings become typed contents; numbers and strings take the width of [`FEATURES`]; optional columns that
    are missing become null; a missing `truncated` becomes `False`; where `episode_id` and `turn` are both missing, the
    rows are taken to be in order and an episode to end at `terminated` or `truncated`. A column of another kind is
    left as it is, for [`~validation.validate_episodes`] to name. Further columns are kept.

    Args:
        dataset ([`~datasets.Dataset`]):
            At least `prompt`, `completion`, `reward` and `terminated`.

    Returns:
        [`~datasets.Dataset`]: the dataset itself if there is nothing to do.
    """
    if all(dataset.features.get(name) == feature for name, feature in FEATURES.items()):
        return dataset
    dataset = _type_messages(dataset)
    casts = {
        name: feature
        for name, feature in FEATURES.items()
        if name in dataset.features and _castable(dataset.features[name], feature)
    }
    target = Features({**dataset.features, **casts})
    if target != dataset.features:
        dataset = dataset.cast(target)
    dataset = _add_missing(dataset)
    present = [name for name in FEATURES if name in dataset.features]
    return dataset.select_columns(present + [name for name in dataset.column_names if name not in FEATURES])


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """
    One column as Arrow, without decoding images and with the dataset's row selection applied.

    Args:
        dataset ([`~datasets.Dataset`]):
            Any dataset.
        name (`str`):
            A column of it.

    Returns:
        [`~pyarrow.ChunkedArray`]: as long as the dataset.
    """
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def _type_messages(dataset: Dataset) -> Dataset:
    """Plain string contents become typed ones, as [`~trl.prepare_multimodal_messages`] would make them."""
    for name, images in (("prompt", "images"), ("completion", None), ("final_prompt", "final_images")):
        feature = dataset.features.get(name)
        if feature == FEATURES[name] or not _holds_messages(feature):
            continue
        known = isinstance(dataset.features.get(images), List)
        counts = pc.list_value_length(column(dataset, images)).to_pylist() if known else [0] * len(dataset)
        rows = dataset.select_columns([name])
        typed = [_typed(row[name], count or 0) for row, count in zip(rows, counts, strict=True)]
        replaced = dataset.rename_column(name, f"untyped_{name}").add_column(name, typed, feature=FEATURES[name])
        dataset = replaced.remove_columns(f"untyped_{name}")
    return dataset


def _holds_messages(feature: Any) -> bool:
    inner = getattr(feature, "feature", None)
    return isinstance(inner, Json) or (isinstance(inner, dict) and {"role", "content"} <= inner.keys())


def _typed(messages: list[dict] | None, image_count: int) -> list[dict] | None:
    if messages is None:
        return None
    typed = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            # TRL's rule: contents without placeholders get all of them before the first user message.
            placeholders = image_count if message["role"] == "user" else 0
            image_count -= placeholders
            content = [{"type": "image"}] * placeholders + [{"type": "text", "text": content}]
        parts = [{"type": part.get("type"), "text": part.get("text")} for part in content or []]
        typed.append({"role": message["role"], "content": parts})
    return typed


def _castable(feature: Any, target: Any) -> bool:
    if feature == Value("null"):
        return True
    if isinstance(target, List):
        inner = getattr(feature, "feature", None)
        if isinstance(target.feature, Image):
            stored = isinstance(inner, dict) and "bytes" in inner
            return stored or isinstance(inner, Image) or getattr(inner, "dtype", None) in _IMAGE_DTYPES
        return isinstance(inner, Value) and _castable(inner, target.feature)
    if not isinstance(feature, Value):
        return False
    kinds = {
        "float32": ("float", "int", "uint"),
        "int32": ("int", "uint"),
        "string": ("string", "large_string", "int"),
    }
    return feature.dtype.startswith(kinds.get(target.dtype, target.dtype))


def _add_missing(dataset: Dataset) -> Dataset:
    count = len(dataset)
    missing: dict[str, Any] = {}
    if "truncated" not in dataset.features:
        missing["truncated"] = np.zeros(count, dtype=bool)
    if "episode_id" not in dataset.features and "turn" not in dataset.features:
        flags = [name for name in ("terminated", "truncated") if dataset.features.get(name) == Value("bool")]
        ended = np.zeros(count, dtype=bool)
        for name in flags:
            ended |= pc.fill_null(column(dataset, name), False).to_numpy()
        starts = np.concatenate([[True], ended[:-1]])[:count]
        episode = np.cumsum(starts) - 1
        missing["episode_id"] = episode.astype(str)
        missing["turn"] = np.arange(count) - np.flatnonzero(starts)[episode]
    if "images" not in dataset.features:
        missing["images"] = [[]] * count
    for name in FEATURES:
        if name not in dataset.features and name not in REQUIRED_COLUMNS:
            missing[name] = [None] * count
    if not missing:
        return dataset
    schema = Features({name: FEATURES[name] for name in missing}).arrow_schema
    return concatenate_datasets([dataset, Dataset(pa.table(missing, schema=schema))], axis=1)

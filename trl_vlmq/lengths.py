# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Refuse data that does not fit into the model's context, before training."""

import math

from datasets import Dataset
from PIL import Image as PILImage
from tqdm.auto import tqdm

from .backbones import Backbone
from .collator import completion_text


# Tokens that a chat template may add to a message, generously.
_TEMPLATE_TOKENS = 64


def check_lengths(dataset: Dataset, backbone: Backbone) -> None:
    """Raise if a prompt with its completion is longer than the model's context.

    Exact and cheap: a tokenizer makes at most one token of a byte, so that only prompts whose bytes and image tokens
    could exceed the context are encoded at all.

    Args:
        dataset (`datasets.Dataset`):
            Validated turns.
        backbone ([`Backbone`]):
            The adapter that encodes.

    Raises:
        ValueError: names the row, its length and the limit.
    """
    limit = math.inf if backbone.max_length is None else backbone.max_length
    sizes: dict[bytes, tuple[int, int]] = {}
    image_tokens: dict[tuple, int] = {}
    columns = ["prompt", "images", "completion", "completion_ids", "final_prompt", "final_images"]
    batches = dataset.select_columns(columns).with_format("arrow").iter(1000)  # Arrow keeps images encoded
    turns = (turn for batch in batches for turn in batch.to_pylist())
    bar = tqdm(turns, total=len(dataset), desc="Checking lengths", unit="turn", mininterval=2, leave=False)
    for row, turn in enumerate(bar):
        text, sampled = completion_text(turn), turn["completion_ids"]
        action = len(text.encode()) + 1 if sampled is None else len(sampled)  # at most
        for prompt, images, length in (
            (turn["prompt"], turn["images"], action),
            (turn["final_prompt"], turn["final_images"], 0),
        ):
            if prompt is None:
                continue
            seen = []
            for image in images or []:
                key = backbone.image_key(image)
                if key not in sizes:
                    sizes[key] = backbone.open_image(image).size
                seen.append(sizes[key])
            shape = tuple(seen)
            if shape not in image_tokens:
                image_tokens[shape] = len(_encode_blank([{"role": "user", "content": [{"type": "image"}] * len(shape)}],
                                                        shape, backbone))  # fmt: skip
            texts = [_bytes(message) for message in prompt]
            if image_tokens[shape] + sum(texts) + length + _TEMPLATE_TOKENS * (len(texts) + 1) > limit:
                if length and sampled is None:
                    length = len(backbone.completion_ids(text))
                backbone.check_length(_encode_blank(prompt, shape, backbone), length, f"row {row}")


def _encode_blank(prompt: list[dict], sizes: tuple[tuple[int, int], ...], backbone: Backbone):
    return backbone.encode(prompt, [PILImage.new("RGB", size) for size in sizes])


def _bytes(message: dict) -> int:
    return sum(len((part["text"] or "").encode()) for part in message["content"])

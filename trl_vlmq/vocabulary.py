# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Refuse data that this model's tokenizer reads as something else, before training."""

from datasets import Dataset

from .backbones import Backbone
from .collator import completion_text


def check_vocabulary(dataset: Dataset, backbone: Backbone) -> None:
    """Raise if a text spells a token that stands for an image, or if stored tokens are not those of the text.

    The former would claim a picture that is not there, the latter were sampled by a model with another tokenizer.

    Args:
        dataset (`datasets.Dataset`):
            Validated turns.
        backbone ([`Backbone`]):
            The adapter whose tokenizer reads them.

    Raises:
        ValueError: names the row and what is wrong with it.
    """
    placeholders = [backbone.tokenizer.convert_ids_to_tokens(i) for i in backbone.image_token_ids]
    valid = set(backbone.valid_token_mask().nonzero()[:, 0].tolist())
    read: dict[tuple[int, ...], str | None] = {}
    columns = dataset.select_columns(["prompt", "final_prompt", "completion", "completion_ids"])
    turns = (turn for batch in columns.with_format("arrow").iter(1000) for turn in batch.to_pylist())
    for row, turn in enumerate(turns):
        ids = turn["completion_ids"]
        texts = {name: turn[name] for name in ("prompt", "final_prompt") if turn[name] is not None}
        if ids is None:
            texts["completion"] = turn["completion"]
        for name, messages in texts.items():
            parts = [part["text"] or "" for message in messages for part in message["content"]]
            found = [word for word in placeholders if any(word in text for text in parts)]
            if found:
                raise ValueError(
                    f"row {row}: a text of {name!r} spells {found[0]!r}, which stands for an image here. Write it in "
                    "another way, for example without its brackets."
                )
        if ids is None:
            continue
        key = tuple(ids)
        if key not in read:
            read[key] = backbone.decode(ids) if valid.issuperset(ids) else None
        if read[key] != completion_text(turn):
            raise ValueError(
                f"row {row}: the tokens in 'completion_ids' do not spell the completion {completion_text(turn)!r}: they "
                "were sampled with another tokenizer. Without them the text is tokenised anew: "
                '`dataset.remove_columns(["completion_ids", "completion_stopped"])`.'
            )

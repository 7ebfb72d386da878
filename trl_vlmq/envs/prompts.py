# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""From observations to the messages and images that a model reads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image


# A completion quoted from the past must not smuggle in a processor's image placeholder, such as "<image>".
_NO_PLACEHOLDER = str.maketrans("<>", "()")


@dataclass(frozen=True)
class PromptBuilder:
    """
    Builds the prompt of a turn: one user message, all of whose images come before its text.

    Args:
        history (`int`, *optional*, defaults to `0`):
            How many past turns the prompt recalls. What the agent wrote in them is listed in the text, oldest first.
        history_images (`bool`, *optional*, defaults to `False`):
            Also show the images of those turns, oldest first, before the current ones.
        system (`str`, *optional*):
            Text of a system message to put first.
        images (`bool`, *optional*, defaults to `True`):
            Show images at all. `False` is for text-only models, in environments that describe what there is to see.
    """

    history: int = 0
    history_images: bool = False
    system: str | None = None
    images: bool = True

    def __post_init__(self):
        if self.history < 0:
            raise ValueError(f"history={self.history} must be 0 or more past turns.")
        if self.history_images and not (self.images and self.history):
            raise ValueError("history_images=True needs history of at least 1 and images=True.")

    def build(
        self, observation: dict[str, Any], history: Sequence[tuple[dict[str, Any], str]] = ()
    ) -> tuple[list[dict[str, Any]], list[Image.Image]]:
        """
        Args:
            observation (`dict`):
                What the agent sees now, `{"image": ..., "text": ...}`.
            history (`Sequence[tuple[dict, str]]`, *optional*):
                Past observations of this episode with the completions they were answered with, oldest first; may be
                longer than what the prompt recalls.

        Returns:
            The messages, whose contents are lists of typed parts, and the images in the order of their placeholders.
        """
        recalled = list(history)[-self.history :] if self.history else []
        images = []
        if self.history_images:
            images += [image for past, _ in recalled for image in _images(past)]
        if self.images:
            images += _images(observation)
        text = observation["text"]
        if recalled:
            earlier = "; ".join(" ".join(completion.split()) or "(nothing)" for _, completion in recalled)
            text = f"Earlier: {earlier.translate(_NO_PLACEHOLDER)}\n{text}"

        messages = []
        if self.system is not None:
            messages.append({"role": "system", "content": [{"type": "text", "text": self.system}]})
        placeholders = [{"type": "image"} for _ in images]
        messages.append({"role": "user", "content": [*placeholders, {"type": "text", "text": text}]})
        return messages, images

    def to_dict(self) -> dict[str, Any]:
        """The settings, for a checkpoint to record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "PromptBuilder":
        """The builder with the settings that [`~PromptBuilder.to_dict`] gave."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"Unknown prompt settings {unknown}: the known ones are {known}.")
        return cls(**settings)


def _images(observation: dict[str, Any]) -> list[Image.Image]:
    image: np.ndarray | tuple[np.ndarray, ...] = observation["image"]
    return [Image.fromarray(array) for array in (image if isinstance(image, tuple) else (image,))]

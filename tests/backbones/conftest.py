# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Every family of the table, and observations for it."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest


sys.path.insert(0, str(Path(__file__).parent))
from tiny_families import LAUNCHED_FAMILIES, TEXT_FAMILIES, VISION_FAMILIES, Family  # noqa: E402


SHAPES = ((16, 16), (40, 24), (24, 60))  # of pictures


@pytest.fixture(scope="session")
def families(tiny_llm) -> Callable[[str], Family]:
    """`families(name)`: a row of the table, made once."""
    return functools.cache(lambda name: LAUNCHED_FAMILIES[name](tiny_llm[1]))


@pytest.fixture(params=VISION_FAMILIES | TEXT_FAMILIES)
def family(request, families) -> Family:
    return families(request.param)


@pytest.fixture(params=VISION_FAMILIES)
def vision_family(request, families) -> Family:
    return families(request.param)


@pytest.fixture(scope="session")
def picture() -> Callable[..., PIL.Image.Image]:
    """`picture(seed, size=(16, 16))`: a picture of random pixels."""

    def make(seed: int, size: tuple[int, int] = (16, 16)) -> PIL.Image.Image:
        width, height = size
        return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))

    return make


@pytest.fixture(scope="session")
def observe(picture) -> Callable[..., tuple[list[dict], list[PIL.Image.Image]]]:
    """`observe(text, images=0, seed=0)`: messages and as many pictures."""

    def make(text: str, images: int = 0, seed: int = 0):
        content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
        pictures = [picture(100 * seed + i, SHAPES[(seed + i) % len(SHAPES)]) for i in range(images)]
        return [{"role": "user", "content": content}], pictures

    return make


@pytest.fixture
def observations(observe) -> Callable[[Family], list]:
    """Four observations of different lengths; those of a family that sees have none to two pictures."""

    def make(family: Family):
        counts = (1, int(family.needs_image), 2, 1) if family.has_vision else (0, 0, 0, 0)
        texts = ("A word.", "No picture at all, but some more to read.", "", "Go\non.")
        return [observe(text, count, seed) for seed, (text, count) in enumerate(zip(texts, counts, strict=True))]

    return make


@pytest.fixture
def prompts(observations) -> Callable[..., list]:
    """`prompts(backbone, family)`: those observations, encoded."""
    return lambda backbone, family: [backbone.encode(*observation) for observation in observations(family)]

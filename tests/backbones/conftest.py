# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Tiny random models of every family that the adapters are tested with, and observations for them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import PIL.Image
import pytest
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    set_seed,
)
from transformers.models.idefics3 import Idefics3ImageProcessorPil, Idefics3VisionConfig

from trl_vlmq.backbones import Backbone, make_backbone


VISION = ("llava", "idefics3")
TEXT = ("llama", "qwen2", "phi")
PADDED_ROWS = 6  # rows of the language head without a token, as many checkpoints have them

# As Idefics3's: a space is written before the assistant's text, and another token than eos ends its turn.
IDEFICS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass
class Family:
    """A way to make models of one family, all of one seed equal, and their processor."""

    name: str
    make_model: Callable[..., PreTrainedModel]
    processor: object
    turn_ends_with: str
    answer_begins_with: str = ""

    @property
    def has_vision(self) -> bool:
        return self.name in VISION

    def make(self, seed: int = 0) -> Backbone:
        return make_backbone(self.make_model(seed), self.processor)


def _llava(tiny_vlm) -> Family:
    make, processor = tiny_vlm

    def make_model(seed: int = 0):
        config = deepcopy(make().config)
        config.text_config.vocab_size += PADDED_ROWS
        set_seed(seed)
        return LlavaForConditionalGeneration(config).eval()

    return Family("llava", make_model, processor, "<end>")


def _idefics3(tiny_llm) -> Family:
    tokenizer = deepcopy(tiny_llm[1])
    tokenizer.chat_template = None
    rows = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    tokenizer.add_tokens(
        ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows], special_tokens=True
    )
    processor = Idefics3Processor(
        # A picture becomes four crops and itself, each of 4 image tokens.
        Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        vision_config=Idefics3VisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer) + PADDED_ROWS,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        ),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )

    def make_model(seed: int = 0):
        set_seed(seed)
        return Idefics3ForConditionalGeneration(config).eval()

    return Family("idefics3", make_model, processor, "<end_of_utterance>", " ")


@pytest.fixture(scope="session")
def families(tiny_vlm, tiny_llm) -> dict[str, Family]:
    found = {"llava": _llava(tiny_vlm), "idefics3": _idefics3(tiny_llm)}
    make, tokenizer = tiny_llm
    for name in TEXT:
        found[name] = Family(
            name,
            lambda seed=0, name=name: make(name, seed, vocab_size=len(tokenizer) + PADDED_ROWS),
            tokenizer,
            "<end>",
        )
    return found


@pytest.fixture(params=VISION + TEXT)
def family(request, families) -> Family:
    return families[request.param]


@pytest.fixture(params=VISION)
def vision_family(request, families) -> Family:
    return families[request.param]


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
        return [{"role": "user", "content": content}], [picture(100 * seed + i) for i in range(images)]

    return make


@pytest.fixture
def observations(observe) -> Callable[[Family], list]:
    """Observations of different lengths; those of a vision family have none to two images."""

    def make(family: Family):
        counts = (1, 0, 2, 1) if family.has_vision else (0, 0, 0, 0)
        texts = ("A word.", "No picture at all, but some more to read.", "", "Go\non.")
        return [observe(text, count, seed) for seed, (text, count) in enumerate(zip(texts, counts, strict=True))]

    return make

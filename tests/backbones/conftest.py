# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Tiny random models of every family that the adapters are tested with, and observations for them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import PIL.Image
import pytest
import transformers
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

from trl_vlmq.backbones import (
    Backbone,
    XGenMMConfig,
    XGenMMForConditionalGeneration,
    XGenMMImageProcessorPil,
    XGenMMProcessor,
    make_backbone,
)


VISION = ("llava", "idefics3", "xgen_mm")
TEXT = ("llama", "qwen2", "phi")
# Families with peculiarities of their own: crops, two kinds of attention masks, multimodal positions.
PECULIAR = ("llava_next", "gemma3", "paligemma", "qwen2_vl", "qwen2_5_vl")
PADDED_ROWS = 6  # rows of the language head without a token, as many checkpoints have them

SHAPES = ((16, 16), (40, 24), (24, 60))  # of pictures

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
        return self.name not in TEXT

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


TEXT_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
VISION_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def _template(placeholder: str) -> str:
    return (
        "{% for message in messages %}<{{ message['role'] }}>{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{placeholder}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )


def _family(name: str, processor, config, model_class) -> Family:
    def make_model(seed: int = 0):
        set_seed(seed)
        model = model_class(config).eval()
        if name == "gemma3":  # begins at zero, and would show nothing
            model.model.multi_modal_projector.mm_input_projection_weight.data.normal_()
        return model

    return Family(name, make_model, processor, "<end>")


def _llava_next(tiny_llm) -> Family:
    tokenizer = deepcopy(tiny_llm[1])
    grid = [[16, 32], [32, 16], [32, 32]]
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=grid
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=_template("<image>"),
    )
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION_SIZES),
        text_config=LlamaConfig(vocab_size=len(tokenizer) + PADDED_ROWS, **TEXT_SIZES),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_grid_pinpoints=grid,
    )
    return _family("llava_next", processor, config, transformers.LlavaNextForConditionalGeneration)


def _gemma3(tiny_llm) -> Family:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=deepcopy(tiny_llm[1]).backend_tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        extra_special_tokens=names,
    )
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer,
        image_seq_length=4,
        chat_template=_template("<start_of_image>"),
    )
    begin, end, image = tokenizer.convert_tokens_to_ids(list(names.values()))
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**VISION_SIZES, vision_use_head=False),
        text_config=transformers.Gemma3TextConfig(
            vocab_size=len(tokenizer) + PADDED_ROWS, head_dim=16, sliding_window=16, **TEXT_SIZES
        ),
        mm_tokens_per_image=4,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=image,
    )
    return _family("gemma3", processor, config, transformers.Gemma3ForConditionalGeneration)


def _paligemma(tiny_llm) -> Family:
    tokenizer = deepcopy(tiny_llm[1])
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    image_processor = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    image_processor.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(image_processor, tokenizer, chat_template=_template("<image>"))
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION_SIZES, vision_use_head=False, projection_dim=32),
        text_config=transformers.GemmaConfig(vocab_size=len(tokenizer) + PADDED_ROWS, head_dim=16, **TEXT_SIZES),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    return _family("paligemma", processor, config, transformers.PaliGemmaForConditionalGeneration)


def _xgen_mm(tiny_llm) -> Family:
    tokenizer = deepcopy(tiny_llm[1])
    tokenizer.chat_template = None
    tokenizer.add_tokens(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], special_tokens=True)
    processor = XGenMMProcessor(XGenMMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, 2)
    config = XGenMMConfig(
        vision_config={**VISION_SIZES, "vision_use_head": False},
        text_config={
            "vocab_size": len(tokenizer) + PADDED_ROWS,
            "original_max_position_embeddings": 512,
            **TEXT_SIZES,
        },
        num_image_tokens=2,
        resampler_layers=2,
        resampler_heads=2,
        resampler_head_dim=8,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_placeholder_token_id=None,
        initializer_range=0.2,
    )
    family = _family("xgen_mm", processor, config, XGenMMForConditionalGeneration)
    family.turn_ends_with = "<|end|>"
    return family


def _qwen_vl(name: str, tiny_llm) -> Family:
    tokenizer = deepcopy(tiny_llm[1])
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_tokens(names, special_tokens=True)
    start, end, image, video = tokenizer.convert_tokens_to_ids(names)
    version = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}[name]

    class ImagesOnly(getattr(transformers, f"{version}Processor")):
        """Without the processor of videos, which needs torchvision."""

        @classmethod
        def get_attributes(cls):
            return ["image_processor", "tokenizer"]

    processor = ImagesOnly(
        transformers.Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
        ),
        tokenizer,
        None,
        chat_template=_template("".join([names[0], names[2], names[1]])),
    )
    vision = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision |= {
        "qwen2_vl": {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
        "qwen2_5_vl": {
            "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 16,
            "fullatt_block_indexes": [1],
        },
    }[name]  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = getattr(transformers, f"{version}Config")(
        text_config={"vocab_size": len(tokenizer) + PADDED_ROWS, "rope_parameters": rope, **TEXT_SIZES},
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return _family(name, processor, config, getattr(transformers, f"{version}ForConditionalGeneration"))


@pytest.fixture(scope="session")
def families(tiny_vlm, tiny_llm) -> dict[str, Family]:
    found = {"llava": _llava(tiny_vlm), "idefics3": _idefics3(tiny_llm), "xgen_mm": _xgen_mm(tiny_llm)}
    make, tokenizer = tiny_llm
    for name in TEXT:
        found[name] = Family(
            name,
            lambda seed=0, name=name: make(name, seed, vocab_size=len(tokenizer) + PADDED_ROWS),
            tokenizer,
            "<end>",
        )
    found |= {"llava_next": _llava_next(tiny_llm), "gemma3": _gemma3(tiny_llm), "paligemma": _paligemma(tiny_llm)}
    return found | {name: _qwen_vl(name, tiny_llm) for name in ("qwen2_vl", "qwen2_5_vl")}


@pytest.fixture(params=VISION + TEXT)
def family(request, families) -> Family:
    return families[request.param]


@pytest.fixture(params=VISION + TEXT + PECULIAR)
def any_family(request, families) -> Family:
    return families[request.param]


@pytest.fixture(params=VISION + PECULIAR)
def any_vision_family(request, families) -> Family:
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
        pictures = [picture(100 * seed + i, SHAPES[(seed + i) % len(SHAPES)]) for i in range(images)]
        return [{"role": "user", "content": content}], pictures

    return make


@pytest.fixture
def observations(observe) -> Callable[[Family], list]:
    """Observations of different lengths; those of a vision family have none to two pictures of different sizes."""

    def make(family: Family):
        counts = (1, 0, 2, 1) if family.has_vision else (0, 0, 0, 0)
        if family.name == "paligemma":  # its processor insists
            counts = (1, 1, 2, 1)
        texts = ("A word.", "No picture at all, but some more to read.", "", "Go\non.")
        return [observe(text, count, seed) for seed, (text, count) in enumerate(zip(texts, counts, strict=True))]

    return make

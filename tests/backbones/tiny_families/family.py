# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a row of the table of families says, and sizes that all of them share."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from trl_vlmq.backbones import Backbone, make_backbone


PADDED_ROWS = 6  # rows of the language head without a token, as many checkpoints have them

# Weights are larger than those of a fresh model: what a family must not lose is then far above rounding.
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
    "initializer_range": 0.1,
}
VISION_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Family:
    """A tiny random model of one family and its processor.

    Args:
        name (`str`):
            Its row in the table.
        config ([`~transformers.PreTrainedConfig`]):
            What the model is made from.
        processor ([`~transformers.ProcessorMixin`] or [`~transformers.PreTrainedTokenizerBase`]):
            Its processor, or the tokenizer of a text-only model.
        image_tokens (`tuple[str, ...]`, *optional*, defaults to `()`):
            Every token that stands for an image or a part of one: none may be sampled.
        turn_ends_with (`str`, *optional*, defaults to `"<end>"`):
            What the chat template writes after the assistant's text.
        answer_begins_with (`str`, *optional*, defaults to `""`):
            What it writes before.
        needs_image (`bool`, *optional*, defaults to `False`):
            Whether its processor refuses prompts without an image.
        max_images (`int`, *optional*, defaults to `2`):
            Pictures in a prompt that it is shown in training.
        needs_torchvision (`bool`, *optional*, defaults to `False`):
            Whether its own processor loads with torchvision only; `processor` is a stand-in without videos then.
        linears_per_layer (`int`, *optional*, defaults to `7`):
            Linear layers of one decoder layer: q, k, v, o, gate, up, down in most.
        logits_of (`Callable`, *optional*):
            From the output of the head to the logits; the same in most.
        prepare (`Callable`, *optional*):
            Last touch on a new model.
    """

    name: str
    config: PreTrainedConfig
    processor: object
    image_tokens: tuple[str, ...] = ()
    turn_ends_with: str = "<end>"
    answer_begins_with: str = ""
    needs_image: bool = False
    max_images: int = 2
    needs_torchvision: bool = False
    linears_per_layer: int = 7
    logits_of: Callable[[torch.Tensor], torch.Tensor] = lambda head: head
    prepare: Callable[[PreTrainedModel], object] = lambda model: None

    @property
    def has_vision(self) -> bool:
        return getattr(self.config, "vision_config", None) is not None

    def make_model(self, seed: int = 0) -> PreTrainedModel:
        """A model; those of one seed are equal."""
        set_seed(seed)
        auto = AutoModelForImageTextToText if self.has_vision else AutoModelForCausalLM
        model = auto.from_config(deepcopy(self.config)).eval()
        self.prepare(model)
        return model

    def make(self, seed: int = 0) -> Backbone:
        """Its adapter."""
        return make_backbone(self.make_model(seed), self.processor)

    def own_inputs(self, backbone: Backbone, messages: list[dict], images: list) -> dict[str, torch.Tensor]:
        """What a user of transformers alone would give the model for a prompt: its processor's own output."""
        if not self.has_vision:
            return dict(self.processor(backbone.render(messages), return_tensors="pt"))
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = dict(self.processor(text=[text], images=[images] if images else None, return_tensors="pt"))
        inputs.pop("labels", None)
        return inputs


def chat_template(image: str) -> str:
    """A template that writes `image` where a picture goes."""
    return (
        "{% for message in messages %}<{{ message['role'] }}>{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )


def with_tokens(tokenizer: PreTrainedTokenizerFast, *tokens: str, **named: str) -> PreTrainedTokenizerFast:
    """A copy that knows further special tokens, the named ones as attributes too, as checkpoints declare them."""
    copy = PreTrainedTokenizerFast(
        tokenizer_object=deepcopy(tokenizer.backend_tokenizer),
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=["<image>", "<system>", "<user>", "<assistant>"],
        extra_special_tokens=named,
    )
    copy.add_tokens(list(tokens), special_tokens=True)
    return copy


def without_videos(processor_class: type) -> type:
    """The family's processor less its processor of videos, which needs torchvision; the code for images is its own."""

    class ImagesOnly(processor_class):
        @classmethod
        def get_attributes(cls):
            return ["image_processor", "tokenizer"]

    return ImagesOnly

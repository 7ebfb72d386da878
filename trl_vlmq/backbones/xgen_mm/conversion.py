# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Published xGen-MM r-v1.5 checkpoints in terms of the classes here: weights, configuration, processor."""

import re
from collections.abc import Mapping

import torch
from transformers import PreTrainedTokenizerBase

from .configuration import SIGLIP_SO400M_384, XGenMMConfig
from .image_processing import XGenMMImageProcessorPil
from .modeling import XGenMMForConditionalGeneration
from .processing import XGenMMProcessor


VISION_TOWERS = {"google/siglip-so400m-patch14-384": SIGLIP_SO400M_384}
ADDED_TOKENS = ("<image>", "<image placeholder>", "<|endofchunk|>")

# Our names -> published names. Of two, the second holds the rows of the added tokens.
_LAYER, _PUBLISHED_LAYER = r"model\.resampler\.layers\.(\d+)", r"vlm.vision_tokenizer.layers.\1"
_HEAD = "vlm.lang_model.lm_head"
_EMBEDDING = "vlm.lang_model.model.embed_tokens"
_NAMES = {
    r"model\.vision_tower\.(.+)": [r"vlm.vision_encoder.\1"],
    r"model\.resampler\.queries": ["vlm.vision_tokenizer.latents"],
    rf"{_LAYER}\.attention\.norm_patches\.(.+)": [rf"{_PUBLISHED_LAYER}.0.norm_media.\2"],
    rf"{_LAYER}\.attention\.norm_queries\.(.+)": [rf"{_PUBLISHED_LAYER}.0.norm_latents.\2"],
    rf"{_LAYER}\.attention\.(q|kv)_proj\.weight": [rf"{_PUBLISHED_LAYER}.0.to_\2.weight"],
    rf"{_LAYER}\.attention\.out_proj\.weight": [rf"{_PUBLISHED_LAYER}.0.to_out.weight"],
    rf"{_LAYER}\.norm\.(.+)": [rf"{_PUBLISHED_LAYER}.1.0.\2"],
    rf"{_LAYER}\.fc1\.weight": [rf"{_PUBLISHED_LAYER}.1.1.weight"],
    rf"{_LAYER}\.fc2\.weight": [rf"{_PUBLISHED_LAYER}.1.3.weight"],
    r"model\.resampler\.((norm|projection)\..+)": [r"vlm.vision_tokenizer.\1"],
    r"model\.language_model\.embed_tokens\.weight": [
        f"{_EMBEDDING}.weight",
        f"{_EMBEDDING}.additional_embedding.weight",
    ],
    r"model\.language_model\.(.+)": [r"vlm.lang_model.model.\1"],
    r"lm_head\.(weight|bias)": [rf"{_HEAD}.\1", rf"{_HEAD}.additional_fc.\1"],
}
_UNREAD = ("vlm.vision_encoder.head.", "vlm.vision_encoder.embeddings.position_ids")  # not by the original either


def published_names(ours: str) -> list[str]:
    """Names of the published tensors that one of ours is made of."""
    for pattern, templates in _NAMES.items():
        if match := re.fullmatch(pattern, ours):
            return [match.expand(template) for template in templates]
    raise KeyError(ours)


def convert_state_dict(published: Mapping[str, torch.Tensor], config: XGenMMConfig) -> dict[str, torch.Tensor]:
    """The weights of an [`XGenMMForConditionalGeneration`] made of published ones.

    The published embedding and head have rows for the vocabulary of Phi-3, padding among them, and three more apart
    for the added tokens; ours have those of the tokenizer and then those of the added tokens.

    Args:
        published (`Mapping[str, torch.Tensor]`):
            Published names and tensors.
        config ([`XGenMMConfig`]):
            From [`convert_config`].

    Raises:
        ValueError: names the tensors that are missing, that do not belong there, or whose shape does not fit.
    """
    with torch.device("meta"):
        wanted = XGenMMForConditionalGeneration(config).state_dict()
    sources = {ours: published_names(ours) for ours in wanted}
    expected = {name for names in sources.values() for name in names}
    given = {name for name in published if not name.startswith(_UNREAD)}
    for problem, names in {"lacks": expected - given, "holds, beside an xGen-MM r-v1.5,": given - expected}.items():
        if names:
            rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
            raise ValueError(f"The checkpoint {problem} {', '.join(sorted(names)[:10])}{rest}.")
    converted = {}
    for ours, (name, *added) in sources.items():
        converted[ours] = published[name]
        if added:
            converted[ours] = torch.cat([published[name][: config.image_token_id], published[added[0]]])
        if converted[ours].shape != wanted[ours].shape:
            raise ValueError(
                f"{name} has the shape {list(published[name].shape)}, from which follows {list(converted[ours].shape)} "
                f"where {list(wanted[ours].shape)} is needed."
            )
    return converted


def convert_config(published: dict) -> XGenMMConfig:
    """The configuration that a published `config.json` means.

    Args:
        published (`dict`):
            The content of the file.

    Raises:
        ValueError: if it is not that of an xGen-MM r-v1.5, or of one with another vision tower.
    """
    if published.get("model_type") != "xgenmm":
        raise ValueError(
            f"config.json has the model type {published.get('model_type')!r}; that of a published xGen-MM r-v1.5 is "
            "'xgenmm'."
        )
    tower = published.get("vision_encoder_config", {}).get("model_name", "google/siglip-so400m-patch14-384")
    if tower not in VISION_TOWERS:
        raise ValueError(f"Unknown vision tower {tower!r}; known: {', '.join(VISION_TOWERS)}.")
    text = dict(published.get("text_config", {}))
    n_tokens, window = text.pop("initial_tokenizer_len", 32012), text.pop("sliding_window", 2047)
    text |= {
        "vocab_size": n_tokens + len(ADDED_TOKENS),
        "pad_token_id": n_tokens - 1,
        "sliding_window": None if window is None else window + 1,  # see XGenMMConfig
    }
    return XGenMMConfig(
        vision_config={**VISION_TOWERS[tower], "vision_use_head": False},
        text_config={key: value for key, value in text.items() if key != "torch_dtype"},
        num_image_tokens=published.get("vision_tokenizer_config", {}).get("num_vis_tokens", 128),
        image_token_id=n_tokens,
        image_placeholder_token_id=n_tokens + 1,
    )


def make_processor(tokenizer: PreTrainedTokenizerBase, config: XGenMMConfig) -> XGenMMProcessor:
    """The processor of a converted model.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            As published; the added tokens are added to it.
        config ([`XGenMMConfig`]):
            From [`convert_config`].

    Raises:
        ValueError: if the added tokens do not get the ids that their rows have.
    """
    tokenizer.add_tokens(list(ADDED_TOKENS), special_tokens=True)
    rows = list(range(config.image_token_id, config.text_config.vocab_size))
    if tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS)) != rows:
        raise ValueError(
            f"initial_tokenizer_len of config.json is {config.image_token_id}, but the tokenizer has "
            f"{len(tokenizer) - len(rows)} tokens."
        )
    tokenizer.chat_template = None  # the processor has its own
    side = config.vision_config.image_size
    return XGenMMProcessor(
        XGenMMImageProcessorPil(size={"height": side, "width": side}), tokenizer, config.num_image_tokens
    )

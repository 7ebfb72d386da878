# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Load a base model or a trained adapter, with its processor."""

import json
from pathlib import Path

from peft import PeftConfig, PeftModel
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)

from .base import Backbone
from .families import make_backbone
from .tiny import resolve_model


# Model types of published checkpoints that need a conversion, and the module that does it.
_CONVERTERS = {
    "moondream1": "trl_vlmq.backbones.moondream2.convert",  # as MoonDream2 calls itself
    "xgenmm": "trl_vlmq.backbones.xgen_mm.convert",
}


def load_backbone(name_or_path: str, **model_kwargs) -> Backbone:
    """A base model or an adapter that the trainer saved, ready to act or to be trained.

    Args:
        name_or_path (`str`):
            Folder or Hub id of a model, or of a PEFT adapter (its base is loaded first), or the name of an embedded
            model (one of `TINY_MODELS`; a folder of that name goes first).
        model_kwargs:
            Passed to `from_pretrained` of the base, e.g. `dtype` or `quantization_config`.

    Raises:
        ValueError: if an adapter does not name its base, or the base is a checkpoint that has to be converted first.
    """
    name_or_path = resolve_model(name_or_path)
    adapter = is_adapter(name_or_path)
    base = PeftConfig.from_pretrained(name_or_path).base_model_name_or_path if adapter else name_or_path
    if not base:
        raise ValueError(
            f"The adapter in {name_or_path} does not name its base model: it was trained on a model that had not been "
            "loaded from anywhere. Save that model, and write its folder into base_model_name_or_path of "
            "adapter_config.json."
        )
    model_type = PreTrainedConfig.get_config_dict(base)[0].get("model_type")
    if model_type in _CONVERTERS:
        raise ValueError(f"{base} has to be converted first: python -m {_CONVERTERS[model_type]} SOURCE DESTINATION")
    config = AutoConfig.from_pretrained(base)
    has_vision = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    model = auto.from_pretrained(base, **({"dtype": "auto"} | model_kwargs))
    if adapter:
        model = PeftModel.from_pretrained(model, name_or_path, is_trainable=True)
    return make_backbone(model, load_processor(name_or_path, fallback=base, has_vision=has_vision))


def load_processor(name_or_path: str, *, fallback: str, has_vision: bool):
    """The processor saved beside a model or adapter, else that of the base."""
    auto = AutoProcessor if has_vision else AutoTokenizer
    folder = Path(name_or_path)
    saved = not folder.is_dir() or any((folder / f).is_file() for f in ("tokenizer_config.json", "tokenizer.json"))
    return auto.from_pretrained(name_or_path if saved else fallback)


def is_adapter(name_or_path: str) -> bool:
    """Whether a folder or Hub id holds a PEFT adapter rather than a full model."""
    folder = Path(name_or_path)
    if folder.is_dir():
        return (folder / "adapter_config.json").is_file()
    try:
        PeftConfig.from_pretrained(name_or_path)
    except (ValueError, OSError, json.JSONDecodeError):
        return False
    return True

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Load a base model or a trained adapter, with its processor."""

import os
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)

from ..hub import find_file, hub_errors, is_repo_id
from .base import Backbone
from .families import make_backbone
from .tiny import TINY_MODELS, resolve_model, tiny_model_path


# Model types of published checkpoints that need a conversion, and the module that does it.
_CONVERTERS = {
    "moondream1": "trl_vlmq.backbones.moondream2.convert",  # as MoonDream2 calls itself
    "xgenmm": "trl_vlmq.backbones.xgen_mm.convert",
}


def load_backbone(name_or_path: str, *, base: str | None = None, **model_kwargs) -> Backbone:
    """A base model or an adapter that the trainer saved, ready to act or to be trained.

    Args:
        name_or_path (`str`):
            Folder or Hub id of a model, or of a PEFT adapter (its base is loaded first), or the name of an embedded
            model (one of `TINY_MODELS`; a folder of that name goes first).
        base (`str`, *optional*):
            Base model of an adapter, where it is not the one that the adapter names.
        model_kwargs:
            Passed to `from_pretrained` of the base, e.g. `dtype` or `quantization_config`.

    Raises:
        HubError: if the Hub does not give it.
        ValueError: if an adapter does not name its base or the base is not here, if there is a `base` but no adapter, or
            if the base is a checkpoint that has to be converted first.
    """
    name_or_path = resolve_model(os.fspath(name_or_path))
    adapter = is_adapter(name_or_path)
    if adapter:
        base = resolve_model(base) if base else base_of_adapter(name_or_path)
    elif base:
        raise ValueError(f"{name_or_path} is a full model and has no base: leave base={base!r} out.")
    return _load(name_or_path if adapter else None, base if adapter else name_or_path, model_kwargs)


def _load(adapter: str | None, base: str, model_kwargs: dict[str, Any]) -> Backbone:
    with hub_errors("Loading", base):
        config = load_config(base)
        model = model_class(config).from_pretrained(base, **({"dtype": "auto"} | model_kwargs))
    with hub_errors("Loading", adapter or base):
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
        processor = load_processor(adapter or base, fallback=base, has_vision=has_vision(config))
    return make_backbone(model, processor)


def load_config(base: str) -> PreTrainedConfig:
    """The configuration of a model.

    Args:
        base (`str`):
            Folder or Hub id.

    Raises:
        ValueError: if it is a checkpoint that has to be converted first.
    """
    model_type = PreTrainedConfig.get_config_dict(base)[0].get("model_type")
    if model_type in _CONVERTERS:
        raise ValueError(f"{base} has to be converted first: python -m {_CONVERTERS[model_type]} SOURCE DESTINATION")
    return AutoConfig.from_pretrained(base)


def has_vision(config: PreTrainedConfig) -> bool:
    """Whether a configuration is that of a model that reads images."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def model_class(config: PreTrainedConfig) -> type:
    """The Auto class that makes the model of a configuration, with its language head."""
    return AutoModelForImageTextToText if has_vision(config) else AutoModelForCausalLM


def load_processor(name_or_path: str, *, fallback: str, has_vision: bool):
    """The processor saved beside a model or adapter, else that of the base."""
    auto = AutoProcessor if has_vision else AutoTokenizer
    saved = any(find_file(name_or_path, file) for file in ("tokenizer_config.json", "tokenizer.json"))
    return auto.from_pretrained(name_or_path if saved else fallback)


def is_adapter(name_or_path: str) -> bool:
    """Whether a folder or Hub id holds a PEFT adapter rather than a full model."""
    return find_file(name_or_path, ADAPTER_CONFIG_NAME) is not None


def base_of_adapter(name_or_path: str) -> str:
    """Folder or Hub id of the model that an adapter was trained on.

    Args:
        name_or_path (`str`):
            Folder or Hub id of the adapter.

    Raises:
        ValueError: if the adapter does not name it, or names a folder that is not here.
    """
    cure = (
        'pass `load_backbone(..., base="folder or Hub id")`, or write it into base_model_name_or_path of '
        f"{ADAPTER_CONFIG_NAME}."
    )
    base = PeftConfig.from_pretrained(name_or_path).base_model_name_or_path
    if not base:
        raise ValueError(
            f"The adapter in {name_or_path} does not name its base model: it was trained on a model that had not been "
            f"loaded from anywhere. Save that model, and {cure}"
        )
    if base in TINY_MODELS and not Path(base, "config.json").is_file():
        return tiny_model_path(base)
    if not Path(base).is_dir() and not is_repo_id(base):
        raise ValueError(
            f"The adapter in {name_or_path} was trained on {base}, and there is no such folder here. Get that model, and "
            f"{cure}"
        )
    return base

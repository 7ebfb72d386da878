# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An adapter and its base become one full model that needs neither `peft` nor this package."""

import os
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedConfig

from .backbones import base_of_adapter, is_adapter, load_backbone, resolve_model
from .critic import CRITIC_CONFIG, CRITIC_WEIGHTS
from .env_record import ENVIRONMENT_FILE
from .hub import find_file, hub_errors
from .prompt_record import PROMPT_FILE
from .records import load_record, save_record
from .schedules import FILTER_STATE


def merge_adapter(
    model: str | os.PathLike, output: str | os.PathLike, *, base: str | None = None, dtype: str = "auto"
) -> None:
    """
    Write the full model that an adapter and its base make, with processor, critic and the records of prompt and environment.

    The folder loads with plain `transformers`, and with [`AFSFTTrainer`] or [`load_backbone`] as any full model does. It
    appears complete or not at all.

    Args:
        model (`str` or `Path`):
            Folder or Hub id of the adapter.
        output (`str` or `Path`):
            Folder to write; it must not hold anything yet.
        base (`str`, *optional*):
            Folder or Hub id of the base in full precision, where it is not what the adapter names.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the merged weights, "auto" for that of the base. The sums are rounded to it: in bfloat16 the model answers
            a little differently from its adapter on its base.

    Raises:
        FileExistsError: if `output` holds something.
        HubError: if the Hub does not give the adapter or its base.
        ValueError: if `model` is no adapter, or the base is stored in 4 or 8 bits.
    """
    model, output = resolve_model(os.fspath(model)), Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise FileExistsError(f"{output} is there already: name a new folder.")
    if not is_adapter(model):
        raise ValueError(f"{model} is no adapter but a full model already: there is nothing to merge.")
    base = resolve_model(base) if base else base_of_adapter(model)
    _refuse_quantized(base)
    backbone = load_backbone(model, base=base, dtype=dtype)
    merged = backbone.model.merge_and_unload(safe_merge=True)  # which refuses weights that are not finite
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary, output.name)
        merged.save_pretrained(folder)
        backbone.processor.save_pretrained(folder)
        for name in (CRITIC_CONFIG, CRITIC_WEIGHTS, FILTER_STATE):
            if (file := find_file(model, name)) is not None:
                shutil.copy(file, folder)
        for name in (PROMPT_FILE, ENVIRONMENT_FILE):
            if (record := load_record(model, name)) is not None:
                save_record(record, folder, name)
        os.replace(folder, output)


def _refuse_quantized(base: str) -> None:
    with hub_errors("Loading", base):
        config = PreTrainedConfig.get_config_dict(base)[0]
    if config.get("quantization_config"):
        raise ValueError(
            f"The base {base} is stored in {_how(config['quantization_config'])}. Weights that are rounded so coarsely cannot "
            "take up what an adapter changes: load the base in full precision, by naming the model that it was made from "
            "as `base`."
        )


def _how(quantization: dict) -> str:
    for bits in (4, 8):
        if quantization.get(f"load_in_{bits}bit") or quantization.get("bits") == bits:
            return f"{bits} bits"
    return f"low precision ({quantization.get('quant_method', 'quantised')})"

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Convert a published xGen-MM r-v1.5 checkpoint, once:

    python -m trl_vlmq.backbones.xgen_mm.convert SRC DST [--dtype bfloat16]

SRC is a folder with the files of the published repository, e.g. `Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5`
(config.json, the safetensors, the tokenizer; none of its code is run). DST is loaded by
`trl_vlmq.load_backbone(DST)`. The whole checkpoint is held in memory once, in the dtype asked for.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import LlamaTokenizer

from ..safetensors_folder import SafetensorsFolder
from .conversion import convert_config, convert_state_dict, make_processor
from .modeling import XGenMMForConditionalGeneration


def convert_checkpoint(source: str | Path, destination: str | Path, dtype: torch.dtype | None = None) -> None:
    """Read a published checkpoint and write a model and a processor that transformers loads.

    Args:
        source (`str` or `Path`):
            Folder of the published files.
        destination (`str` or `Path`):
            Folder to write.
        dtype (`torch.dtype`, *optional*):
            Of the weights; by default as stored.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files are not those of an xGen-MM r-v1.5; the message names what does not fit.
    """
    config = convert_config(json.loads((Path(source) / "config.json").read_text(encoding="utf-8")))
    # Without a space before text that stands alone, as an action does: in a conversation it follows `<|assistant|>`.
    processor = make_processor(LlamaTokenizer.from_pretrained(source, add_prefix_space=False), config)
    with SafetensorsFolder(source, dtype) as published:
        weights = convert_state_dict(published, config)
    with torch.device("meta"):
        model = XGenMMForConditionalGeneration(config)
    model.load_state_dict(weights, assign=True)
    model.generation_config.eos_token_id = [
        config.text_config.eos_token_id,
        processor.tokenizer.convert_tokens_to_ids("<|end|>"),
    ]
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    model.save_pretrained(destination)
    processor.save_pretrained(destination)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of the published checkpoint")
    parser.add_argument("destination", help="folder to write")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights; as stored if left out"
    )
    arguments = parser.parse_args()
    convert_checkpoint(
        arguments.source, arguments.destination, getattr(torch, arguments.dtype) if arguments.dtype else None
    )


if __name__ == "__main__":
    main()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Convert a published xGen-MM r-v1.5 checkpoint, once:

    python -m trl_vlmq.backbones.xgen_mm.convert SRC DST [--dtype bfloat16]

SRC is a folder with the files of the published repository, e.g. `Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5`
(config.json, the safetensors, the tokenizer; none of its code is run). DST is loaded by
`trl_vlmq.load_backbone(DST)`. The whole checkpoint is held in memory once, in the dtype asked for.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import LlamaTokenizer

from .conversion import convert_config, convert_state_dict, make_processor
from .modeling import XGenMMForConditionalGeneration


class SafetensorsFolder(Mapping):
    """The tensors of a checkpoint by name, in one file or several, each read when asked for.

    Args:
        folder (`str` or `Path`):
            Where the files are.
        dtype (`torch.dtype`, *optional*):
            Of the tensors; by default as stored.

    Raises:
        FileNotFoundError: if there are no safetensors, or one that the index names is missing.
    """

    def __init__(self, folder: str | Path, dtype: torch.dtype | None = None):
        folder, self.dtype, self._stack, self._file_of = Path(folder), dtype, ExitStack(), {}
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        else:
            files = sorted(path.name for path in folder.glob("*.safetensors"))
        missing = [file for file in files if not (folder / file).is_file()]
        if missing or not files:
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing) or 'safetensors files'}.")
        for file in files:
            handle = self._stack.enter_context(safe_open(folder / file, framework="pt"))
            self._file_of |= dict.fromkeys(handle.keys(), handle)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file_of[name].get_tensor(name).to(self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def __enter__(self) -> "SafetensorsFolder":
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()


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

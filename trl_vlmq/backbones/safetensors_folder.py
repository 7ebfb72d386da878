# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The tensors of a published checkpoint, read when they are asked for."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open


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

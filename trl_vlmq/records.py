# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Small JSON records that travel with episodes (in the metadata of their files) and with agents (beside their weights)."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from .hub import find_file


def records_in_files(path: str | Path, key: str) -> list[Any]:
    """The different records under a key in a Parquet file or a folder of them; `None` stands for files without one."""
    path = Path(path)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    found = dict.fromkeys((pq.read_schema(file).metadata or {}).get(key.encode()) for file in files)
    return [None if record is None else json.loads(record) for record in found]


def save_record(record: dict[str, Any], folder: str | Path, name: str) -> None:
    """Write a record beside an agent."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, name).write_text(json.dumps(record, indent=2) + "\n")


def load_record(name_or_path: str, name: str) -> Any | None:
    """What [`save_record`] wrote beside an agent (a checkpoint's stands one folder up), `None` if nothing did.

    Args:
        name_or_path (`str`):
            Folder or Hub id of a model or adapter.
        name (`str`):
            Name of the file.
    """
    file = find_file(name_or_path, name)
    if file is None and os.path.isdir(name_or_path):
        folder = Path(name_or_path).resolve()
        if folder.name.startswith("checkpoint-"):
            file = find_file(str(folder.parent), name)
    return None if file is None else json.loads(file.read_text())

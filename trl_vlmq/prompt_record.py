# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How the prompts of logs were made goes with the logs and with the agent trained on them.

An agent must be asked in play as it was asked in training. So the settings of the [`PromptBuilder`] stand in the
metadata of the Parquet file (they cannot get lost or be mixed up) and in `prompt.json` beside the adapter.
"""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from .envs import PromptBuilder


PROMPT_FILE = "prompt.json"
_KEY = "trl_vlmq.prompt"


def prompt_metadata(builder: PromptBuilder) -> dict[str, str]:
    """What [`save_episodes`] shall record in the file."""
    return {_KEY: json.dumps(builder.to_dict())}


def prompt_of_episodes(path: str | Path) -> PromptBuilder | None:
    """How the prompts of a Parquet file, or of a folder of them, were made; `None` if it is not recorded.

    Raises:
        ValueError: if the files of the folder differ in it.
    """
    path = Path(path)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    found = {(pq.read_schema(file).metadata or {}).get(_KEY.encode()) for file in files}
    if len(found) > 1:
        raise ValueError(f"The files in {path} record different prompt settings; an agent needs one way to be asked.")
    record = found.pop() if found else None
    return None if record is None else PromptBuilder.from_dict(json.loads(record))


def agree_on_prompt(recorded: PromptBuilder | None, history: int | None) -> PromptBuilder:
    """The builder to use, from what is recorded and the `history` that somebody asked for, if anybody did.

    Raises:
        ValueError: if the two differ.
    """
    if recorded is None:
        return PromptBuilder(history=history or 0)
    if history not in (None, recorded.history):
        raise ValueError(
            f"history={history}, but the prompts were made with history={recorded.history}, as is recorded with them; "
            "leave history out."
        )
    return recorded


def save_prompt(builder: PromptBuilder, folder: str | Path) -> None:
    """Write `prompt.json` beside an agent."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, PROMPT_FILE).write_text(json.dumps(builder.to_dict(), indent=2) + "\n")


def load_prompt(name_or_path: str) -> PromptBuilder | None:
    """What [`save_prompt`] wrote beside an agent (a checkpoint's stands one folder up), `None` if nothing did.

    Args:
        name_or_path (`str`):
            Folder or Hub id of a model or adapter.
    """
    if os.path.isdir(name_or_path):
        folder = Path(name_or_path).resolve()
        if folder.name.startswith("checkpoint-") and not (folder / PROMPT_FILE).is_file():
            folder = folder.parent
        file = folder / PROMPT_FILE
        if not file.is_file():
            return None
    else:
        try:
            file = Path(hf_hub_download(name_or_path, PROMPT_FILE))
        except EntryNotFoundError:
            return None
    return PromptBuilder.from_dict(json.loads(file.read_text()))

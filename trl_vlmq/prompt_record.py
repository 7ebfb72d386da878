# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How the prompts of logs were made goes with the logs and with the agent trained on them.

An agent must be asked in play as it was asked in training. So the settings of the [`PromptBuilder`] stand in the
metadata of the Parquet file (they cannot get lost or be mixed up) and in `prompt.json` beside the adapter.
"""

import json
from pathlib import Path

from .envs import PromptBuilder
from .records import load_record, records_in_files, save_record


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
    found = records_in_files(path, _KEY)
    if len(found) > 1:
        raise ValueError(f"The files in {path} record different prompt settings; an agent needs one way to be asked.")
    return None if not found or found[0] is None else PromptBuilder.from_dict(found[0])


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
    save_record(builder.to_dict(), folder, PROMPT_FILE)


def load_prompt(name_or_path: str) -> PromptBuilder | None:
    """What [`save_prompt`] wrote beside an agent, `None` if nothing did.

    Args:
        name_or_path (`str`):
            Folder or Hub id of a model or adapter.
    """
    record = load_record(name_or_path, PROMPT_FILE)
    return None if record is None else PromptBuilder.from_dict(record)

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which checkpoint to go on from."""

import json
import logging
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME


logger = logging.getLogger(__name__)


def newest_checkpoint(output_dir: str | Path) -> str | None:
    """
    The newest complete checkpoint of a run; `None` if there is none.

    A process that is killed while it saves leaves a checkpoint without its last file, `trainer_state.json`, or with a
    part of it. Such a one is passed over.

    Args:
        output_dir (`str` or `Path`):
            Output folder of the run.
    """
    numbered = {
        int(folder.name.removeprefix("checkpoint-")): folder
        for folder in Path(output_dir).glob("checkpoint-*")
        if folder.name.removeprefix("checkpoint-").isdigit()
    }
    for _, folder in sorted(numbered.items(), reverse=True):
        try:
            json.loads((folder / TRAINER_STATE_NAME).read_text())
        except (OSError, ValueError):
            logger.warning("%s is incomplete: whoever saved it was interrupted. Going on from the one before.", folder)
        else:
            return str(folder)
    return None

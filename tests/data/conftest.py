# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from trl_vlmq.episodes import dataset_to_episodes
from trl_vlmq.importing import FieldMapping, import_logs
from trl_vlmq.storage import load_episodes


class LogFolder:
    """A folder with a log and its images."""

    def __init__(self, folder: Path):
        self.folder = folder

    def image(self, name: str = "a.png", color: int = 0, mode: str = "RGB") -> str:
        """Write an image of one colour; its name."""
        pixels = np.full((4, 6, 3), color, dtype=np.uint8)
        PIL.Image.fromarray(pixels).convert(mode).save(self.folder / name)
        return name

    def write(self, *lines: dict | str, name: str = "log.jsonl") -> Path:
        """Write a log; a string is a line as it is."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        return path

    def run(self, *lines: dict | str, strict: bool = False, overwrite: bool = True, **mapping):
        """Import a log; the report."""
        log = self.write(*lines)
        return import_logs(
            log,
            self.folder / "episodes.parquet",
            mapping=FieldMapping(**mapping),
            strict=strict,
            overwrite=overwrite,
        )

    def episodes(self) -> dict:
        """What was imported, by id."""
        dataset = load_episodes(self.folder / "episodes.parquet")
        return {episode.episode_id: episode for episode in dataset_to_episodes(dataset)}


@pytest.fixture
def log_folder(tmp_path) -> LogFolder:
    return LogFolder(tmp_path)

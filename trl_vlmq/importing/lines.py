# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The lines of JSONL files, one at a time, each knowing where it stands."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .problems import LogProblem


@dataclass
class Line:
    """
    One line of a log.

    Args:
        where (`str`):
            `"file:line"`.
        record (`dict`):
            What it says; empty if it cannot be read.
        problem ([`LogProblem`], *optional*):
            Why it cannot be read.
    """

    where: str
    record: dict[str, Any]
    problem: LogProblem | None = None


class Log:
    """
    A JSONL file, plain or compressed with gzip (`.gz`).

    Args:
        path (`Path`):
            The file.
        label (`str`):
            What it is called in messages.
        prefix (`str`):
            What the ids of its episodes are prefixed with, so that they are unique among several files.
    """

    def __init__(self, path: Path, label: str, prefix: str):
        self.path = path
        self.label = label
        self.prefix = prefix

    def lines(self, label: str) -> Iterator[Line]:
        """Its lines but the blank ones, with a progress bar of that label on a terminal."""
        size = self.path.stat().st_size
        with (
            open(self.path, "rb") as raw,
            tqdm(total=size, desc=f"{label} {self.path.name}", unit="B", unit_scale=True, disable=None) as bar,
        ):
            file = gzip.GzipFile(fileobj=raw) if self.path.suffix == ".gz" else raw
            number = 0
            try:
                for number, text in enumerate(file, start=1):
                    bar.update(raw.tell() - bar.n)
                    if text.strip():
                        yield _line(f"{self.label}:{number}", text)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                problem = LogProblem(
                    "(line)", "the compressed file is damaged from here on", "copy it again", str(error)
                )
                yield Line(f"{self.label}:{number + 1}", {}, problem)


def open_logs(paths: Sequence[str | Path]) -> list[Log]:
    """
    The files of an import.

    Args:
        paths (`Sequence[str or Path]`):
            At least one.

    Returns:
        `list[Log]`: the episodes of one file keep their ids; those of several are prefixed with the part of the path
        in which the files differ, `worker0/log.jsonl:17`.

    Raises:
        FileNotFoundError: If one of them is not a file.
    """
    files = [Path(path) for path in paths]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"There is no log file {str(file)!r}.")
    if len(files) == 1:
        return [Log(files[0], files[0].name, "")]
    resolved = [file.resolve() for file in files]
    if len(set(resolved)) < len(resolved):
        raise ValueError("A log file is given twice.")
    common = os.path.commonpath([file.parent for file in resolved])
    names = [file.relative_to(common).as_posix() for file in resolved]
    return [Log(file, name, f"{name}:") for file, name in zip(files, names, strict=True)]


def _line(where: str, text: bytes) -> Line:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        cure = "write one complete JSON object a line"
        return Line(where, {}, LogProblem("(line)", "is not JSON", cure, str(error)[:120]))
    if not isinstance(record, dict):
        cure = "write one JSON object a line"
        return Line(where, {}, LogProblem("(line)", "is not a JSON object", cure, f"a {type(record).__name__}"))
    return Line(where, record)

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which tasks there are: every page that `miniwob` ships, listed without importing it or a browser."""

import difflib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def page_folder() -> Path | None:
    """The folder of the pages, or `None` if `miniwob` is not installed."""
    spec = importlib.util.find_spec("miniwob")
    return None if spec is None else Path(spec.submodule_search_locations[0], "html", "miniwob")


@cache
def task_names() -> tuple[str, ...]:
    """All tasks, sorted; none if `miniwob` is not installed."""
    folder = page_folder()
    return () if folder is None else tuple(sorted(path.stem for path in folder.glob("*.html")))


def check_tasks(task: str | Iterable[str]) -> tuple[str, ...]:
    """
    One task or several as a tuple.

    Raises:
        ImportError: `miniwob` is not installed.
        ValueError: there is no such task, or none at all.
    """
    if page_folder() is None:
        raise ImportError("MiniWoB++ needs its pages: pip install 'trl_vlmq[miniwob]'.")
    tasks = (task,) if isinstance(task, str) else tuple(task)
    if not tasks:
        raise ValueError("task=() names no task: give one or several of trl_vlmq.envs.miniwob.tasks.task_names().")
    for name in tasks:
        if name not in task_names():
            close = difflib.get_close_matches(str(name), task_names(), n=3)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "task_names() lists them."
            raise ValueError(f"task={name!r} is not one of the {len(task_names())} tasks of miniwob: {hint}")
    return tasks

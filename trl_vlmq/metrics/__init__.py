# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Metrics as `evaluate` modules. They lie in the package, so loading one needs no network."""

from pathlib import Path

import evaluate


METRICS = ("success_rate", "action_syntax_accuracy", "episode_return", "episode_length")


def metric_path(name: str) -> str:
    """
    Where a metric lies, for `evaluate.load` and `evaluate.combine`.

    Args:
        name (`str`):
            `"success_rate"`, `"action_syntax_accuracy"`, `"episode_return"` or `"episode_length"`.

    Returns:
        `str`: a directory.

    Raises:
        ValueError: If there is no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"There is no metric {name!r}; choose one of {', '.join(METRICS)}.")
    return str(Path(__file__).parent / name)


def load_metric(name: str) -> evaluate.EvaluationModule:
    """
    Load a metric that keeps what it is given in memory, so that runs side by side do not wait for each other's files.

    Args:
        name (`str`):
            As for [`metric_path`].

    Returns:
        `evaluate.EvaluationModule`: use it as `metric.compute(predictions=...)`.
    """
    return evaluate.load(metric_path(name), keep_in_memory=True)

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Policies that play several tasks, task by task: a table and a figure."""

from collections.abc import Mapping
from pathlib import Path

from trl_vlmq.evaluation import EvaluationResult

from .comparison import policy_color


MARKERS = "os^Dv"  # policies of one objective have one colour


def environment_table(results: Mapping[str, EvaluationResult]) -> str:
    """A Markdown table of success with its 95% Wilson interval, one row per environment, one column per policy.

    Args:
        results (`Mapping[str, EvaluationResult]`):
            Name of each policy -> its evaluation.
    """
    columns = {name: result.by_environment() for name, result in results.items()}
    rows = [f"| environment | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for env_id in _environments(columns):
        cells = [_cell(column[env_id]) if env_id in column else "" for column in columns.values()]
        rows.append(f"| {short_name(env_id)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def plot_environments(path: str | Path, results: Mapping[str, EvaluationResult], title: str) -> None:
    """Write a figure (PNG, SVG, ... by its suffix): success of each policy in each environment.

    Args:
        path (`str` or `Path`):
            File to write.
        results (`Mapping[str, EvaluationResult]`):
            Name of each policy -> its evaluation.
        title (`str`):
            Headline.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = {name: result.by_environment() for name, result in results.items()}
    environments = _environments(columns)[::-1]
    figure = Figure(figsize=(8, 1.5 + 0.45 * len(environments)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, (name, column) in enumerate(columns.items()):
        shift = 0.5 * (0.5 - (i + 0.5) / len(columns))
        heights = [height + shift for height, env_id in enumerate(environments) if env_id in column]
        found = [column[env_id] for env_id in environments if env_id in column]
        rates = [100 * result.success_rate for result in found]
        bounds = [result.success_interval for result in found]
        errors = [
            [max(0.0, rate - 100 * low) for rate, (low, _) in zip(rates, bounds, strict=True)],
            [max(0.0, 100 * high - rate) for rate, (_, high) in zip(rates, bounds, strict=True)],
        ]
        axes.errorbar(
            rates, heights, xerr=errors, fmt=MARKERS[i % len(MARKERS)], markersize=5, capsize=2, linewidth=1.2, label=name,
            color=policy_color(name), clip_on=False,
        )  # fmt: skip
    axes.set_yticks(range(len(environments)), [short_name(env_id) for env_id in environments])
    axes.set(xlabel="success, % (95% Wilson interval)", xlim=(0, 100), ylim=(-0.6, len(environments) - 0.4))
    figure.suptitle(title)
    axes.grid(axis="x", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(columns), frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def short_name(env_id: str) -> str:
    """`"MiniWoB-login-user"` of `"trl_vlmq/MiniWoB-login-user-v0"`."""
    return env_id.rpartition("/")[2].removesuffix("-v0")


def _environments(columns: Mapping[str, Mapping[str, EvaluationResult]]) -> list[str]:
    return sorted({env_id for column in columns.values() for env_id in column})


def _cell(result: EvaluationResult) -> str:
    low, high = result.success_interval
    return f"{result.success_rate:.1%} ({low:.1%} to {high:.1%})"

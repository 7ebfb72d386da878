# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Policies side by side: a table, and a figure of learning curves and final success rates."""

from collections.abc import Mapping
from pathlib import Path

from trl_vlmq.evaluation import EvaluationResult


COLORS = {
    "sft": "#7f8c9b",
    "afsft": "#c8442b",
    "random_filter": "#8d6cab",
    "epg": "#d99a2b",
    "awr": "#4f9a6b",
    "offline": "#dd9a8a",
    "online": "#2b6a99",
}


def comparison_table(results: Mapping[str, EvaluationResult]) -> str:
    """A Markdown table, one row per policy.

    Args:
        results (`Mapping[str, EvaluationResult]`):
            Name of each policy -> its evaluation.
    """
    rows = [
        "| policy | success | 95% interval | return | syntax | turns | episodes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        numbers = result.summary()
        rows.append(
            f"| {name} | {numbers['success_rate']:.1%} | {numbers['success_low']:.1%} to {numbers['success_high']:.1%} "
            f"| {numbers['mean_return']:.3f} | {numbers['syntax_accuracy']:.1%} | {numbers['mean_length']:.1f} "
            f"| {numbers['episodes']} |"
        )
    return "\n".join(rows)


def plot_comparison(
    path: str | Path,
    results: Mapping[str, EvaluationResult],
    curves: Mapping[str, list[tuple[int, float, float, float]]],
    title: str,
    switch_on: int | None = None,
    switch_label: str = "filter starts",
) -> None:
    """Write a figure (PNG, SVG, ... by its suffix): learning curves on the left, final success on the right.

    Args:
        path (`str` or `Path`):
            File to write.
        results (`Mapping[str, EvaluationResult]`):
            Name of each policy -> its final evaluation.
        curves (`Mapping[str, list]`):
            Name of each training run -> (optimiser step, success rate, low, high) of each evaluation on the way.
        title (`str`):
            Headline.
        switch_on (`int`, *optional*):
            Step to mark in the curves.
        switch_label (`str`, *optional*, defaults to `"filter starts"`):
            What happens there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    for name, points in curves.items():
        steps, rate, low, high = zip(*points, strict=True)
        color = policy_color(name)
        (line,) = left.plot(
            steps, [100 * r for r in rate], marker="o", markersize=4, label=name.upper().replace("_", " "), color=color,
            clip_on=False,
        )  # fmt: skip
        left.fill_between(
            steps, [100 * x for x in low], [100 * x for x in high], alpha=0.15, color=line.get_color(), linewidth=0
        )
    if switch_on is not None:
        left.axvline(switch_on, color="#444444", linewidth=0.8, linestyle=":")
        left.annotate(switch_label, (switch_on, 2), textcoords="offset points", xytext=(4, 0), fontsize=8)
    left.set(xlabel="optimiser step", ylabel="success, % (band: 95%)", ylim=(0, 100), title="while training (sampled)")
    if curves:
        left.legend(loc="upper left", framealpha=0.9, edgecolor="none")
    names = list(results)[::-1]
    for i, name in enumerate(names):
        result = results[name]
        low, high = result.success_interval
        rate = result.success_rate
        right.barh(i, 100 * rate, color=policy_color(name) or "#c9c2b4", height=0.7)
        right.errorbar(
            100 * rate, i, xerr=[[100 * max(0.0, rate - low)], [100 * max(0.0, high - rate)]],
            color="black", capsize=3, linewidth=1,
        )  # fmt: skip
        right.annotate(
            f"{rate:.0%}", (100 * high, i), textcoords="offset points", xytext=(5, 0), va="center", fontsize=9
        )
    right.set_yticks(range(len(names)), names)
    episodes = sorted({len(result.success) for result in results.values()})
    right.set(
        xlabel="success, % (95% Wilson interval)", xlim=(0, 110),
        title=f"held-out episodes ({' / '.join(map(str, episodes))} each)",
    )  # fmt: skip
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def policy_color(name: str) -> str | None:
    """Colour of a policy by the objective that its name begins with."""
    return next((color for key, color in COLORS.items() if name.lower().startswith(key)), None)

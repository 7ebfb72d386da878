# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""One look at a critic: Q of tokens in and outside of the data, and Q against returns."""

import textwrap
from pathlib import Path

import numpy as np

from .return_calibration import ReturnCalibration
from .token_calibration import TokenCalibration


COLORS = {"taken": "#2b6a99", "elsewhere": "#d99a2b", "never": "#9aa3ad"}
LABELS = {
    "taken": "the data's token",
    "elsewhere": "tokens that the data holds elsewhere",
    "never": "tokens that never occur",
}


def plot_calibration(
    path: str | Path, tokens: TokenCalibration, returns: ReturnCalibration | None = None, title: str = "The critic"
) -> None:
    """Write a figure (PNG, SVG, ... by its suffix): distributions of Q on the left, the reliability curve on the right.

    Args:
        path (`str` or `Path`):
            File to write.
        tokens ([`TokenCalibration`]):
            From [`calibrate_tokens`].
        returns ([`ReturnCalibration`], *optional*):
            From [`calibrate_returns`].
        title (`str`, *optional*, defaults to `"The critic"`):
            Headline.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11 if returns is not None else 6, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, 2 if returns is not None else 1))
    groups = {name: getattr(tokens, name).ravel() for name in COLORS}
    groups = {name: q for name, q in groups.items() if q.size}
    low, high = np.quantile(np.concatenate(list(groups.values())), [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 60)
    tallest = {}
    for name, q in groups.items():
        density, _, _ = panels[0].hist(
            np.clip(q, edges[0], edges[-1]), edges, density=True, alpha=0.55, color=COLORS[name], label=LABELS[name]
        )
        tallest[name] = density.max()
    # Values that nothing has trained are often all the same; their spike may leave the picture.
    panels[0].set_ylim(0, 1.3 * max(tallest[name] for name in tallest if name != "never"))
    panels[0].set(xlabel="Q", ylabel="density", title="tokens of held-out actions, and others in their place")
    panels[0].legend(frameon=False, fontsize=9)
    _say(panels[0], tokens.verdict())
    if returns is not None:
        _plot_returns(panels[1], returns)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _plot_returns(axes, returns: ReturnCalibration) -> None:
    q, mean, low, high = np.array(returns.curve()).T
    shown = np.isfinite(low)  # one turn alone has no interval
    error = np.where(shown, [mean - low, high - mean], 0.0)
    ends = [min(q.min(), mean.min()), max(q.max(), mean.max())]
    axes.plot(ends, ends, color="#444444", linewidth=0.8, linestyle=":", label="Q = return")
    axes.errorbar(
        q, mean, yerr=error, fmt="o-", markersize=5, capsize=3, color=COLORS["taken"], label="tenths of the turns"
    )
    axes.set(xlabel="mean Q", ylabel="mean return from there on (bars: 95%)", title="the policy's own episodes")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    _say(axes, returns.verdict())


def _say(axes, sentence: str) -> None:
    text = "\n".join(textwrap.wrap(sentence, 74))
    axes.annotate(text, (0.5, -0.16), xycoords="axes fraction", ha="center", va="top", fontsize=8.5, color="#333333")

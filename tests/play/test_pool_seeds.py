# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Pooling training seeds: every episode counts, and what does not belong together is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


SCRIPT = Path(__file__).parents[2] / "examples" / "pool_seeds.py"


def write_run(folder: Path, seed: int, success: dict[str, np.ndarray], steps: int = 10) -> Path:
    """What examples/train_babyai.py leaves of a run."""
    folder.mkdir()
    curves = {name.split(" ")[0]: [[0, 0.1, 0.0, 0.3], [steps, 0.5, 0.3, 0.7]] for name in success}
    summary = {
        "task": "BabyAI-GoTo",
        "seed": seed,
        "steps": steps,
        "curves": curves,
        "logs": {"all": {"success": 0.25}},
    }
    (folder / "results.json").write_text(json.dumps(summary))
    arrays = {}
    for name, outcome in success.items():
        fields = {"success": outcome, "returns": outcome.astype(float)}
        fields |= {"lengths": np.full(len(outcome), 4), "valid_actions": np.full(len(outcome), 3)}
        fields["env_ids"] = np.full(len(outcome), "trl_vlmq/BabyAI-GoTo-v0")
        arrays |= {f"{name}|{field}": values for field, values in fields.items()}
    np.savez_compressed(folder / "outcomes.npz", **arrays)
    return folder


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_the_pooled_rates_and_difference_are_those_of_all_episodes(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{method} ({how})" for method in ("sft", "afsft") for how in ("greedy", "sampled")]
    draws = {seed: {n: rng.random(200) < (0.8 if "afsft" in n else 0.3) for n in names} for seed in (0, 1)}
    whole = write_run(tmp_path / "whole", 0, draws[0])
    # The second seed's methods were trained apart.
    parts = [
        write_run(tmp_path / method, 1, {n: s for n, s in draws[1].items() if n.startswith(method)})
        for method in ("sft", "afsft")
    ]
    result = run(whole, *parts, "--figure", tmp_path / "figure.png")
    assert result.returncode == 0, result.stderr
    for name in names:
        both = np.concatenate([draws[0][name], draws[1][name]])
        row = next(line for line in result.stdout.splitlines() if line.startswith(f"| {name} "))
        assert f"| {both.mean():.1%} |" in row and "| 400 |" in row and "| 75.0% |" in row
    for how in ("greedy", "sampled"):
        gaps = [draws[s][f"afsft ({how})"].mean() - draws[s][f"sft ({how})"].mean() for s in (0, 1)]
        found = re.search(
            rf"afsft - sft, {how}: \+([\d.]+)% \(paired bootstrap 95%: \+([\d.]+)% to \+([\d.]+)%", result.stdout
        )
        difference, low, high = map(float, found.groups())
        assert difference == pytest.approx(100 * np.mean(gaps), abs=0.06)
        each = np.mean([draws[s][f"afsft ({how})"] * 1.0 - draws[s][f"sft ({how})"] for s in (0, 1)], axis=0)
        half = 196 * each.std(ddof=1) / np.sqrt(200)
        assert low == pytest.approx(difference - half, abs=1) and high == pytest.approx(difference + half, abs=1)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_runs_of_different_length_are_not_pooled(tmp_path):
    outcome = {f"{m} ({how})": np.ones(5, bool) for m in ("sft", "afsft") for how in ("greedy", "sampled")}
    a, b = write_run(tmp_path / "a", 0, outcome), write_run(tmp_path / "b", 1, outcome, steps=20)
    result = run(a, b)
    assert result.returncode == 2 and "different experiments" in result.stderr


def test_a_policy_that_not_every_seed_has_is_left_out(tmp_path):
    afsft = {f"afsft ({how})": np.ones(5, bool) for how in ("greedy", "sampled")}
    sft = {f"sft ({how})": np.zeros(5, bool) for how in ("greedy", "sampled")}
    a, b = write_run(tmp_path / "a", 0, afsft | sft), write_run(tmp_path / "b", 1, afsft)
    result = run(a, b)
    assert result.returncode == 0 and "| afsft (greedy) | 100.0% |" in result.stdout
    assert "| sft (greedy)" not in result.stdout
    c = write_run(tmp_path / "c", 2, sft)
    result = run(b, c)
    assert result.returncode == 2 and "no policy in common" in result.stderr

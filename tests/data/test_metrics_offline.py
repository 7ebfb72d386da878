# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The metrics load and compute on a machine without network and with empty caches."""

import os
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest

import trl_vlmq.metrics
from trl_vlmq.metrics import METRICS, load_metric, metric_path
from trl_vlmq.statistics import mean_interval, wilson_interval


def test_rates_come_with_wilson_intervals():
    low, high = wilson_interval(3, 4)
    outcomes = [True, True, False, True]
    assert load_metric("success_rate").compute(predictions=outcomes) == {
        "success_rate": 0.75,
        "low": low,
        "high": high,
        "episodes": 4,
    }
    syntax = load_metric("action_syntax_accuracy").compute(predictions=outcomes, confidence=0.5)
    assert syntax["action_syntax_accuracy"] == 0.75
    assert (syntax["low"], syntax["high"]) == wilson_interval(3, 4, 0.5)
    assert syntax["actions"] == 4


def test_returns_and_lengths_come_with_mean_intervals():
    returns = [1.0, -1.0, 0.0, 1.0]
    mean, low, high = mean_interval(returns)
    assert load_metric("episode_return").compute(predictions=returns) == {
        "episode_return": mean,
        "low": low,
        "high": high,
        "episodes": 4,
    }
    assert load_metric("episode_length").compute(predictions=[3, 5, 4, 4])["episode_length"] == 4.0


def test_results_can_be_added_batch_by_batch():
    metric = load_metric("success_rate")
    metric.add_batch(predictions=[True, True])
    metric.add_batch(predictions=[False, True])
    assert metric.compute()["success_rate"] == 0.75


def test_metrics_of_the_same_inputs_combine():
    both = evaluate.combine([metric_path("success_rate"), metric_path("action_syntax_accuracy")])
    result = both.compute(predictions=[True, False])
    assert result["success_rate"] == result["action_syntax_accuracy"] == 0.5
    assert result["episodes"] == result["actions"] == 2


def test_an_unknown_metric_is_named_with_the_choices():
    with pytest.raises(ValueError, match="no metric 'succes_rate'; choose one of success_rate"):
        metric_path("succes_rate")


def test_every_metric_loads_in_a_fresh_process_without_network(tmp_path):
    root = Path(trl_vlmq.metrics.__file__).parents[2]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "PYTHONPATH": str(root),
        # any attempt to reach a hub ends at once
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    code = (
        "import evaluate; from trl_vlmq.metrics import METRICS, metric_path\n"
        "for name in METRICS: print(evaluate.load(metric_path(name)).compute(predictions=[1, 1])[name])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1.0"] * len(METRICS)

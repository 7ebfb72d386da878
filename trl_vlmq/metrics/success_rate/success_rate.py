# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Share of episodes that succeeded."""

import datasets
import evaluate

from trl_vlmq.statistics import wilson_interval


_DESCRIPTION = """
Share of episodes that succeeded, with Wilson's score interval.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[bool]`): Whether each episode succeeded.
    confidence (`float`, *optional*, defaults to 0.95): Probability with which the interval covers the true value.
Returns:
    `dict`: `success_rate` (from 0 to 1), the ends `low` and `high` of its confidence interval, and the number of `episodes`.
Examples:
    >>> metric = evaluate.load(trl_vlmq.metrics.metric_path("success_rate"))
    >>> metric.compute(predictions=[True, True, False, True])["success_rate"]
    0.75
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SuccessRate(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("bool")}),
        )

    def _compute(self, predictions, confidence=0.95):
        successes = sum(predictions)
        low, high = wilson_interval(successes, len(predictions), confidence)
        return {
            "success_rate": successes / len(predictions),
            "low": low,
            "high": high,
            "episodes": len(predictions),
        }

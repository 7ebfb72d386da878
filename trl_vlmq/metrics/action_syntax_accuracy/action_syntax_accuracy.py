# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Share of actions the environment could read."""

import datasets
import evaluate

from trl_vlmq.statistics import wilson_interval


_DESCRIPTION = """
Share of generated actions that the environment could read, with Wilson's score interval. The interval takes
actions for independent; those of one episode are alike, so it is on the narrow side.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[bool]`): Whether each action was valid, `info["action_is_valid"]` of every turn.
    confidence (`float`, *optional*, defaults to 0.95): Probability with which the interval covers the true value.
Returns:
    `dict`: `action_syntax_accuracy` (from 0 to 1), the ends `low` and `high` of its confidence interval, and the number of `actions`.
Examples:
    >>> metric = evaluate.load(trl_vlmq.metrics.metric_path("action_syntax_accuracy"))
    >>> metric.compute(predictions=[True, True, False, True])["action_syntax_accuracy"]
    0.75
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ActionSyntaxAccuracy(evaluate.Metric):
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
            "action_syntax_accuracy": successes / len(predictions),
            "low": low,
            "high": high,
            "actions": len(predictions),
        }

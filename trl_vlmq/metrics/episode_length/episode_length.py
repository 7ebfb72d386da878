# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Mean number of turns of an episode."""

import datasets
import evaluate

from trl_vlmq.statistics import mean_interval


_DESCRIPTION = """
Mean number of turns of an episode, with an interval by the normal approximation.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[int]`): Number of turns of each episode.
    confidence (`float`, *optional*, defaults to 0.95): Probability with which the interval covers the true value.
Returns:
    `dict`: `episode_length` (in turns), the ends `low` and `high` of its confidence interval, and the number of `episodes`.
Examples:
    >>> metric = evaluate.load(trl_vlmq.metrics.metric_path("episode_length"))
    >>> metric.compute(predictions=[3, 5, 4, 4])["episode_length"]
    4.0
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EpisodeLength(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64")}),
        )

    def _compute(self, predictions, confidence=0.95):
        mean, low, high = mean_interval(predictions, confidence)
        return {"episode_length": mean, "low": low, "high": high, "episodes": len(predictions)}

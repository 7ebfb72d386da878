# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Mean undiscounted return of an episode."""

import datasets
import evaluate

from trl_vlmq.statistics import mean_interval


_DESCRIPTION = """
Mean undiscounted return of an episode, with an interval by the normal approximation.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[float]`): Sum of the rewards of each episode.
    confidence (`float`, *optional*, defaults to 0.95): Probability with which the interval covers the true value.
Returns:
    `dict`: `episode_return` (in the environment's rewards), the ends `low` and `high` of its confidence interval, and the number of `episodes`.
Examples:
    >>> metric = evaluate.load(trl_vlmq.metrics.metric_path("episode_return"))
    >>> metric.compute(predictions=[1.0, -1.0, 0.0, 1.0])["episode_return"]
    0.25
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EpisodeReturn(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("float64")}),
        )

    def _compute(self, predictions, confidence=0.95):
        mean, low, high = mean_interval(predictions, confidence)
        return {"episode_return": mean, "low": low, "high": high, "episodes": len(predictions)}

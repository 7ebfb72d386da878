# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Tables and figures for people, and whether the critic can be trusted."""

from trl_vlmq.signatures import SIGNS, FailureSignatureCallback

from .action_ranking import ActionRanking, action_values, rank_actions
from .by_environment import environment_table, plot_environments
from .calibration_figure import plot_calibration
from .comparison import comparison_table, plot_comparison
from .filtering import FilterReport, report_filter
from .return_calibration import ReturnCalibration, calibrate_returns
from .token_calibration import TokenCalibration, calibrate_tokens


__all__ = [
    "SIGNS",
    "ActionRanking",
    "FailureSignatureCallback",
    "FilterReport",
    "ReturnCalibration",
    "TokenCalibration",
    "action_values",
    "calibrate_returns",
    "calibrate_tokens",
    "comparison_table",
    "environment_table",
    "plot_calibration",
    "plot_comparison",
    "plot_environments",
    "rank_actions",
    "report_filter",
]

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Tables and figures for people, and whether the critic can be trusted."""

from .action_ranking import ActionRanking, rank_actions
from .comparison import comparison_table, plot_comparison
from .filtering import filter_by_behavior


__all__ = ["ActionRanking", "comparison_table", "filter_by_behavior", "plot_comparison", "rank_actions"]

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Tables and figures for people."""

from .comparison import comparison_table, plot_comparison


__all__ = ["comparison_table", "plot_comparison"]

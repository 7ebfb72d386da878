# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How much memory training takes, before it is begun."""

from .setups import LAUNCHES, PARTS, TUNINGS, MemoryEstimate, estimate_memory
from .shapes import PRESETS
from .step import StepMemory, TurnShape, trace_step


__all__ = [
    "LAUNCHES",
    "PARTS",
    "PRESETS",
    "TUNINGS",
    "MemoryEstimate",
    "StepMemory",
    "TurnShape",
    "estimate_memory",
    "trace_step",
]

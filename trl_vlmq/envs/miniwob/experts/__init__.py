# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Scripted experts: for each task a function from what can be seen to the next action."""

from trl_vlmq.envs.miniwob.experts import browsing, choosing, clicking, dragging, writing
from trl_vlmq.envs.miniwob.experts.view import Expert


EXPERTS: dict[str, Expert] = {
    **clicking.EXPERTS,
    **choosing.EXPERTS,
    **writing.EXPERTS,
    **browsing.EXPERTS,
    **dragging.EXPERTS,
}

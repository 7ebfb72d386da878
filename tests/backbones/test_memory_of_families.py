# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq memory` can trace every family that can be trained, and builds what training builds."""

from trl_vlmq import AFSFTConfig
from trl_vlmq.memory import TurnShape, trace_step
from trl_vlmq.memory.shapes import PRESETS
from trl_vlmq.model_arguments import ModelArguments


def test_a_step_of_the_family_can_be_counted(family, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "family", lambda: (family.config, family.processor))
    args = AFSFTConfig(str(tmp_path), use_cpu=True, report_to="none", bf16=False, per_device_train_batch_size=1)
    model = ModelArguments(model_name_or_path="family", dtype="float32", use_peft=False, attn_implementation="eager")
    step = trace_step(model, args, TurnShape(200, 3, int(family.has_vision), 16))
    backbone = family.make()
    weights = sum(p.numel() for p in backbone.model.parameters())
    assert sum(step.trained.values()) - step.trained["critic"] == weights
    assert step.weights["critic"][0] == step.trained["critic"] > backbone.n_logits * backbone.hidden_size
    assert 0 < step.held["optimiser states"] and 0 < step.highest["activations"] < sum(step.peak.values())

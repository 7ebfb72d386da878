# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What training leaves is the mean of its last weights, not whatever the last step made of them."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, TrainerCallback

from trl_vlmq.averaging import AVERAGED_WEIGHTS


STEPS = {"max_steps": 10, "weight_averaging_ratio": 0.3, "learning_rate": 1e-2, "critic_learning_rate": 1e-2}


class WeightsOfEachStep(TrainerCallback):
    def __init__(self):
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append({n: p.detach().double().clone() for n, p in model.named_parameters() if p.requires_grad})


def trained(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("settings", [{}, {"lora": False}, {"gradient_accumulation_steps": 2}], ids=str)
def test_training_leaves_the_mean_of_the_last_weights(make_trainer, settings):
    recorder = WeightsOfEachStep()
    trainer = make_trainer(**STEPS, **settings, callbacks=[recorder])
    trainer.train()
    after = trained(trainer)
    assert any("critic." in name for name in after)
    for name, weight in after.items():
        last = torch.stack([weights[name] for weights in recorder.weights[-3:]])
        torch.testing.assert_close(weight.double(), last.mean(0), rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(weight.double(), recorder.weights[-1][name]) for name, weight in after.items())


@pytest.mark.parametrize("settings", [{"weight_averaging_ratio": 0.0}, {"weight_averaging_ratio": 0.1}], ids=str)
def test_without_averaging_the_last_weights_remain(make_trainer, settings):
    recorder = WeightsOfEachStep()
    trainer = make_trainer(**STEPS | settings, callbacks=[recorder])
    trainer.train()
    assert all(torch.equal(weight.double(), recorder.weights[-1][name]) for name, weight in trained(trainer).items())


def test_a_checkpoint_holds_the_weights_to_go_on_from_and_the_saved_agent_their_mean(
    make_trainer, base_folder, checkpoint_of, tmp_path
):
    recorder = WeightsOfEachStep()
    trainer = make_trainer(**STEPS, save_strategy="steps", save_steps=10, callbacks=[recorder])
    trainer.train()
    trainer.save_model(str(tmp_path / "agent"))

    def adapter(folder) -> dict[str, torch.Tensor]:
        model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base_folder), str(folder))
        return {name: p.double() for name, p in model.named_parameters() if "lora_" in name}

    checkpoint, agent = adapter(checkpoint_of(10)), adapter(tmp_path / "agent")
    for name, weight in checkpoint.items():
        of_steps = torch.stack([weights[f"model.{name}"] for weights in recorder.weights[-3:]])
        torch.testing.assert_close(weight, of_steps[-1], rtol=0, atol=0)
        torch.testing.assert_close(agent[name], of_steps.mean(0), rtol=1e-5, atol=1e-7)
    assert (checkpoint_of(10) / AVERAGED_WEIGHTS).is_file() and not (tmp_path / "agent" / AVERAGED_WEIGHTS).exists()


def test_a_second_training_does_not_remember_the_first(make_trainer):
    recorder = WeightsOfEachStep()
    trainer = make_trainer(**STEPS, callbacks=[recorder])
    trainer.train()
    trainer.train()
    for name, weight in trained(trainer).items():
        last = torch.stack([weights[name] for weights in recorder.weights[-3:]])
        torch.testing.assert_close(weight.double(), last.mean(0), rtol=1e-5, atol=1e-7)


def test_a_share_beyond_one_is_refused(make_trainer):
    with pytest.raises(ValueError, match=r"weight_averaging_ratio=1.5 lies outside of \[0, 1\]"):
        make_trainer(weight_averaging_ratio=1.5)

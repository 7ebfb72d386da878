# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An interrupted run, resumed, is the uninterrupted run: bit for bit."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from trl_vlmq import EvaluationResult, PolicyEvaluationCallback, VLMPolicy


# The filter is off for one of sixteen steps and tightens over the others: an interruption after step 13, when it has
# begun to drop tokens, is in mid-ramp. A batch of three segments, twice, is a fifth of an epoch or so: the run crosses
# the ends of epochs, with incomplete windows.
RAMP = {
    "max_steps": 16,
    "learning_rate": 2e-3,
    "critic_learning_rate": 1e-4,
    "target_tau": 0.1,
    "filter_warmup_ratio": 0.0625,
    "filter_ramp_ratio": 0.9375,
    "filter_keep_fraction": 0.05,
    "filter_keep_confident": None,
    "filter_beta": float("inf"),  # so that the share of kept tokens alone decides
}
WINDOW = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}


class StopAfter(TrainerCallback):
    """The power goes after this step; the checkpoint of the step before is all that is left."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


class FilterOfEachStep(TrainerCallback):
    def __init__(self):
        self.states = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.states.append(model.filter_state.to_dict())


def with_opinions(trainer):
    """Gives a new critic random values, so that the filter has something to drop from its first step on."""
    if trainer.model.critic is not None:
        torch.manual_seed(1)
        torch.nn.init.normal_(trainer.model.critic.down_weight, std=0.3)
    return trainer


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"actor_objective": "random_filter"},
        {"actor_objective": "awr", "num_critics": 2},
        {"actor_objective": "sft", "critic_coef": 0.0},
        {"bf16": True},
        {"dataloader_num_workers": 1},
        {"lora": False, "lr_scheduler_type": "cosine"},
        {"lora": LoraConfig(r=4, lora_dropout=0.2)},
        {"weight_averaging_ratio": 0.5},  # the checkpoint lies in the midst of it
    ],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items())[:40] or "afsft",
)
def test_resumed_run_equals_the_uninterrupted_one(make_trainer, snapshot, trajectory, checkpoint_of, settings):
    settings = RAMP | WINDOW | settings
    recorder = FilterOfEachStep()
    straight = with_opinions(make_trainer(**settings, callbacks=[recorder]))
    straight.train()

    stop = StopAfter(14)
    interrupted = with_opinions(make_trainer(**settings, save_strategy="steps", save_steps=13, callbacks=[stop]))
    interrupted.train()
    assert trajectory(interrupted) == trajectory(straight)[:14]

    torch.manual_seed(123)
    resumed = make_trainer(**settings, model_seed=7)  # whose fresh weights must not matter
    resumed.train(resume_from_checkpoint=str(checkpoint_of(13)))
    assert resumed.state.global_step == 16 and resumed.state.epoch == straight.state.epoch > 1
    assert trajectory(resumed) == trajectory(straight)
    weights = snapshot(straight.model)
    assert [name for name, tensor in snapshot(resumed.model).items() if not torch.equal(tensor, weights[name])] == []
    assert resumed.model.filter_state == straight.model.filter_state
    if straight.model.critic is not None:
        states = recorder.states
        assert states[12]["quantile"] != states[13]["quantile"] != states[15]["quantile"], "no ramp crosses step 13"
        assert 1 > states[12]["kept_share"] > states[15]["kept_share"]


def test_resuming_takes_the_newest_checkpoint_by_itself(make_trainer, snapshot, checkpoint_of):
    straight = with_opinions(make_trainer(**RAMP))
    straight.train()
    with_opinions(make_trainer(**RAMP, save_strategy="steps", save_steps=2, callbacks=[StopAfter(7)])).train()
    resumed = make_trainer(**RAMP, model_seed=7)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.log_history[0]["step"] == 1 and checkpoint_of(6).is_dir()
    weights = snapshot(straight.model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot(resumed.model).items())


def test_evaluating_on_the_way_does_not_change_what_is_learned(make_trainer, snapshot, trajectory, episodes):
    straight = make_trainer(**RAMP | WINDOW)
    straight.train()
    evaluated = make_trainer(
        **RAMP | WINDOW, eval_dataset=episodes.select(range(7)), eval_strategy="steps", eval_steps=5
    )
    evaluated.train()
    assert len([entry for entry in evaluated.state.log_history if "eval_loss" in entry]) >= 2
    assert trajectory(evaluated) == trajectory(straight)
    weights = snapshot(straight.model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot(evaluated.model).items())


def test_playing_on_the_way_does_not_change_what_is_learned(make_trainer, snapshot, trajectory, episodes):
    settings = RAMP | WINDOW | {"lora": LoraConfig(r=4, lora_dropout=0.2)}
    straight = make_trainer(**settings)
    straight.train()

    def evaluate(policy) -> EvaluationResult:
        prompts = [policy.backbone.encode(row["prompt"], row["images"]) for row in episodes.select(range(3))]
        actions = policy.backbone.generate(prompts, max_new_tokens=3)
        logps.append([action.logp for action in actions])
        success = np.array([len(logps) > 2, True, False])
        return EvaluationResult(
            success, success * 1.0, np.array([1, 1, 1]), np.array([1, 0, 1]), np.array(["env"] * 3)
        )

    logps = []
    played = make_trainer(**settings)
    curve = PolicyEvaluationCallback(evaluate, VLMPolicy(played.model.backbone), every_steps=6)
    played.add_callback(curve)
    played.train()
    assert [step for step, *_ in curve.curve] == [0, 6, 12, 16], "the untrained and the last policy are played as well"
    assert [rate for _, rate, *_ in curve.curve] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    logged = [entry for entry in played.state.log_history if "policy_success_rate" in entry]
    assert [entry["step"] for entry in logged] == [0, 6, 12, 16]
    assert all(entry["policy_syntax_accuracy"] == pytest.approx(2 / 3) for entry in logged)
    assert len({tuple(logp) for logp in logps}) == 4, "the policy that plays is not the one that learns"
    assert trajectory(played) == trajectory(straight)
    weights = snapshot(straight.model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot(played.model).items())


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(make_trainer, trajectory):
    runs = []
    for seed in (3, 3, 4):
        trainer = make_trainer(seed=seed)
        trainer.train()
        runs.append(trajectory(trainer))
    assert runs[0] == runs[1] != runs[2]


def test_filter_state_is_part_of_every_checkpoint(make_trainer, checkpoint_of):
    trainer = make_trainer(**RAMP, save_strategy="steps", save_steps=8)
    trainer.train()
    states = {step: json.loads((checkpoint_of(step) / "filter_state.json").read_text()) for step in (8, 16)}
    assert [states[step]["step"] for step in (8, 16)] == [8, 16]
    assert states[16] == trainer.model.filter_state.to_dict()
    assert states[8]["quantile"] != states[16]["quantile"]

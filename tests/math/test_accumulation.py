# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""One batch of eight segments and eight of one are the same training run, for every objective."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from trl_vlmq import AFSFTTrainer
from trl_vlmq.losses import ACTOR_OBJECTIVES


# 21 segments of one to three turns: an epoch ends with a window of five, and windows differ in their action tokens.
ENDINGS = [
    (6, "terminated"),
    (4, "truncated"),
    (1, "terminated"),
    (9, "terminated"),
    (3, "both"),
    (7, "truncated"),
] * 2
STEPS = 10


@pytest.fixture(scope="module")
def dataset(slow):
    return slow.make_dataset(ENDINGS, seed=11)


@pytest.fixture(scope="module")
def run(slow, lively_vlm, tiny_vlm, trainer_args, dataset):
    """Train and return everything that could differ."""

    def run(batch_size: int, accumulation: int, *, peft_config=None, callbacks=None, **kwargs) -> dict:
        settings = {
            "max_steps": STEPS,
            "optim": "sgd",
            "learning_rate": 0.01,
            "lr_scheduler_type": "constant",
            "target_tau": 0.2,
            "segment_length": 3,
            "filter_warmup_ratio": 0.2,
            "filter_ramp_ratio": 0.5,  # then the threshold is exactly 0
            "filter_keep_fraction": 0.0,
            "filter_keep_confident": 0.9,
            "critic_hidden_size": 16,
            "actor_coef": 1.0,
            "seed": 1,
        }
        args = trainer_args(
            per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, **{**settings, **kwargs}
        )
        model = lively_vlm()
        torch.manual_seed(0)
        trainer = AFSFTTrainer(
            model,
            args,
            train_dataset=dataset,
            processing_class=tiny_vlm[1],
            peft_config=copy.deepcopy(peft_config),
            callbacks=callbacks,
        )
        slow.randomise_critics(trainer.model)
        rows, collate = [], trainer.data_collator
        trainer.data_collator = lambda segments: (
            rows.append([s.rows[0]["row"] for s in segments]),
            collate(segments),
        )[1]
        start = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.train()
        return {
            "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
            "weights": trainer.model.state_dict(),
            "start": start,
            "filter": trainer.model.filter_state,
            "rows": rows,
        }

    return run


def assert_same_run(one: dict, other: dict) -> None:
    orders = [[row for batch in run["rows"] for row in batch] for run in (one, other)]
    shorter = min(map(len, orders))  # the dataloader reads a batch ahead
    assert orders[0][:shorter] == orders[1][:shorter]
    assert len(one["rows"]) < len(other["rows"])
    assert len(one["logs"]) == len(other["logs"]) == STEPS
    for step, (a, b) in enumerate(zip(one["logs"], other["logs"], strict=True)):
        assert a.keys() == b.keys()
        for name in a.keys() - {"action_tokens_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5), (step, name)
    worst = {name: (one["weights"][name] - other["weights"][name]).abs().max().item() for name in one["weights"]}
    assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda item: item[1])
    assert one["filter"].step == other["filter"].step
    assert one["filter"].beta == pytest.approx(other["filter"].beta, abs=1e-5)
    assert one["filter"].kept_share == other["filter"].kept_share


@pytest.mark.parametrize("actor_objective", ACTOR_OBJECTIVES)
@pytest.mark.parametrize("actor_normalizer", ["tokens", "kept"])
def test_eight_at_once_equal_eight_in_turn(run, actor_objective, actor_normalizer):
    settings = {"actor_objective": actor_objective, "actor_normalizer": actor_normalizer}
    if actor_normalizer == "kept":
        settings |= {"advantage_baseline": "target", "td_horizon": "token", "num_critics": 2}
    one = run(8, 1, **settings)
    other = run(1, 8, **settings)
    assert_same_run(one, other)
    kept = [entry["kept"] for entry in one["logs"]]
    assert kept[0] == kept[1] == 1.0 and len(set(kept)) > 4 and min(kept) < 0.7, "the filter is off, ramps, and is on"
    moved = {name: (one["weights"][name] - one["start"][name]).abs().max().item() for name in one["weights"]}
    for part in ("critic.down_weight", "target_critic.down_weight", "lm_head.weight", "vision_tower"):
        assert max(change for name, change in moved.items() if part in name) > 1e-4, part


def test_an_adapter_over_a_frozen_vision_tower_accumulates_alike(run):
    settings = {"peft_config": LoraConfig(r=4), "optim": "adamw_torch", "adam_epsilon": 1e-3, "learning_rate": 0.003}
    one, other = run(8, 1, **settings), run(1, 8, **settings)
    assert_same_run(one, other)
    moved = {name for name, tensor in one["weights"].items() if not torch.equal(tensor, one["start"][name])}
    assert moved and all("lora" in name or "critic" in name for name in moved)


def test_sft_without_a_critic_accumulates_alike(run):
    settings = {"actor_objective": "sft", "critic_coef": 0.0}
    one, other = run(8, 1, **settings), run(2, 4, **settings)
    assert "critic.down_weight" not in one["weights"]
    assert_same_run(one, other)


def test_the_last_window_of_an_epoch_is_divided_by_its_own_tokens(run, dataset):
    """21 segments: windows of 8, 8 and 5. At a learning rate of 0 each logged loss is that of its rows alone."""
    settings = {
        "learning_rate": 0.0,
        "target_tau": 0.0,
        "max_steps": 3,
        "filter_warmup_ratio": 1.0,
        "filter_ramp_ratio": 0.0,
    }
    losses = {size: [entry["loss"] for entry in run(size, 8 // size, **settings)["logs"]] for size in (1, 4, 8)}
    assert losses[1] == pytest.approx(losses[8], rel=1e-5)
    assert losses[4] == pytest.approx(losses[8], rel=1e-5)
    assert np.std(losses[8]) > 1e-3


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (2, 4)])
def test_the_target_critic_moves_once_per_optimiser_step_by_tau(run, batch_size, accumulation):
    critics = []

    class Record(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            critics.append({name: p.detach().clone() for name, p in model.critic.named_parameters()})

    done = run(batch_size, accumulation, callbacks=[Record()], max_steps=5, target_tau=0.15, learning_rate=0.1)
    assert len(critics) == 5
    for name in critics[0]:
        expected = done["start"][f"target_critic.{name}"]
        for critic in critics:
            expected = expected + 0.15 * (critic[name] - expected)
        assert torch.allclose(done["weights"][f"target_critic.{name}"], expected, rtol=0, atol=1e-6), name
        assert (critics[-1][name] - critics[0][name]).abs().max() > 1e-4


def test_a_different_grouping_of_rows_is_noticed(run):
    """The comparison above can fail: another order of the data leads elsewhere."""
    one, other = run(8, 1, seed=1), run(8, 1, seed=2)
    with pytest.raises(AssertionError):
        assert_same_run(one, other)

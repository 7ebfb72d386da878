# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A few steps of training move what is to be trained, and nothing else."""

import warnings

import pytest
import torch
from transformers import TrainerCallback

from trl_vlmq.losses import ACTOR_OBJECTIVES


def unused_parameters(trainer) -> set[str]:
    """Names of the base model's parameters that its logits do not depend on (CLIP's last layer, for one)."""
    backbone, row = trainer.model.backbone, trainer.train_dataset[0].rows[0]
    inputs = backbone.collate([backbone.encode(row["prompt"], row["images"])], [[5, 6, 7]])
    trainer.model.model(**inputs).logits.sum().backward()
    names = {name for name, p in trainer.model.model.named_parameters() if p.requires_grad and p.grad is None}
    trainer.model.zero_grad()
    return names


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("objective", ACTOR_OBJECTIVES)
def test_adapter_and_critic_move_and_the_base_does_not(make_trainer, snapshot, objective):
    trainer = make_trainer(actor_objective=objective, filter_warmup_ratio=0.25)
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    layers = range(2)
    expected = {
        f"model.base_model.model.model.language_model.layers.{layer}.{module}.lora_{matrix}.default.weight"
        for layer in layers
        for module in (*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down")))
        for matrix in "AB"
    } | {f"critic.{name}" for name in ("up_weight", "up_bias", "down_weight", "down_bias")}
    assert trainable == expected
    before = snapshot(trainer.model)
    trainer.train()
    target = {name for name in before if name.startswith("target_critic.")}
    assert len(target) == 4
    assert moved(before, snapshot(trainer.model)) == trainable | target


@pytest.mark.parametrize("objective", ACTOR_OBJECTIVES)
def test_full_fine_tuning_moves_every_parameter_the_model_uses(make_trainer, snapshot, objective):
    trainer = make_trainer(lora=False, actor_objective=objective, filter_warmup_ratio=0.25)
    unused = {f"model.{name}" for name in unused_parameters(trainer)}
    parameters = {name for name, _ in trainer.model.named_parameters()}
    assert any("vision_tower" in name for name in parameters - unused)
    before = snapshot(trainer.model)
    trainer.train()
    target = {name for name in before if name.startswith("target_critic.")}
    assert moved(before, snapshot(trainer.model)) == (parameters - unused) | target


def test_parameters_that_the_user_froze_stay_frozen(make_trainer, tiny_vlm, snapshot):
    make, processor = tiny_vlm
    model = make()
    model.get_input_embeddings().requires_grad_(False)
    trainer = make_trainer(model, processing_class=processor, lora=False)
    before = snapshot(trainer.model)
    trainer.train()
    after = moved(before, snapshot(trainer.model))
    assert "model.lm_head.weight" in after
    assert not any("embed_tokens" in name for name in after)


class CriticAfterEachStep(TrainerCallback):
    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: p.detach().clone() for name, p in model.critic.named_parameters()})


def test_target_critic_is_the_running_average_of_the_critic(make_trainer):
    recorder = CriticAfterEachStep()
    trainer = make_trainer(target_tau=0.25, gradient_accumulation_steps=2, callbacks=[recorder])
    expected = {name: p.detach().clone() for name, p in trainer.model.critic.named_parameters()}
    trainer.train()
    assert len(recorder.weights) == 8
    for weights in recorder.weights:
        expected = {name: 0.75 * expected[name] + 0.25 * weights[name] for name in expected}
    for name, buffer in trainer.model.target_critic.named_buffers():
        torch.testing.assert_close(buffer, expected[name])
        assert not torch.equal(buffer, recorder.weights[-1][name])


def test_critic_without_trunk_gradient_leaves_the_trunk_to_the_actor(make_trainer, snapshot):
    trainer = make_trainer(actor_coef=0.0, critic_trunk_gradient=False)
    before = snapshot(trainer.model)
    trainer.train()
    assert {name.split(".")[0] for name in moved(before, snapshot(trainer.model))} == {"critic", "target_critic"}


def test_plain_sft_has_no_critic_at_all(make_trainer, tmp_path):
    trainer = make_trainer(actor_objective="sft", critic_coef=0.0)
    assert trainer.model.critic is None and trainer.model.target_critic is None
    assert not any("critic" in name for name, _ in trainer.model.named_parameters())
    batch = next(iter(trainer.get_train_dataloader()))
    assert "bootstrap_inputs" not in batch, "SFT needs no forward pass over the following observations"
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert {"nll", "entropy"} <= logs[0].keys()
    assert not {"critic_loss", "q_mean", "beta", "kept_share", "kept"} & logs[0].keys()
    assert logs[-1]["nll"] < logs[0]["nll"]
    trainer.save_model(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("critic*"))


def test_sft_with_a_critic_trains_both(make_trainer, snapshot):
    trainer = make_trainer(actor_objective="sft", critic_coef=1.0)
    before = snapshot(trainer.model)
    trainer.train()
    assert "critic.down_weight" in moved(before, snapshot(trainer.model))
    assert trainer.state.log_history[0]["critic_loss"] > 0


def test_critic_learning_rate_is_the_critics_alone(make_trainer):
    trainer = make_trainer(learning_rate=1e-2, critic_learning_rate=3e-2, weight_decay=0.1, warmup_steps=0)
    trainer.create_optimizer_and_scheduler(num_training_steps=8)
    critic = {id(p) for p in trainer.model.critic.parameters()}
    rates = [
        (id(p), group["lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    ]
    assert sorted(i for i, _, _ in rates) == sorted(id(p) for p in trainer.model.parameters() if p.requires_grad)
    assert {rate for i, rate, _ in rates if i in critic} == {3e-2}
    assert {rate for i, rate, _ in rates if i not in critic} == {1e-2}
    decay = {i: decay for i, _, decay in rates}
    assert decay[id(trainer.model.critic.down_weight)] == 0.1 and decay[id(trainer.model.critic.down_bias)] == 0.0


def test_both_learning_rates_follow_the_schedule(make_trainer):
    seen = []

    class Rates(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            seen.append({group["lr"] for group in optimizer.param_groups if group["params"]})

    make_trainer(learning_rate=1e-2, critic_learning_rate=4e-2, callbacks=[Rates()]).train()
    assert [len(rates) for rates in seen] == [2] * 8
    assert [max(rates) for rates in seen] == pytest.approx([4 * min(rates) for rates in seen])
    assert min(seen[7]) == pytest.approx(1e-2 / 8)  # linear decay


def test_zero_critic_learning_rate_stops_the_critic_alone(make_trainer, snapshot):
    trainer = make_trainer(critic_learning_rate=0.0)
    before = snapshot(trainer.model)
    trainer.train()
    after = moved(before, snapshot(trainer.model))
    assert any("lora" in name for name in after) and not any("critic" in name for name in after)


@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing_changes_nothing_but_memory(make_trainer, snapshot, trajectory, lora):
    plain = make_trainer(lora=lora)
    plain.train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpointed = make_trainer(lora=lora, activation_checkpointing=True)
        checkpointed.train()
    assert checkpointed.model.model.is_activation_checkpointing and not plain.model.model.is_activation_checkpointing
    assert trajectory(checkpointed) == trajectory(plain)
    for name, tensor in snapshot(plain.model).items():
        assert torch.equal(tensor, snapshot(checkpointed.model)[name]), name
    ours = [str(w.message) for w in caught if "VLMActorCritic" in str(w.message) or "trl_vlmq" in w.filename]
    assert not ours


@pytest.mark.parametrize("streamed_head", [True, False])
def test_bfloat16_training_keeps_the_critic_in_float32(make_trainer, trajectory, monkeypatch, streamed_head):
    reference = make_trainer(streamed_head=streamed_head)
    reference.train()
    trainer = make_trainer(bf16=True, streamed_head=streamed_head)
    logits, values = [], []
    trainer.model.model.get_output_embeddings().register_forward_hook(lambda module, args, out: logits.append(out))
    token_values = trainer.model.token_values

    def watched(*args):
        found = token_values(*args)
        values.extend([found[0].q, found[0].v, found[0].v_target])
        return found

    monkeypatch.setattr(trainer.model, "token_values", watched)
    trainer.train()
    assert {out.dtype for out in logits} == {torch.bfloat16}, "mixed precision was not on"
    assert {out.dtype for out in values} == {torch.float32}
    for value in values[-3:]:
        assert not torch.equal(value, value.bfloat16().float()), "the values went through bfloat16"
    assert {p.dtype for p in trainer.model.critic.parameters()} == {torch.float32}
    assert {b.dtype for b in trainer.model.target_critic.buffers()} == {torch.float32}
    losses = [[entry["loss"] for entry in trajectory(t)] for t in (trainer, reference)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05, abs=0.05)


def test_base_in_bfloat16_keeps_critic_and_adapter_in_float32(make_trainer, tiny_vlm):
    make, processor = tiny_vlm
    trainer = make_trainer(make().bfloat16(), processing_class=processor)
    trainer.train()
    trained = {name: p.dtype for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert set(trained.values()) == {torch.float32} and any("lora" in name for name in trained)
    assert {b.dtype for b in trainer.model.target_critic.buffers()} == {torch.float32}
    assert trainer.model.model.get_output_embeddings().weight.dtype == torch.bfloat16


def test_losses_of_held_out_episodes_are_reported_and_train_nothing(make_trainer, episodes, snapshot):
    held_out = episodes.select(range(12))  # the first three episodes
    trainer = make_trainer(eval_dataset=held_out, per_device_eval_batch_size=2)
    before = snapshot(trainer.model)
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_nll", "eval_critic_loss", "eval_explained_variance", "eval_kept"} <= metrics.keys()
    assert not moved(before, snapshot(trainer.model))
    whole = make_trainer(eval_dataset=held_out, per_device_eval_batch_size=64).evaluate()
    assert whole["eval_nll"] == pytest.approx(metrics["eval_nll"], rel=1e-5), "the mean is over tokens, not batches"


def test_several_held_out_datasets_are_reported_by_name(make_trainer, episodes):
    trainer = make_trainer(eval_dataset={"near": episodes.select(range(3)), "far": episodes.select(range(3, 7))})
    metrics = trainer.evaluate()
    assert {"eval_near_nll", "eval_far_nll"} <= metrics.keys()

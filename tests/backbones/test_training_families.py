# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Each family trains, acts with what it has learned, and is not held up by gradient checkpointing."""

import pytest
import torch
from peft import LoraConfig
from tiny_families import LAUNCHED_FAMILIES, Family

from trl_vlmq import AFSFTConfig, AFSFTTrainer
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.model_arguments import ModelArguments


@pytest.fixture(params=LAUNCHED_FAMILIES)
def family(request, families) -> Family:
    return families(request.param)


@pytest.fixture
def train(observe, tmp_path):
    def run(family, model=None, **arguments) -> AFSFTTrainer:
        def turn(number: int, last: bool, truncated: bool) -> Turn:
            images = min(1 + number % 2, family.max_images) if family.has_vision else 0
            prompt, pictures = observe(f"Turn {number}.", images, number)
            ends = {"final_prompt": prompt, "final_images": pictures} if truncated else {}
            return Turn(prompt, pictures, "go" * (number + 1), float(last), last and not truncated, truncated, **ends)

        episodes = [
            Episode(f"e{i}", [turn(n, n == 2, n == 2 and i == 1) for n in range(3)])
            for i in range(3)
        ]  # fmt: skip
        torch.manual_seed(0)
        trainer = AFSFTTrainer(
            model=family.make_model() if model is None else model,
            args=AFSFTConfig(
                str(tmp_path),
                max_steps=3,
                per_device_train_batch_size=2,
                segment_length=2,
                learning_rate=1e-2,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                **arguments,
            ),
            train_dataset=episodes_to_dataset(episodes),
            processing_class=family.processor,
            peft_config=LoraConfig(r=2),
        )
        trainer.before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train()
        return trainer

    return run


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_each_family_trains_and_acts_with_what_it_has_learned(family, train, observe):
    trainer = train(family)
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, trainer.before[name])}
    assert moved == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in moved} == {"model", "critic"}
    assert len(losses(trainer)) == 3 and torch.tensor(losses(trainer)).isfinite().all()

    backbone = trainer.model.backbone
    prompt = backbone.encode(*observe("Turn 0.", int(family.has_vision)))
    (action,) = backbone.generate([prompt], max_new_tokens=4)
    trainer.model.eval()
    values, _ = trainer.model.token_values(backbone.collate([prompt], [action.ids]), torch.tensor([action.ids]))
    assert values.logp.sum().item() == pytest.approx(action.logp, abs=1e-4)
    with trainer.model.model.disable_adapter():
        (base,) = backbone.generate([prompt], max_new_tokens=4)
    assert base.ids != action.ids or abs(base.logp - action.logp) > 1e-3


def test_each_family_trains_on_a_base_in_4_bits(family, train, tmp_path):
    layers = pytest.importorskip("bitsandbytes").nn.Linear4bit
    full = family.make_model()
    full.save_pretrained(tmp_path / "base")
    quantization = ModelArguments(load_in_4bit=True).quantization()
    base = type(full).from_pretrained(tmp_path / "base", quantization_config=quantization)
    quantized = {name for name, module in base.named_modules() if isinstance(module, layers)}
    trainer = train(family, base)
    # What the adapter sits on is in 4 bits and has not moved; what it adds has.
    adapted = {name.split(".lora_A")[0] for name in trainer.before if ".lora_A." in name}
    assert adapted and {name.removeprefix("model.base_model.model.") for name in adapted} <= quantized
    after = dict(trainer.model.named_parameters())
    moved = {name for name, p in after.items() if not torch.equal(p, trainer.before[name])}
    assert moved == {name for name, p in after.items() if p.requires_grad}
    assert {name.split(".")[0] for name in moved} == {"model", "critic"}
    assert len(losses(trainer)) == 3 and torch.tensor(losses(trainer)).isfinite().all()


def test_gradient_checkpointing_changes_nothing_but_memory(families, train):
    """Of the trainer; gradients of every family are in the contract."""
    family = families("idefics3")
    assert losses(train(family, activation_checkpointing=True)) == losses(train(family))

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A base in 4 or 8 bits under a LoRA: real bitsandbytes layers, on the CPU."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, TrainerCallback

from trl_vlmq import load_backbone, make_backbone, tiny_model_path
from trl_vlmq.model_arguments import ModelArguments


bitsandbytes = pytest.importorskip("bitsandbytes")

QUANTIZED = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)


@pytest.fixture(params=["load_in_4bit", "load_in_8bit"])
def quantization(request) -> BitsAndBytesConfig:
    """As the command-line flag sets it."""
    return ModelArguments(**{request.param: True}).quantization()


@pytest.fixture
def load(quantization):
    """Layers in 4 bits want widths that are multiples of 32, as the embedded models' are."""
    return lambda: load_backbone("tiny-babyai", quantization_config=quantization)


@pytest.fixture
def quantized(load):
    return load()


def quantized_layers(model) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QUANTIZED)}


def test_adapter_and_critic_learn_on_a_quantized_base_that_stays_as_it_is(
    make_trainer, quantized, snapshot, trajectory
):
    trainer = make_trainer(quantized.model, processing_class=quantized.processor)
    layers = quantized_layers(trainer.model)
    assert any("language_model" in name for name in layers)
    before = snapshot(trainer.model)
    trainer.train()
    after = snapshot(trainer.model)
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trainable} == {"model", "critic"}
    assert all("lora_" in name or name.startswith("critic.") for name in trainable)
    assert {after[name].dtype for name in trainable} == {torch.float32}
    for name in after:
        if not name.startswith("target_critic."):
            assert torch.equal(before[name], after[name]) == (name not in trainable), name
    assert quantized_layers(trainer.model).keys() == layers.keys()
    assert not any(getattr(module, "merged", False) for module in trainer.model.modules())


def test_a_saved_agent_acts_as_before_on_the_quantized_base(
    make_trainer, quantized, quantization, episodes, logits_of, tmp_path
):
    trainer = make_trainer(quantized.model, processing_class=quantized.processor)
    trainer.train()
    trainer.save_model(str(tmp_path / "agent"))
    expected = logits_of(trainer.model.model, quantized.processor, episodes[0])
    again = load_backbone(str(tmp_path / "agent"), quantization_config=quantization)
    assert quantized_layers(again.model)
    torch.testing.assert_close(logits_of(again.model, again.processor, episodes[0]), expected, rtol=1e-5, atol=1e-6)


def test_the_adapter_of_a_quantized_base_loads_on_the_full_one(make_trainer, quantized, episodes, logits_of, tmp_path):
    trainer = make_trainer(quantized.model, processing_class=quantized.processor)
    trainer.train()
    trainer.save_model(str(tmp_path / "agent"))
    full = AutoModelForImageTextToText.from_pretrained(tiny_model_path())
    untrained = logits_of(full, quantized.processor, episodes[0])
    adapted = logits_of(PeftModel.from_pretrained(full, str(tmp_path / "agent")), quantized.processor, episodes[0])
    trained = logits_of(trainer.model.model, quantized.processor, episodes[0])
    assert not load_file(tmp_path / "agent" / "adapter_model.safetensors").keys() & full.state_dict().keys()
    # What quantisation changes is small beside what training has changed.
    assert (adapted - trained).norm() < 0.5 * (adapted - untrained).norm()


def test_an_interrupted_run_on_a_quantized_base_goes_on(request, make_trainer, load, trajectory, checkpoint_of):
    def trainer(**settings):
        backbone = load()
        return make_trainer(backbone.model, processing_class=backbone.processor, **settings)

    straight = trainer(save_strategy="steps", save_steps=5)
    straight.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(checkpoint_of(5)))
    # In 4 bits exactly; what an 8-bit layer computes hangs a little on what it has computed before.
    tolerance = 0 if "4bit" in request.node.name else 1e-3
    losses = [[entry["loss"] for entry in trajectory(trainer)] for trainer in (resumed, straight)]
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)


@pytest.mark.parametrize("quantization", ["load_in_4bit"], indirect=True)
def test_playing_on_the_way_does_not_spoil_gradients(make_trainer, load, trajectory):
    """On a CPU bitsandbytes packs 4-bit layers for inference, after which their gradients are wrong."""

    class Play(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            model.eval()
            row = trainer.train_dataset[0].rows[0]
            prompt = model.backbone.encode(row["prompt"], row["images"])
            model.backbone.generate([prompt], max_new_tokens=3)
            model.train()

    def losses(**settings):
        nonlocal trainer
        backbone = load()
        trainer = make_trainer(backbone.model, processing_class=backbone.processor, **settings)
        trainer.train()
        return [entry["loss"] for entry in trajectory(trainer)]

    trainer = None
    assert losses(callbacks=[Play()]) == losses()


def test_a_4bit_model_that_has_been_packed_for_inference_is_refused():
    model = AutoModelForImageTextToText.from_pretrained(
        tiny_model_path(), quantization_config=ModelArguments(load_in_4bit=True).quantization()
    )
    layer = next(module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit))
    if not layer.support_avx512bf16_for_cpu:
        pytest.skip("this processor lacks what bitsandbytes packs for")
    with torch.no_grad():
        layer.eval()(torch.zeros(1, layer.in_features))
    with pytest.raises(ValueError, match="wrong gradients. Load the model again"):
        make_backbone(model, AutoProcessor.from_pretrained(tiny_model_path()))


def test_gradient_checkpointing_changes_nothing_on_a_quantized_base(make_trainer, load, trajectory):
    def losses(**settings):
        backbone = load()
        trainer = make_trainer(backbone.model, processing_class=backbone.processor, **settings)
        trainer.train()
        return [entry["loss"] for entry in trajectory(trainer)]

    assert losses(gradient_checkpointing=True) == pytest.approx(losses(), rel=1e-4)

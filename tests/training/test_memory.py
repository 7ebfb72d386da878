# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What `trl-vlmq memory` predicts is what training holds: compared with the tensors and the allocator of real trainers."""

from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

from trl_vlmq import AFSFTConfig, estimate_memory, tiny_model_path
from trl_vlmq.backbones import (
    MoonDream2Config,
    MoonDream2ForConditionalGeneration,
    XGenMMConfig,
    XGenMMForConditionalGeneration,
)
from trl_vlmq.memory import TurnShape, trace_step
from trl_vlmq.memory.step import build_without_storage
from trl_vlmq.model_arguments import ModelArguments


STEPS = {"max_steps": 3, "weight_averaging_ratio": 1.0, "per_device_train_batch_size": 2, "segment_length": 2}


class Meter(TrainerCallback):
    """What is held before the third step, the gradients in it, and by how much torch's allocator rises in it."""

    def __init__(self):
        self.trainer = self.profile = None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            trainer, model = self.trainer, self.trainer.model
            adapter = {n: p for n, p in model.model.named_parameters() if "lora_" in n}
            base = [p for n, p in model.model.named_parameters() if n not in adapter]
            optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
            states = [x for s in optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor)]
            self.held = {
                "base weights": size_of([*base, *model.model.buffers()]),
                "adapter": size_of(adapter.values()),
                "critic": size_of(model.critic.parameters()),
                "target critic": size_of(model.target_critic.buffers()),
                "averaged weights": size_of(trainer._average._mean.values()),
                "optimiser states": size_of(states),
            }
            self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profile.__enter__()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradients = size_of(p.grad for p in self.trainer.model.parameters() if p.grad is not None)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self.profile.__exit__(None, None, None)
            events = [e for e in self.profile.profiler.kineto_results.events() if e.name() == "[memory]"]
            self.rise = max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def size_of(tensors) -> int:
    return sum({id(x): x.numel() * x.element_size() for x in tensors}.values())


@pytest.fixture
def measured(make_trainer, episodes):
    """`measured(model_arguments, **training_arguments)`: a real run's meter, and the prediction for its shape."""

    def run(model: dict, **arguments):
        path, arguments = tiny_model_path(), STEPS | arguments
        described = ModelArguments(model_name_or_path=path, attn_implementation="sdpa", lora_r=4, **model)
        dtype = getattr(torch, model.get("dtype", "float32"))
        meter = Meter()
        trainer = meter.trainer = make_trainer(
            AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, attn_implementation="sdpa"),
            processing_class=AutoProcessor.from_pretrained(path),
            lora=described.use_peft,
            # Turns of one length, so that every batch is of one shape.
            train_dataset=episodes.map(lambda row: {"completion": [{"role": "assistant", "content": "go on"}]}),
            callbacks=[meter],
            **arguments,
        )
        trainer.model.backbone._constant_features = False  # as on a GPU
        labels = next(iter(trainer.get_train_dataloader()))["labels"]
        inputs = next(iter(trainer.get_train_dataloader()))["inputs"]["input_ids"]
        with torch.backends.mkldnn.flags(enabled=False):  # what oneDNN packs and scratches differs from CPU to CPU
            trainer.train()
        turn = TurnShape(inputs.shape[1] - labels.shape[1] + 1, labels.shape[1], 1, 16)
        return meter, trace_step(described, trainer.args, turn)

    return run


RUNS = [
    ({}, {}),
    ({"use_peft": False}, {}),
    ({"use_peft": False, "dtype": "bfloat16"}, {"bf16": True}),
    ({}, {"bf16": True, "num_critics": 2, "critic_hidden_size": 64}),
    ({}, {"activation_checkpointing": True}),
    ({"use_peft": False}, {"gradient_accumulation_steps": 2}),
]


@pytest.mark.parametrize(("model", "arguments"), RUNS, ids=str)
def test_the_prediction_is_what_a_real_step_holds(measured, model, arguments):
    meter, step = measured(model, **arguments)
    assert {part: size for part, size in step.held.items() if part in meter.held} == {
        part: size for part, size in meter.held.items() if size
    }
    assert step.gradients == meter.gradients
    rise = sum(step.peak.values()) - sum(step.held.values())
    assert rise == pytest.approx(meter.rise, rel=0.1)


@pytest.mark.parametrize("quantization", ["load_in_4bit", "load_in_8bit"])
def test_a_quantized_base_takes_what_its_real_layers_take(quantization):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    arguments = ModelArguments(model_name_or_path=tiny_model_path(), **{quantization: True})
    real = arguments.load().model
    guessed = build_without_storage(arguments, AFSFTConfig("unused", use_cpu=True)).model.get_base_model()
    sizes = {}
    for name, module in real.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = module.weight.quant_state
            sizes[name] = size_of([module.weight, state.absmax, state.code])
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            sizes[name] = size_of([module.weight, module.weight.SCB])
    assert sizes
    for name, size in sizes.items():
        layer = guessed.get_submodule(name)
        layer = getattr(layer, "base_layer", layer)
        assert size_of(x for n, x in layer.named_parameters() if n != "bias") + size_of(layer.buffers()) == size, name
    stored = {type(getattr(m, "base_layer", m)).__name__ for m in guessed.modules()} & {"FrozenQuantizedLinear"}
    count = sum(type(m).__name__ == "FrozenQuantizedLinear" for m in guessed.modules())
    assert stored and count == len(sizes)


@pytest.mark.parametrize(("preset", "language_model"), [("llava-8b", 8_030_261_248), ("llava-70b", 70_553_706_496)])
def test_presets_have_the_sizes_of_published_models(preset, language_model):
    """The parameters of Meta-Llama-3-8B and -70B as their repositories count them."""
    model = build_without_storage(
        ModelArguments(model_name_or_path=preset, use_peft=False), AFSFTConfig("unused", use_cpu=True)
    ).model
    parameters = {n: p.numel() for n, p in model.named_parameters()}
    assert sum(n for name, n in parameters.items() if "language_model" in name or "lm_head" in name) == language_model


@pytest.mark.parametrize(
    ("preset", "model", "config"),
    [
        ("moondream2-2b", MoonDream2ForConditionalGeneration, MoonDream2Config()),
        ("xgen-mm-4.6b", XGenMMForConditionalGeneration, XGenMMConfig()),
    ],
)
def test_presets_of_the_paper_are_the_classes_of_this_package(preset, model, config):
    made = build_without_storage(
        ModelArguments(model_name_or_path=preset, use_peft=False), AFSFTConfig("unused", use_cpu=True)
    ).model
    with torch.device("meta"):
        expected = model(config)
    assert [p.shape for p in made.parameters()] == [p.shape for p in expected.parameters()]
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}


def test_launchers_share_out_what_they_share(training_arguments):
    args = AFSFTConfig(**training_arguments(bf16=True))
    model = ModelArguments(model_name_or_path=tiny_model_path(), dtype="bfloat16")
    found = {e.launch: e for e in estimate_memory(model, args, TurnShape(128), tunings=["full"], devices=4)}
    one, zero2, zero3, offload = (found[name].parts for name in ("one", "zero2", "zero3", "zero3-offload"))
    weights = sum(p.numel() for p in AutoModelForImageTextToText.from_pretrained(tiny_model_path()).parameters())
    assert zero2["base weights"] == pytest.approx(2 * weights, rel=0.01)
    assert zero3["critic"] == zero2["critic"] // 4 and zero3["target critic"] == one["target critic"]
    trained = sum(size for part, size in zero2.items() if part in ("base weights", "critic")) // 2
    assert zero2["optimiser states"] == pytest.approx(12 * trained / 4, rel=0.01)
    assert found["one"].traced and not found["zero3"].traced
    assert offload["optimiser states"] == 0 and found["zero3-offload"].host["optimiser states"] > 0


def test_a_prompt_too_short_for_its_images_is_refused(training_arguments):
    args = AFSFTConfig(**training_arguments())
    with pytest.raises(ValueError, match="prompt_tokens=10 is too short: 1 image"):
        trace_step(ModelArguments(model_name_or_path=tiny_model_path()), args, TurnShape(10))


def test_an_optimiser_that_cannot_be_traced_is_named(training_arguments):
    args = AFSFTConfig(**training_arguments(optim="adafactor"))
    with pytest.raises(ValueError, match="optim=adafactor is not known here"):
        trace_step(ModelArguments(model_name_or_path=tiny_model_path()), args, TurnShape(128))

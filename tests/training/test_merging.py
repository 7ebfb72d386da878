# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A merged model does without peft and without this package, and answers as the adapter on its base does."""

import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from trl_vlmq import AFSFTTrainer, load_backbone, merge_adapter, tiny_model_path
from trl_vlmq.cli.main import main
from trl_vlmq.env_record import EnvironmentRecord, load_environment
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.model_arguments import ModelArguments
from trl_vlmq.prompt_record import load_prompt, save_prompt


@pytest.fixture
def saved(make_trainer, tmp_path):
    """A trainer that has learned something, and the folder of its agent."""
    trainer = make_trainer(target_tau=0.2)
    trainer.train()
    trainer.save_model(tmp_path / "agent")
    return trainer, tmp_path / "agent"


def test_the_merged_model_answers_as_the_adapter_on_its_base(saved, base_folder, episodes, logits_of, tmp_path):
    trainer, agent = saved
    merge_adapter(agent, tmp_path / "merged")
    expected = logits_of(trainer.model.model, trainer.processing_class, episodes[0])
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    found = logits_of(merged, AutoProcessor.from_pretrained(tmp_path / "merged"), episodes[0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    base = AutoModelForImageTextToText.from_pretrained(base_folder)
    assert (logits_of(base, trainer.processing_class, episodes[0]) - expected).abs().max() > 0.01
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_each_weight_is_the_base_s_plus_the_product_of_the_adapter_s(saved, base_folder, tmp_path):
    _, agent = saved
    merge_adapter(agent, tmp_path / "merged")
    base, merged = (load_file(f"{folder}/model.safetensors") for folder in (base_folder, tmp_path / "merged"))
    adapter, config = (
        load_file(agent / "adapter_model.safetensors"),
        json.loads((agent / "adapter_config.json").read_text()),
    )
    assert base.keys() == merged.keys()
    changed = set()
    for name in adapter:
        if not name.endswith("lora_A.weight"):
            continue
        layer = name.split("language_model.")[-1].removesuffix(".lora_A.weight")
        (target,) = [key for key in base if key.endswith(f"{layer}.weight") and "vision" not in key]
        product = adapter[name.replace("lora_A", "lora_B")].double() @ adapter[name].double()
        expected = base[target].double() + config["lora_alpha"] / config["r"] * product
        torch.testing.assert_close(merged[target].double(), expected, rtol=0, atol=1e-6)
        changed.add(target)
    assert changed and all(torch.equal(merged[name], base[name]) for name in base.keys() - changed)


def test_the_critic_goes_along_and_training_goes_on(saved, make_trainer, tmp_path):
    trainer, agent = saved
    save_prompt(PromptBuilder(history=2), agent)
    EnvironmentRecord("trl_vlmq/Blackjack-v0", {"image_size": 112}).save(agent)
    merge_adapter(agent, tmp_path / "merged")
    again = make_trainer(str(tmp_path / "merged"), lora=LoraConfig(r=2), model_seed=7)
    for mine, theirs in (
        (trainer.model.critic, again.model.critic),
        (trainer.model.target_critic, again.model.target_critic),
    ):
        for (name, tensor), (_, other) in zip(mine.state_dict().items(), theirs.state_dict().items(), strict=True):
            assert torch.equal(tensor, other), name
    again.train()
    assert load_prompt(str(tmp_path / "merged")).history == 2
    assert load_environment(str(tmp_path / "merged")).env_kwargs == {"image_size": 112}


def test_an_agent_without_critic_merges_too(make_trainer, tmp_path):
    trainer = make_trainer(actor_objective="sft", critic_coef=0.0, max_steps=1)
    trainer.train()
    trainer.save_model(tmp_path / "sft")
    merge_adapter(tmp_path / "sft", tmp_path / "merged")
    assert not (tmp_path / "merged" / "critic.safetensors").exists()


def test_merged_weights_have_the_dtype_that_was_asked_for(saved, tmp_path):
    _, agent = saved
    merge_adapter(agent, tmp_path / "half", dtype="bfloat16")
    merge_adapter(agent, tmp_path / "full")
    half, full = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "full"))
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in full.values()} == {torch.float32}
    for name in full:  # half a unit in the last place of base and of product, and of their sum
        torch.testing.assert_close(half[name].float(), full[name], rtol=2**-7, atol=2**-9)


def test_a_base_in_4_or_8_bits_is_refused_and_its_full_one_is_not(make_trainer, logits_of, episodes, tmp_path):
    pytest.importorskip("bitsandbytes")
    quantization = ModelArguments(load_in_4bit=True).quantization()
    load_backbone("tiny-babyai", quantization_config=quantization).model.save_pretrained(tmp_path / "base4")
    AutoProcessor.from_pretrained(tiny_model_path()).save_pretrained(tmp_path / "base4")
    trainer = make_trainer(str(tmp_path / "base4"), max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "agent"))
    with pytest.raises(ValueError, match="base4 is stored in 4 bits.*in full precision.*as `base`"):
        merge_adapter(tmp_path / "agent", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge_adapter(tmp_path / "agent", tmp_path / "merged", base="tiny-babyai")
    on_full = load_backbone(tmp_path / "agent", base="tiny-babyai")
    expected = logits_of(on_full.model, on_full.processor, episodes[0])
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(merged, on_full.processor, episodes[0]), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_trained_on_a_base_in_4_bits_merges_into_the_full_one(make_trainer, tmp_path):
    pytest.importorskip("bitsandbytes")
    quantized = load_backbone("tiny-babyai", quantization_config=ModelArguments(load_in_4bit=True).quantization())
    trainer = make_trainer(quantized.model, processing_class=quantized.processor, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "agent"))
    merge_adapter(tmp_path / "agent", tmp_path / "merged")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert tensors.keys() == load_file(f"{tiny_model_path()}/model.safetensors").keys()


def test_what_cannot_be_merged_is_refused(saved, base_folder, tmp_path):
    _, agent = saved
    with pytest.raises(ValueError, match="is no adapter but a full model"):
        merge_adapter(base_folder, tmp_path / "merged")
    with pytest.raises(FileExistsError, match="agent is there already: name a new folder"):
        merge_adapter(agent, agent)


def test_an_adapter_that_is_not_finite_leaves_nothing_behind(saved, tmp_path):
    _, agent = saved
    tensors = load_file(agent / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, agent / "adapter_model.safetensors", metadata={"format": "pt"})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="NaN"):
        merge_adapter(agent, tmp_path / "merged")
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_merges_and_says_what_is_wrong_in_one_line(saved, base_folder, tmp_path, capsys):
    _, agent = saved
    assert main(["merge", "--model", str(agent), "--output", str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file() and "Full model: " in capsys.readouterr().out
    assert main(["merge", "--model", base_folder, "--output", str(tmp_path / "again")]) == 1
    assert (
        capsys.readouterr().err
        == f"error: {base_folder} is no adapter but a full model already: there is nothing to merge.\n"
    )


def test_an_agent_on_an_embedded_base_does_not_depend_on_where_the_package_lies(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer("tiny-babyai", max_steps=1)
    trainer.train()
    trainer.save_model(tmp_path / "tiny-babyai")  # a folder that is called as its base is
    config = json.loads((tmp_path / "tiny-babyai" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-babyai"
    monkeypatch.chdir(tmp_path)
    again = AFSFTTrainer("tiny-babyai", trainer.args)
    tensors = load_file("tiny-babyai/critic.safetensors")
    assert torch.equal(again.model.critic.per_head("down_weight"), tensors["critic.down_weight"])

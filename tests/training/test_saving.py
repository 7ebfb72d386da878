# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the trainer saves can be used: by plain PEFT, by transformers, and by the trainer itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from trl_vlmq import load_backbone
from trl_vlmq.critic import load_critic
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset


@pytest.fixture
def trained(make_trainer, tmp_path):
    """A trainer that has learned something, and the folder that it was saved in."""
    trainer = make_trainer(target_tau=0.2)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    return trainer, tmp_path / "saved"


def critic_tensors(model) -> dict[str, torch.Tensor]:
    tensors = {f"critic.{name}": model.critic.per_head(name).detach() for name, _ in model.critic.named_parameters()}
    return tensors | {
        f"target.{name}": model.target_critic.per_head(name) for name, _ in model.target_critic.named_buffers()
    }


def adapter_tensors(model) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if "lora_" in name}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and a
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


PLAIN_PEFT = """
import sys

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

base, adapter, inputs, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), adapter).eval()
AutoProcessor.from_pretrained(adapter)
with torch.no_grad():
    save_file({"logits": model(**load_file(inputs)).logits}, out)
assert not [name for name in sys.modules if name.split(".")[0] == "trl_vlmq"], "trl_vlmq was imported"
"""


def test_adapter_loads_where_only_peft_is_installed(trained, base_folder, episodes, logits_of, tmp_path):
    trainer, folder = trained
    processor = trainer.processing_class
    inputs = processor(
        text=["<user><image>Turn 1.<end><assistant>"], images=[episodes[0]["images"][0]], return_tensors="pt"
    )
    save_file(dict(inputs), tmp_path / "inputs.safetensors")
    arguments = [base_folder, folder, tmp_path / "inputs.safetensors", tmp_path / "logits.safetensors"]
    subprocess.run([sys.executable, "-c", PLAIN_PEFT, *map(str, arguments)], check=True, cwd=tmp_path, timeout=120)
    elsewhere = load_file(tmp_path / "logits.safetensors")["logits"]
    here = logits_of(trainer.model.model, processor, episodes[0])
    base = logits_of(AutoModelForImageTextToText.from_pretrained(base_folder), processor, episodes[0])
    torch.testing.assert_close(elsewhere, here, rtol=1e-5, atol=1e-6)
    assert (here - base).abs().max() > 0.01, "the adapter does nothing, so the comparison says nothing"


def test_adapter_names_its_base_and_trains_neither_head_nor_vision(trained, base_folder):
    config = json.loads((trained[1] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base_folder
    assert not config["modules_to_save"]
    tensors = load_file(trained[1] / "adapter_model.safetensors")
    assert tensors and not [name for name in tensors if "lm_head" in name or "vision" in name or "embed" in name]


def test_two_adapters_are_swapped_on_one_base(make_trainer, base_folder, episodes, logits_of, tmp_path):
    expected = {}
    for name, objective in (("first", "afsft"), ("second", "sft")):
        trainer = make_trainer(actor_objective=objective, model_seed=len(name))
        trainer.train()
        trainer.save_model(tmp_path / name)
        expected[name] = logits_of(trainer.model.model, trainer.processing_class, episodes[0])
    processor = AutoProcessor.from_pretrained(tmp_path / "first")
    base = AutoModelForImageTextToText.from_pretrained(base_folder)
    model = PeftModel.from_pretrained(base, tmp_path / "first", adapter_name="first")
    model.load_adapter(tmp_path / "second", "second")
    assert not torch.allclose(expected["first"], expected["second"], atol=1e-3)
    for name in ("second", "first", "second"):
        model.set_adapter(name)
        assert torch.equal(logits_of(model, processor, episodes[0]), expected[name])


def test_without_its_adapter_the_model_is_the_base_bit_for_bit(trained, base_folder, episodes, logits_of):
    trainer, _ = trained
    base = logits_of(AutoModelForImageTextToText.from_pretrained(base_folder), trainer.processing_class, episodes[0])
    with trainer.model.model.disable_adapter():
        assert torch.equal(logits_of(trainer.model.model, trainer.processing_class, episodes[0]), base)
    assert not torch.equal(logits_of(trainer.model.model, trainer.processing_class, episodes[0]), base)


def test_critic_and_its_target_survive_the_file(trained, make_trainer):
    trainer, folder = trained
    tensors = load_file(folder / "critic.safetensors")
    assert_equal(tensors, critic_tensors(trainer.model))
    assert not torch.equal(tensors["critic.down_weight"], tensors["target.down_weight"])
    assert json.loads((folder / "critic_config.json").read_text()) == {
        "state_size": 32,
        "vocab_size": 262,
        "hidden_size": 32,
        "num_critics": 1,
    }
    other = make_trainer(model_seed=7).model
    load_critic(folder, other.critic, other.target_critic)
    assert_equal(critic_tensors(other), tensors)


@pytest.mark.parametrize("as_path", [str, Path])
def test_training_goes_on_from_a_saved_folder(trained, make_trainer, episodes, logits_of, as_path):
    trainer, folder = trained
    again = make_trainer(as_path(folder), lora=False, model_seed=7)
    assert_equal(critic_tensors(again.model), critic_tensors(trainer.model))
    assert_equal(adapter_tensors(again.model), adapter_tensors(trainer.model))
    assert torch.equal(
        logits_of(again.model.model, again.processing_class, episodes[0]),
        logits_of(trainer.model.model, trainer.processing_class, episodes[0]),
    )
    again.train()
    changed = [
        n for n, p in adapter_tensors(again.model).items() if not torch.equal(p, adapter_tensors(trainer.model)[n])
    ]
    assert len(changed) == len(adapter_tensors(again.model)), "the loaded adapter is frozen"


def on_the_hub(folder, name: str) -> str:
    """Lays a folder out as if it had been downloaded from the Hub, and returns its id."""
    cached, revision = Path(HF_HUB_CACHE, f"models--someone--{name}"), "0" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    shutil.copytree(folder, cached / "snapshots" / revision)
    if not Path(folder, "config.json").is_file():
        (cached / ".no_exist" / revision).mkdir(parents=True)
        (cached / ".no_exist" / revision / "config.json").touch()  # the Hub has been asked
    return f"someone/{name}"


def test_the_critic_of_a_hub_id_is_loaded_as_well(trained, make_trainer):
    trainer, folder = trained
    again = make_trainer(on_the_hub(folder, "agent"), lora=False, model_seed=7)
    assert_equal(critic_tensors(again.model), critic_tensors(trainer.model))
    assert_equal(adapter_tensors(again.model), adapter_tensors(trainer.model))


def test_a_hub_id_without_critic_starts_a_new_one(make_trainer, base_folder):
    assert not make_trainer(on_the_hub(base_folder, "base")).model.critic.down_weight.any()


def test_a_second_adapter_on_a_saved_one_is_refused(trained, make_trainer):
    with pytest.raises(ValueError, match="already has an adapter; pass `peft_config=None`"):
        make_trainer(str(trained[1]), lora=True)


def test_a_critic_of_another_size_is_refused(trained, make_trainer):
    with pytest.raises(ValueError, match="'hidden_size': 32.*'hidden_size': 7"):
        make_trainer(str(trained[1]), lora=False, critic_hidden_size=7)
    with pytest.raises(ValueError, match="'num_critics': 1.*'num_critics': 2"):
        make_trainer(str(trained[1]), lora=False, num_critics=2)


def test_an_adapter_without_critic_starts_a_new_one(make_trainer, tmp_path):
    sft = make_trainer(actor_objective="sft", critic_coef=0.0)
    sft.train()
    sft.save_model(tmp_path / "sft")
    trainer = make_trainer(str(tmp_path / "sft"), lora=False)
    assert_equal(adapter_tensors(trainer.model), adapter_tensors(sft.model))
    assert not trainer.model.critic.down_weight.any()
    trainer.train()


def test_plain_sft_goes_on_from_a_folder_with_a_critic(trained, make_trainer):
    trainer, folder = trained
    sft = make_trainer(str(folder), lora=False, actor_objective="sft", critic_coef=0.0)
    assert sft.model.critic is None
    assert_equal(adapter_tensors(sft.model), adapter_tensors(trainer.model))


def test_an_adapter_whose_base_was_never_saved_says_so(make_trainer, tiny_vlm, tmp_path):
    make, processor = tiny_vlm
    make_trainer(make(), processing_class=processor).save_model(tmp_path / "saved")
    with pytest.raises(ValueError, match="does not name its base model.*base_model_name_or_path"):
        make_trainer(str(tmp_path / "saved"), lora=False)


def test_a_fully_fine_tuned_model_is_an_ordinary_model(make_trainer, base_folder, episodes, logits_of, tmp_path):
    trainer = make_trainer(lora=False)
    trainer.train()
    folder = tmp_path / "full"
    trainer.save_model(folder)
    expected = logits_of(trainer.model.model, trainer.processing_class, episodes[0])
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert torch.equal(logits_of(model, AutoProcessor.from_pretrained(folder), episodes[0]), expected)
    base = AutoModelForImageTextToText.from_pretrained(base_folder)
    assert not torch.allclose(logits_of(base, trainer.processing_class, episodes[0]), expected, atol=1e-2)
    again = make_trainer(str(folder), lora=False)
    assert_equal(critic_tensors(again.model), critic_tensors(trainer.model))
    assert torch.equal(logits_of(again.model.model, again.processing_class, episodes[0]), expected)


def test_a_model_with_tied_embeddings_resumes_and_reloads(make_trainer, tiny_llm, snapshot, checkpoint_of, tmp_path):
    make, tokenizer = tiny_llm
    turns = [
        Turn([{"role": "user", "content": [{"type": "text", "text": t}]}], [], t, 1.0, True, False) for t in "abcd"
    ]
    settings = {
        "processing_class": tokenizer,
        "lora": False,
        "train_dataset": episodes_to_dataset(Episode(turn.completion, [turn]) for turn in turns),
    }
    straight = make_trainer(make(tie_word_embeddings=True), **settings, save_strategy="steps", save_steps=4)
    straight.train()
    resumed = make_trainer(make(tie_word_embeddings=True, seed=5), **settings, model_seed=7)
    resumed.train(resume_from_checkpoint=str(checkpoint_of(4)))
    weights = snapshot(straight.model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot(resumed.model).items())
    model = resumed.model.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    resumed.save_model(tmp_path / "saved")
    again = load_backbone(tmp_path / "saved").model
    assert torch.equal(again.get_output_embeddings().weight, model.get_output_embeddings().weight)


@pytest.mark.parametrize("lora", [True, False])
def test_best_model_is_loaded_at_the_end(make_trainer, episodes, checkpoint_of, lora):
    trainer = make_trainer(
        lora=lora,
        eval_dataset=episodes.select(range(12)),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_nll",
        greater_is_better=True,  # the worst one, which is an early one
    )
    trainer.train()
    best = checkpoint_of(2)
    assert trainer.state.best_model_checkpoint == str(best)
    assert_equal(critic_tensors(trainer.model), load_file(best / "critic.safetensors"))
    weights = "adapter_model.safetensors" if lora else "model.safetensors"
    last, saved = load_file(checkpoint_of(8) / weights), load_file(best / weights)
    assert any(not torch.equal(last[name], saved[name]) for name in saved)
    name = next(name for name in saved if "layers.0.self_attn.q_proj" in name and "vision" not in name)
    loaded = dict(trainer.model.model.named_parameters())
    own = next(
        n
        for n in loaded
        if n.replace(".default", "").endswith(name.split("language_model.")[-1]) and "vision" not in n
    )
    assert torch.equal(loaded[own], saved[name])


@pytest.mark.parametrize("lora", [True, False])
def test_nothing_of_ours_is_pickled(make_trainer, checkpoint_of, tmp_path, lora):
    trainer = make_trainer(lora=lora, save_strategy="steps", save_steps=4)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    plain = {".json", ".jinja", ".safetensors", ".md", ".txt"}
    assert {file.suffix for file in (tmp_path / "saved").iterdir()} <= plain
    others = {file.name for file in checkpoint_of(8).iterdir() if file.suffix not in plain}
    assert others == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}  # transformers' own


def test_settings_are_saved_readably(trained):
    settings = json.loads((trained[1] / "training_args.json").read_text())
    assert settings["target_tau"] == 0.2 and settings["actor_objective"] == "afsft"

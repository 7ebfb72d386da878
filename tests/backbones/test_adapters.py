# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A LoRA lands where it should, and models come back from disk as they went there."""

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn

from trl_vlmq import load_backbone
from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import ImageTextBackbone, TextBackbone
from trl_vlmq.losses import Objective


ACTIONS = ([7, 8, 9, 10, 1], [11, 1], [1], [12, 13, 14])


@pytest.fixture
def outputs(observations):
    @torch.no_grad()
    def of(backbone, family) -> torch.Tensor:
        prompts = [backbone.encode(*observation) for observation in observations(family)]
        backbone.model.eval()
        return backbone.forward(backbone.collate(prompts, ACTIONS), keep=5)[1]

    return of


def language_linears(model: nn.Module) -> set[str]:
    """All linear layers but the head and whatever looks at pictures."""
    apart = ("lm_head", "vision", "projector", "connector", "resampler")
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name for name in names if not any(part in name for part in apart)}


def test_default_lora_covers_every_linear_layer_of_the_language_model_and_no_other(family):
    backbone = family.make()
    expected = language_linears(backbone.model)
    # q, k, v, o, gate, up, down; Phi: q, k, v, dense, fc1, fc2; Phi-3: qkv, o, gate_up, down
    per_layer = {"phi": 6, "xgen_mm": 4}.get(family.name, 7)
    assert len(expected) == 2 * per_layer
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2))
    prefix = "base_model.model."
    adapted = {
        name.split(".lora_A")[0].removeprefix(prefix)
        for name, _ in backbone.model.named_modules()
        if ".lora_A." in name
    }
    assert adapted == expected


def test_default_lora_trains_nothing_else(family):
    backbone = family.make()
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2))
    assert all("lora_" in name for name, p in backbone.model.named_parameters() if p.requires_grad)


@torch.no_grad()
def test_a_vision_tower_that_learns_is_looked_through_anew(vision_family, observe):
    """What a picture looked like before the last step must not be remembered."""
    backbone = vision_family.make()
    observation = observe("Look.", 2)
    backbone.forward(backbone.collate([backbone.encode(*observation)]), keep=1)
    torch.manual_seed(0)
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    backbone.model.eval()
    before, _ = backbone.forward(backbone.collate([backbone.encode(*observation)]), keep=1)
    learned = [
        p
        for name, p in backbone.model.named_parameters()
        if "vision" in name and "layers.0" in name and p.requires_grad
    ]
    assert learned
    for parameter in learned:
        parameter.mul_(3)
    after, _ = backbone.forward(backbone.collate([backbone.encode(*observation)]), keep=1)
    assert (after - before).abs().max() > 1e-3


def test_target_modules_of_the_user_are_kept(family):
    backbone = family.make()
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, target_modules=["v_proj"]))
    names = [name for name, _ in backbone.model.named_parameters() if ".lora_A." in name]
    adapted = {name.split(".lora_A.")[0].rsplit(".", 1)[1] for name in names}
    assert adapted == {"v_proj"}


def test_one_config_serves_several_models(families):
    config = LoraConfig(r=2)
    for name in ("llava", "phi", "idefics3"):
        backbone = families[name].make()
        VLMActorCritic.add_adapter(backbone, config)
        assert any("lora_A" in n for n, _ in backbone.model.named_parameters())
    assert config.target_modules is None


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "adapter"])
def test_a_model_comes_back_from_disk_as_it_went_there(family, outputs, tmp_path, adapter):
    family.make_model(seed=3).save_pretrained(tmp_path / "base")
    family.processor.save_pretrained(tmp_path / "base")
    backbone = load_backbone(str(tmp_path / "base"))
    assert type(backbone) is (ImageTextBackbone if family.has_vision else TextBackbone)
    base = outputs(backbone, family)
    assert torch.equal(base, outputs(family.make(seed=3), family))
    if adapter:
        torch.manual_seed(0)
        VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, init_lora_weights=False))
    else:
        backbone.model.get_input_embeddings().weight.data.mul_(1.5)
    expected = outputs(backbone, family)
    assert not torch.allclose(expected, base, atol=1e-2)

    model = VLMActorCritic(backbone, Objective())
    model.save_pretrained(tmp_path / "saved")
    again = load_backbone(str(tmp_path / "saved")) if adapter else None
    if again is None:
        family.processor.save_pretrained(tmp_path / "saved")
        again = load_backbone(tmp_path / "saved")
    assert torch.equal(outputs(again, family), expected)
    assert again.stop_token_id == backbone.stop_token_id
    assert again.completion_ids("go") == backbone.completion_ids("go")
    assert load_file(tmp_path / "saved" / "critic.safetensors")["critic.down_weight"].shape[1] == backbone.n_logits


def test_options_reach_from_pretrained(families, tmp_path):
    family = families["llama"]
    family.make_model().save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path), dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert load_backbone(str(tmp_path)).model.dtype == torch.float32

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a user chooses is kept: target modules, one config for several models, options of `from_pretrained`."""

import pytest
import torch
from peft import LoraConfig

from trl_vlmq import load_backbone
from trl_vlmq.actor_critic import VLMActorCritic


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
        if ("vision" in name or "visual" in name) and ".0." in name and p.requires_grad
    ]
    assert learned
    for parameter in learned:
        parameter.mul_(3)
    after, _ = backbone.forward(backbone.collate([backbone.encode(*observation)]), keep=1)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llava", "llama"])
def test_target_modules_of_the_user_are_kept(families, name):
    backbone = families(name).make()
    VLMActorCritic.add_adapter(backbone, LoraConfig(r=2, target_modules=["v_proj"]))
    names = [name for name, _ in backbone.model.named_parameters() if ".lora_A." in name]
    adapted = {name.split(".lora_A.")[0].rsplit(".", 1)[1] for name in names}
    assert adapted == {"v_proj"}


def test_one_config_serves_several_models(families):
    config = LoraConfig(r=2)
    for name in ("llava", "phi", "idefics3"):
        backbone = families(name).make()
        VLMActorCritic.add_adapter(backbone, config)
        assert any("lora_A" in n for n, _ in backbone.model.named_parameters())
    assert config.target_modules is None


def test_options_reach_from_pretrained(families, tmp_path):
    family = families("llama")
    family.make_model().save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path), dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert load_backbone(str(tmp_path)).model.dtype == torch.float32

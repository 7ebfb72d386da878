# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a user finds on the Hub after a push: the whole agent, its card, and nothing that is nobody's business."""

import json

from huggingface_hub import ModelCard


def test_what_lies_here_lies_on_the_hub(agent, hub):
    here = {path.name: path.read_bytes() for path in agent.iterdir()}
    assert hub.files("ada/agent") == here
    assert {"adapter_config.json", "adapter_model.safetensors", "critic.safetensors", "README.md"} <= set(here)


def test_the_card_of_an_embedded_base_leads_nobody_astray(agent, hub):
    card = ModelCard(hub.files("ada/agent")["README.md"].decode())
    assert card.data.base_model is None and "huggingface.co/tiny-babyai" not in card.text
    assert "`tiny-babyai` (embedded in the package)" in card.text and 'tiny_model_path("tiny-babyai")' in card.text
    assert card.data.datasets == "ada/logs" and card.data.tags[:2] == ["trl_vlmq", "vlm-q-learning"]
    assert 'load_backbone("ada/agent")' in card.text


def test_the_adapter_of_an_embedded_base_names_it_and_no_folder_of_this_machine(agent, hub):
    config = json.loads(hub.files("ada/agent")["adapter_config.json"])
    assert config["base_model_name_or_path"] == "tiny-babyai"


def test_a_base_in_a_folder_of_one_s_own_is_warned_about(client, logs, tmp_path):
    code = """
import shutil
from peft import LoraConfig
from trl_vlmq import AFSFTConfig, AFSFTTrainer, load_episodes, tiny_model_path

shutil.copytree(tiny_model_path(), "mine")
args = AFSFTConfig("agent", max_steps=1, report_to="none", use_cpu=True, save_strategy="no", hub_model_id="ada/mine")
trainer = AFSFTTrainer("mine", args, load_episodes(logs), peft_config=LoraConfig(r=2))
trainer.push_to_hub()
"""
    done = client(code, logs=logs)
    assert done["error"] is None and "names the folder mine as its base, which nobody else has" in done["err"], done


def test_checkpoints_that_are_pushed_on_the_way_bring_their_critic_and_no_token(train, hub, tmp_path):
    done = train(
        "",
        hub_model_id="ada/way", push_to_hub=True, hub_always_push=True, save_strategy="steps", save_steps=2,
        hub_token="hf_ada",
    )  # fmt: skip
    assert done["error"] is None, done
    commits = hub.repositories["model", "ada/way"].commits[1:]
    assert len(commits) == 2
    for step, files in zip((2, 4), commits, strict=True):
        folder = tmp_path / "agent" / f"checkpoint-{step}"
        for name in ("adapter_model.safetensors", "critic.safetensors", "filter_state.json"):
            assert files[name] == (folder / name).read_bytes(), (step, name)
        assert not [name for name, content in files.items() if b"hf_ada" in content or name.endswith(".bin")]
        assert f"{step} optimiser steps" in files["README.md"].decode()


def test_the_last_checkpoint_goes_along_on_demand(train, hub):
    done = train(
        "",
        hub_model_id="ada/last", push_to_hub=True, hub_strategy="checkpoint", save_strategy="steps", save_steps=4,
    )  # fmt: skip
    assert done["error"] is None, done
    files = hub.files("ada/last")
    assert {"critic.safetensors", "last-checkpoint/critic.safetensors", "last-checkpoint/optimizer.pt"} <= set(files)


def test_an_upload_on_the_way_that_fails_does_not_end_the_training(train, hub):
    hub.break_connections("PUT", "", after=1000)
    done = train(
        "result = trainer.state.global_step",
        hub_model_id="ada/broken", push_to_hub=True, save_strategy="steps", save_steps=2, seed=11,
    )  # fmt: skip
    assert done["error"] is None and done["result"] == 4, done
    assert "Uploading a checkpoint to ada/broken failed" in done["err"] and "Training goes on" in done["err"]
    assert hub.files("ada/broken") == {}


def test_the_command_pushes_what_it_trained(client, logs, hub):
    done = client(
        "from trl_vlmq.cli.main import main\nresult = main(line.split())",
        line=f"train --dataset {logs} --output_dir cli --max_steps 1 --eval_share 0 --save_strategy no --use_cpu "
        "--report_to none --push_to_hub --hub_model_id ada/cli",
    )
    assert done["error"] is None and done["result"] == 0, done
    files = hub.files("ada/cli")
    assert {"adapter_model.safetensors", "critic.safetensors", "prompt.json", "README.md"} <= set(files)
    assert len(hub.repositories["model", "ada/cli"].commits) == 2  # the empty one, and one push

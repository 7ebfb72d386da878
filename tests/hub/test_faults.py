# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""When the Hub does not take or give something, the message names it, says why and what to do, and nothing is lost."""

import hashlib

import pytest
from safetensors.torch import load_file

from trl_vlmq import load_backbone


PUSH = """
tensors = {f"critic.{name}": trainer.model.critic.per_head(name).detach().clone() for name, _ in trainer.model.critic.named_parameters()}
from safetensors.torch import save_file
save_file(tensors, "trained.safetensors")
trainer.push_to_hub()
"""
LOAD = "from trl_vlmq import load_backbone\nload_backbone(repo)"


def assert_agent_is_whole(folder) -> None:
    """The agent loads from its folder, and its critic is the one that was trained."""
    load_backbone(folder / "agent")
    saved, trained = load_file(folder / "agent" / "critic.safetensors"), load_file(folder / "trained.safetensors")
    assert trained and all(saved[name].equal(tensor) for name, tensor in trained.items())


@pytest.mark.parametrize(
    ("token", "repo", "reason", "cure"),
    [
        ("hf_wrong", "ada/refused", "the token is wrong or missing (401", "hf auth login"),
        ("", "ada/refused", "the token is wrong or missing (401", "hf auth login"),
        ("hf_bob", "ada/refused", 'create a model under the namespace "ada")', "Take a token with that permission"),
        ("hf_bob", "ada/agent", "the token does not allow it (403", "a repository of your own"),
    ],
)
def test_a_refused_push_keeps_the_agent(agent, train, hub, tmp_path, token, repo, reason, cure):
    before = dict(hub.files("ada/agent"))
    done = train(PUSH, token=token, hub_model_id=repo)
    assert done["types"][0] == "HubError" and repo in done["error"], done
    assert reason in done["error"] and cure in done["error"]
    assert (
        f"The agent lies whole in agent: call trainer.push_to_hub() again, or `hf upload {repo} agent" in done["error"]
    )
    assert_agent_is_whole(tmp_path)
    assert hub.files("ada/agent") == before and ("model", "ada/refused") not in hub.repositories


def test_a_wrong_token_is_noticed_before_the_training(train, tmp_path):
    done = train("", token="hf_wrong", hub_model_id="ada/early", push_to_hub=True, save_strategy="steps", save_steps=1)
    assert done["types"][0] == "HubError" and "Making the repository ada/early failed" in done["error"]
    assert not list(tmp_path.glob("agent/checkpoint-*"))


def test_a_connection_that_breaks_in_the_weights_keeps_the_agent_and_what_the_hub_had(train, hub, tmp_path):
    done = train("trainer.push_to_hub()", hub_model_id="ada/weights")
    assert done["error"] is None, done
    before = dict(hub.files("ada/weights"))
    hub.break_connections("PUT", "", after=10_000)
    done = train(PUSH, hub_model_id="ada/weights", seed=7)
    assert done["types"][0] == "HubError" and "Uploading the agent to ada/weights failed" in done["error"], done
    assert "Try again" in done["error"] and "The agent lies whole in agent" in done["error"]
    assert hub.files("ada/weights") == before
    assert_agent_is_whole(tmp_path)
    hub.broken.clear()
    again = (
        f"import huggingface_hub\nhuggingface_hub.upload_folder(repo_id='ada/weights', folder_path='{tmp_path}/agent')"
    )
    code = train(again, output_dir="other")
    assert code["error"] is None, code
    assert hub.files("ada/weights")["critic.safetensors"] == (tmp_path / "agent" / "critic.safetensors").read_bytes()


def test_a_connection_that_breaks_once_is_no_news(train, hub, tmp_path):
    hub.break_connections("PUT", "", after=10_000, times=1)
    done = train("trainer.push_to_hub()", hub_model_id="ada/once", seed=12)
    assert done["error"] is None and hub.broken[0][-1] == 0, done
    for name in ("critic.safetensors", "adapter_model.safetensors"):
        assert hub.files("ada/once")[name] == (tmp_path / "agent" / name).read_bytes()


@pytest.mark.slow  # Xet's client has its own, long breath
def test_a_storage_that_xet_does_not_reach_keeps_the_agent(train, tmp_path):
    """This Hub has no Xet storage."""
    switch = "import huggingface_hub.constants as constants\nconstants.HF_HUB_DISABLE_XET = {}\n"
    done = train(switch.format(False) + PUSH, hub_model_id="ada/xet", seed=13)
    train(switch.format(True), max_steps=1)
    assert done["types"][0] == "HubError" and "Uploading the agent to ada/xet failed" in done["error"], done
    assert "xet-write-token" in done["error"] and "The agent lies whole in agent" in done["error"]
    assert_agent_is_whole(tmp_path)


@pytest.mark.parametrize(
    ("repo", "token", "reason"),
    [
        ("ada/nothing", "hf_ada", "there is no such repository, or it is private"),
        ("ada/nothing", "hf_wrong", "the token is wrong or missing (401"),
        ("ada/secret", "hf_bob", "there is no such repository, or it is private"),
        ("ada/secret", "", "HF_TOKEN"),
    ],
)
def test_an_agent_that_the_hub_does_not_give(agent, hub, client, repo, token, reason):
    client("import huggingface_hub\nhuggingface_hub.create_repo('ada/secret', private=True, exist_ok=True)")
    hub.repositories["model", "ada/secret"].commits.append(dict(hub.files("ada/agent")))
    done = client(LOAD, repo=repo, token=token)
    assert done["types"][0] == "HubError" and repo in done["error"] and reason in done["error"], done


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_connection_that_breaks_in_a_download_leaves_nothing_half_and_is_taken_up_again(agent, hub, client, name):
    repo = f"ada/download-{name.split('.')[-1]}"
    client("import huggingface_hub\nhuggingface_hub.create_repo(repo)", repo=repo)
    stored, files = hub.repositories["model", repo], dict(hub.files("ada/agent"))
    files["adapter_config.json"] += b"\n"  # so that it is in no cache
    stored.commits.append(files)
    stored.large |= {"adapter_model.safetensors", "critic.safetensors"}
    wanted = hashlib.sha256(files[name]).hexdigest() if name.endswith(".safetensors") else name
    hub.break_connections("GET", wanted, after=700)
    done = client(LOAD, repo=repo)
    assert done["types"][0] == "HubError" and repo in done["error"], done
    assert "connection broke" in done["error"] and "Try again" in done["error"]
    hub.broken.clear()
    done = client(LOAD + "\nresult = True", repo=repo)
    assert done["result"] is True, done


def test_a_critic_that_cannot_be_asked_for_is_not_taken_for_missing(agent, hub, client, logs):
    client("import huggingface_hub\nhuggingface_hub.create_repo('ada/asked')")
    stored = hub.repositories["model", "ada/asked"]
    stored.commits.append(dict(hub.files("ada/agent")))
    wanted = hashlib.sha256(stored.files["critic.safetensors"]).hexdigest()
    stored.large |= {"adapter_model.safetensors", "critic.safetensors"}
    hub.break_connections("GET", wanted, after=700)
    code = """
from trl_vlmq import AFSFTConfig, AFSFTTrainer, load_episodes
trainer = AFSFTTrainer("ada/asked", AFSFTConfig("x", report_to="none", use_cpu=True), load_episodes(logs))
"""
    done = client(code, logs=logs)
    assert "Downloading critic.safetensors of ada/asked failed" in (done["error"] or ""), done


def test_the_command_says_in_one_line_what_the_hub_refused(client, logs, tmp_path):
    line = f"train --dataset {logs} --output_dir cli --max_steps 1 --eval_share 0 --save_strategy no --use_cpu "
    code = """
import contextlib, io
from trl_vlmq.cli.main import main
result = main(line.split())
"""
    done = client(code, line=line + "--report_to none --push_to_hub --hub_model_id bob/agent")
    error = done["err"].splitlines()[-1]
    assert done["result"] == 1 and error.startswith("error: Making the repository bob/agent failed: "), done

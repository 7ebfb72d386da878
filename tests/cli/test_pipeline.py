# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Collect, train, evaluate: what the commands leave behind is what the functions under them compute."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForImageTextToText

import trl_vlmq
from trl_vlmq import (
    BehaviorPolicy,
    VLMPolicy,
    episodes_to_dataset,
    evaluate_policy,
    load_backbone,
    load_episodes,
    play_episodes,
    tiny_model_path,
)
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.prompt_record import prompt_of_episodes


ENV = "hallway:Hallway-v0"


@pytest.fixture
def folder(pipeline, user_folder, monkeypatch):
    """The user's folder after all three commands."""
    monkeypatch.syspath_prepend(user_folder)
    return user_folder


def test_collected_episodes_are_those_of_play_episodes(folder):
    policy = BehaviorPolicy({"expert": 1, "random": 2})
    by_hand = episodes_to_dataset(play_episodes(ENV, policy, 20, seed=3, prompt_builder=PromptBuilder(history=1)))
    collected = load_episodes(folder / "e.parquet")
    assert collected.with_format("arrow")[:].equals(by_hand.with_format("arrow")[:])
    assert any(
        "Earlier: " in part["text"] for row in collected["prompt"] for part in row[0]["content"] if part["text"]
    )


def test_the_table_says_what_was_collected(pipeline, folder):
    rows = load_episodes(folder / "e.parquet").select_columns(["episode_id", "behavior", "success"]).to_list()
    last = {row["episode_id"]: row for row in rows}.values()
    for name in ("expert", "random"):
        mine = [row["success"] for row in last if row["behavior"] == name]
        turns = sum(row["behavior"] == name for row in rows)
        expected = f"| {name} | {len(mine)} | {sum(mine) / len(mine):.1%} | {turns} | {turns / len(mine):.1f} |"
        assert expected in pipeline["collect"].stdout
    assert f"| all | 20 | {sum(row['success'] for row in last) / 20:.1%} | {len(rows)} |" in pipeline["collect"].stdout


def test_the_trained_folder_is_complete(folder):
    agent = folder / "agent"
    base = AutoModelForImageTextToText.from_pretrained(tiny_model_path())
    PeftModel.from_pretrained(base, agent)  # loads without this package
    assert (agent / "critic.safetensors").is_file()
    metrics = json.loads((agent / "all_results.json").read_text())
    assert {"train_loss", "eval_loss", "eval_explained_variance"} <= set(metrics)
    history = json.loads((agent / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "policy_success_rate" in entry] == [0, 2, 4]


def test_the_prompt_goes_from_the_data_to_the_agent_to_its_evaluation(pipeline, folder):
    builder = PromptBuilder(history=1)
    assert prompt_of_episodes(folder / "e.parquet") == builder
    assert json.loads((folder / "agent" / "prompt.json").read_text()) == builder.to_dict()
    assert json.loads((folder / "results.json").read_text())["prompts"] == {"agent": builder.to_dict()}
    assert "history=1" in pipeline["evaluate"].stdout and "as recorded" in pipeline["evaluate"].stdout


def test_evaluation_equals_evaluate_policy(pipeline, folder):
    results = json.loads((folder / "results.json").read_text())["results"][ENV]
    agent = VLMPolicy(load_backbone(str(folder / "agent")), temperature=1.0, max_new_tokens=3)
    by_hand = {
        "agent": evaluate_policy(ENV, agent, 12, prompt_builder=PromptBuilder(history=1), progress=None),
        "random": evaluate_policy(ENV, BehaviorPolicy("random"), 12, progress=None),
        "expert": evaluate_policy(ENV, BehaviorPolicy("expert"), 12, progress=None),
    }
    assert list(results) == list(by_hand)
    for name, result in by_hand.items():
        assert results[name] == pytest.approx(result.summary(), rel=1e-12), name
        row = f"| {name} | {result.success_rate:.1%} |"
        assert row in pipeline["evaluate"].stdout
    assert results["expert"]["success_rate"] == 1 > results["random"]["success_rate"]
    assert 0 < results["agent"]["syntax_accuracy"] < 1, "the agent's numbers say nothing"
    other = evaluate_policy(ENV, agent, 12, prompt_builder=PromptBuilder(history=0), progress=None)
    assert other.summary() != by_hand["agent"].summary(), "the prompt makes no difference here"


def test_memory_of_an_agent_is_that_of_its_embedded_base(pipeline, command, user_folder):
    setup = ("--prompt_tokens", "128", "--tuning", "lora", "--launch", "one")
    agent, base = (
        command(user_folder, "memory", "--model_name_or_path", model, *setup) for model in ("agent", "tiny-babyai")
    )
    assert agent.returncode == 0, agent.stderr
    rows = [[line for line in run.stdout.splitlines() if line.startswith("| lora")] for run in (agent, base)]
    assert rows[0] == rows[1] and len(rows[0]) == 1


def test_an_agent_whose_adapter_is_off_is_its_embedded_base(pipeline, user_folder):
    repo = Path(trl_vlmq.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, repo / "examples" / "base_capability.py", "--agent", "agent", "--domain", "babyai",
         "--num_views", "12"],
        cwd=user_folder, env=os.environ | {"PYTHONPATH": str(repo)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "bit for bit" in run.stdout.splitlines()[-1]

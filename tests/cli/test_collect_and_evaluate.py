# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq collect` and `evaluate`: who acts, what is compared, and what they refuse."""

import json

import pytest

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
from trl_vlmq.statistics import paired_bootstrap


ENV = "hallway:Hallway-v0"


@pytest.fixture(autouse=True)
def collected(pipeline):
    """Every test finds e.parquet and agent/."""


def test_a_model_collects_as_it_was_trained_with_its_tokens(run, user_folder):
    line = (
        f"collect --env {ENV} --model agent --episodes 4 --max_new_tokens 3 --seed 5 --num_envs 2 --output own.parquet"
    )
    code, out, _ = run(line)
    assert code == 0 and "history=1" in out and "| policy | 4 |" in out
    policy = VLMPolicy(load_backbone(str(user_folder / "agent")), temperature=1.0, max_new_tokens=3)
    by_hand = episodes_to_dataset(play_episodes(ENV, policy, 4, seed=5, prompt_builder=PromptBuilder(history=1)))
    collected = load_episodes(user_folder / "own.parquet")
    assert collected.with_format("arrow")[:].equals(by_hand.with_format("arrow")[:])
    assert all(collected["completion_ids"])


def test_a_file_is_only_replaced_when_asked_to(run, user_folder):
    line = f"collect --env {ENV} --behaviors random --episodes 2 --output once.parquet"
    assert run(line)[0] == 0
    before = (user_folder / "once.parquet").read_bytes()
    code, _, err = run(f"{line} --seed 9")
    assert code == 1 and "once.parquet exists already" in err
    assert (user_folder / "once.parquet").read_bytes() == before
    assert run(f"{line} --seed 9 --overwrite")[0] == 0
    assert (user_folder / "once.parquet").read_bytes() != before


def test_arguments_of_the_environment_reach_it(run, user_folder):
    line = f"collect --env {ENV} --behaviors random:1 --episodes 6 --output short.parquet --env_kwargs"
    assert run(line, "{max_steps: 1}")[0] == 0
    assert len(load_episodes(user_folder / "short.parquet")) == 6


def test_several_models_are_compared_on_the_episodes_they_share(run, user_folder):
    base = tiny_model_path()
    line = (
        f"evaluate --env {ENV} --model agent {base} --episodes 10 --temperature 1 --max_new_tokens 3 --output c.json"
    )
    code, out, err = run(line)
    assert code == 0, err
    first, second = (
        evaluate_policy(
            ENV, VLMPolicy(load_backbone(name), temperature=1.0, max_new_tokens=3), 10,
            prompt_builder=PromptBuilder(history=history), progress=None,
        )
        for name, history in ((str(user_folder / "agent"), 1), (base, 0))
    )  # fmt: skip
    difference, low, high = paired_bootstrap(second.success, first.success)
    written = json.loads((user_folder / "c.json").read_text())
    assert written["differences"][ENV] == {f"{base} - agent": {"difference": difference, "low": low, "high": high}}
    assert f"{difference:+.1%} (paired bootstrap 95%: {low:+.1%} to {high:+.1%})" in out
    assert "history=0" in out and "nothing is recorded" in out and "as recorded" in out


def test_several_environments_give_a_table_each(run, user_folder):
    envs = "trl_vlmq/BabyAI-GoToObj-v0 trl_vlmq/BabyAI-GoToLocalS6N2-v0"
    line = f"evaluate --env {envs} --behavior random --episodes 5 --output two.json --env_kwargs"
    code, out, _ = run(line, "{max_steps: 8}")
    assert code == 0 and out.count("| policy | success |") == 2
    results = json.loads((user_folder / "two.json").read_text())["results"]
    for env in envs.split():
        by_hand = evaluate_policy(env, BehaviorPolicy("random"), 5, env_kwargs={"max_steps": 8}, progress=None)
        assert results[env]["random"] == pytest.approx(by_hand.summary())


def test_without_a_name_the_embedded_model_plays(run):
    code, out, _ = run(f"evaluate --env {ENV} --episodes 1 --max_new_tokens 1")
    assert code == 0 and "| tiny-babyai (untrained) |" in out


def test_a_checkpoint_is_asked_as_its_run_was_trained(run):
    code, out, _ = run(f"evaluate --env {ENV} --episodes 1 --max_new_tokens 1 --model agent/checkpoint-2")
    assert code == 0 and "agent/checkpoint-2: prompts: history=1" in out and "as recorded" in out


COLLECT = f"collect --env {ENV} --output o.parquet --episodes 2"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{COLLECT} --behaviors expert:2,rndom:1", "'rndom' is not a behavior of"),
        (f"{COLLECT} --behaviors expert:2,rndom:1", "did you mean random? it has random, expert, goes_left"),
        (f"{COLLECT} --behaviors expert:much", "'expert:much'"),
        (f"{COLLECT} --behaviors random --env_kwargs steps", "does not name its arguments"),
        (f"{COLLECT} --behaviors random --env_kwargs {{steps:2}}", "does not name its arguments"),
        (f"{COLLECT} --behaviors random --env trl_vlmq/BabyAI-GoToLocalS6N9-v0", "GoToLocalS6N2-v0"),
        (f"{COLLECT} --behaviors random --env BabyAI-GoToLocalS6N2-v0", "does not show images and text"),
        (f"{COLLECT} --behaviors random --env nowhere:Env-v0", "nowhere"),
        (f"{COLLECT} --behaviors random --output agent", "agent is a folder"),
        (f"{COLLECT} --model nobody", "The model 'nobody' cannot be loaded"),
        (f"{COLLECT} --model agent --history 0", "made with history=1"),
        (f"evaluate --env {ENV} --behavior best", "'best' is not a behavior of"),
        (f"evaluate --env {ENV} --output agent --behavior random", "agent is a folder"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_line_that_says_what_is_wrong(run, user_folder, line, message):
    code, _, err = run(line)
    assert code == 1 and message in err and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ")
    assert not (user_folder / "o.parquet").exists()


def test_wrong_arguments_of_the_environment_are_named(run):
    code, _, err = run(f"{COLLECT} --behaviors random --env_kwargs", "{step_limit: 3}")
    assert code == 1 and "cannot be made with {'step_limit': 3}" in err and err.count("\n") == 1

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An agent is played with the arguments of the environment that its logs were made with, unless the user says otherwise."""

import json

import pytest

from trl_vlmq import BehaviorPolicy
from trl_vlmq.env_record import EnvironmentRecord, environment_of_episodes, load_environment
from trl_vlmq.logs import collect_logs


ENV = "hallway:Hallway-v0"


def collect(path, **kwargs):
    collect_logs(path, ENV, BehaviorPolicy("expert"), 4, env_kwargs=kwargs, progress=None)


def test_arguments_go_from_the_logs_to_the_agent_to_its_evaluation(run, user_folder):
    line = f"collect --env {ENV} --behaviors random --episodes 6 --output brief.parquet --overwrite --env_kwargs"
    assert run(line, "{max_steps: 1}")[0] == 0
    assert environment_of_episodes(user_folder / "brief.parquet") == EnvironmentRecord(ENV, {"max_steps": 1})
    line = "train --dataset brief.parquet --output_dir brief --max_steps 1 --eval_share 0 --save_steps 1"
    code, out, err = run(f"{line} --env {ENV} --curve_episodes 2 --curve_steps 1")
    assert code == 0, err
    assert 'hallway:Hallway-v0: {"max_steps": 1} (as recorded with brief.parquet)' in out
    assert load_environment(str(user_folder / "brief" / "checkpoint-1")).env_kwargs == {"max_steps": 1}

    play = f"evaluate --env {ENV} --model brief --episodes 3 --max_new_tokens 2 --output brief.json"
    code, out, err = run(play)
    assert code == 0 and '{"max_steps": 1} (as recorded with brief)' in out, err
    written = json.loads((user_folder / "brief.json").read_text())
    assert written["env_kwargs"] == {ENV: {"max_steps": 1}}
    assert written["results"][ENV]["brief"]["mean_length"] == 1
    code, _, _ = run(f"{play} --env_kwargs", "{max_steps: 2}")
    written = json.loads((user_folder / "brief.json").read_text())
    assert code == 0 and written["env_kwargs"] == {ENV: {"max_steps": 2}}
    code, _, _ = run(play.replace(ENV, "trl_vlmq/BabyAI-GoToObj-v0 --env_kwargs {}"))
    assert code == 0

    collected = f"collect --env {ENV} --model brief --episodes 2 --max_new_tokens 2 --output own1.parquet --overwrite"
    assert run(collected)[0] == 0
    assert environment_of_episodes(user_folder / "own1.parquet").env_kwargs == {"max_steps": 1}


def test_agents_of_different_arguments_are_not_compared_unawares(run, user_folder, pipeline):
    for name, steps in (("one", 3), ("two", 4)):
        EnvironmentRecord(ENV, {"max_steps": steps}).save(user_folder / name)
    code, _, err = run(f"evaluate --env {ENV} --model one two --episodes 2")
    assert code == 1 and "choose with --env_kwargs" in err and "one: {'max_steps': 3}" in err


def test_what_cannot_be_written_down_is_not_recorded(tmp_path, monkeypatch, user_folder):
    assert EnvironmentRecord.of(lambda: None, {}) is None
    assert EnvironmentRecord.of(ENV, {"reward": print}) is None
    assert environment_of_episodes(tmp_path / "nothing.parquet") is None
    assert load_environment(str(tmp_path)) is None
    monkeypatch.syspath_prepend(user_folder)
    for name, steps in (("a", 2), ("b", 2), ("c", 3)):
        collect(tmp_path / f"{name}.parquet", max_steps=steps)
        expected = EnvironmentRecord(ENV, {"max_steps": 2}) if name != "c" else None  # files that differ
        assert environment_of_episodes(tmp_path) == expected


@pytest.mark.parametrize("kwargs", [{}, {"max_steps": 3}])
def test_the_record_reads_back(tmp_path, kwargs):
    EnvironmentRecord.of(ENV, kwargs).save(tmp_path)
    assert load_environment(str(tmp_path)) == EnvironmentRecord(ENV, kwargs)

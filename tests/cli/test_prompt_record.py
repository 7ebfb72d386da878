# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How an agent was asked is found again, or known not to be recorded."""

import pytest

from trl_vlmq.envs import PromptBuilder
from trl_vlmq.episodes import episodes_to_dataset
from trl_vlmq.prompt_record import (
    agree_on_prompt,
    load_prompt,
    prompt_metadata,
    prompt_of_episodes,
    save_prompt,
)
from trl_vlmq.storage import save_episodes


BUILDER = PromptBuilder(history=2, history_images=True, system="Play.")


@pytest.fixture
def write(tmp_path):
    """`write(name, builder)`: a Parquet file that records it, or records nothing."""

    def file(name, builder):
        metadata = None if builder is None else prompt_metadata(builder)
        save_episodes(episodes_to_dataset([]), tmp_path / name, metadata=metadata)
        return tmp_path / name

    return file


def test_a_file_keeps_its_record_when_it_moves(write, tmp_path):
    moved = write("a.parquet", BUILDER).rename(tmp_path / "b.parquet")
    assert prompt_of_episodes(moved) == BUILDER


def test_a_file_that_records_nothing_says_so(write):
    assert prompt_of_episodes(write("a.parquet", None)) is None
    assert prompt_of_episodes("user/name") is None


@pytest.mark.parametrize("other", [None, PromptBuilder()])
def test_a_folder_of_files_that_differ_is_refused(write, tmp_path, other):
    write("a.parquet", BUILDER)
    write("b.parquet", BUILDER)
    assert prompt_of_episodes(tmp_path) == BUILDER
    write("c.parquet", other)
    with pytest.raises(ValueError, match="different prompt settings"):
        prompt_of_episodes(tmp_path)


def test_an_agent_its_checkpoints_and_nobody_else_have_the_record(tmp_path, monkeypatch):
    (tmp_path / "agent" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "agent" / "other").mkdir()
    assert load_prompt(str(tmp_path / "agent")) is None
    save_prompt(BUILDER, tmp_path / "agent")
    assert load_prompt(str(tmp_path / "agent")) == load_prompt(str(tmp_path / "agent" / "checkpoint-3")) == BUILDER
    assert load_prompt(str(tmp_path / "agent" / "other")) is None
    monkeypatch.chdir(tmp_path / "agent" / "checkpoint-3")
    assert load_prompt(".") == BUILDER


def test_a_wish_may_fill_a_gap_but_not_contradict_the_record():
    assert agree_on_prompt(BUILDER, None) == agree_on_prompt(BUILDER, 2) == BUILDER
    assert agree_on_prompt(None, 3) == PromptBuilder(history=3)
    assert agree_on_prompt(None, None) == PromptBuilder()
    with pytest.raises(ValueError, match="history=0, but .* history=2"):
        agree_on_prompt(BUILDER, 0)

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq train`: resuming, going on with an adapter, Ctrl-C, and data or models that are not what they should be."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

import trl_vlmq
from trl_vlmq import load_episodes, save_episodes
from trl_vlmq.envs import PromptBuilder


SHORT = "--max_steps 4 --per_device_train_batch_size 4 --eval_share 0 --disable_tqdm true --dataset e.parquet"


@pytest.fixture(autouse=True)
def collected(pipeline):
    """Every test finds e.parquet and agent/."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file}/{name}": tensor
        for file in ("adapter_model", "critic")
        for name, tensor in load_file(folder / f"{file}.safetensors").items()
    }


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(run, user_folder):
    settings = f"train {SHORT} --save_steps 2"
    assert run(f"{settings} --output_dir straight")[0] == 0
    from_checkpoint = f"{settings} --output_dir resumed --resume_from_checkpoint straight/checkpoint-2"
    assert run(from_checkpoint)[0] == 0
    expected = weights(user_folder / "straight")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(user_folder / "resumed").items())
    earlier = weights(user_folder / "straight" / "checkpoint-2")
    assert any(not torch.equal(tensor, expected[name]) for name, tensor in earlier.items())


def test_true_resumes_from_the_newest_checkpoint(run, user_folder):
    line = f"train {SHORT} --save_steps 1 --output_dir newest"
    assert run(line)[0] == 0
    expected = weights(user_folder / "newest")
    shutil.rmtree(user_folder / "newest" / "checkpoint-4")  # as if the power had gone in the last step
    assert run(f"{line} --resume_from_checkpoint true")[0] == 0
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(user_folder / "newest").items())
    state = json.loads((user_folder / "newest" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["global_step"] == 4


def test_sft_leaves_no_critic(run, user_folder):
    code, out, _ = run(f"train {SHORT} --output_dir sft --actor_objective sft --save_strategy no --max_steps 1")
    assert code == 0 and "Agent: sft" in out
    assert not (user_folder / "sft" / "critic.safetensors").exists()


def test_training_goes_on_with_an_adapter_and_its_critic(run, user_folder):
    frozen = "--learning_rate 0 --target_tau 0 --max_steps 1 --save_strategy no"
    assert run(f"train {SHORT} {frozen} --model_name_or_path agent --output_dir further")[0] == 0
    before, after = weights(user_folder / "agent"), weights(user_folder / "further")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert any(tensor.any() for name, tensor in before.items() if name.startswith("critic/critic.down")), (
        "a new critic"
    )


def test_without_lora_the_whole_model_is_saved_and_can_be_evaluated(run, user_folder):
    line = f"train {SHORT} --no_use_peft --max_steps 1 --save_strategy no --output_dir full"
    assert run(line)[0] == 0
    assert (user_folder / "full" / "model.safetensors").is_file()
    code, out, _ = run("evaluate --env hallway:Hallway-v0 --model full --episodes 2 --max_new_tokens 2")
    assert code == 0 and "| full |" in out and "history=1" in out


def test_invalid_data_are_named_by_their_row_in_the_file(run, user_folder):
    rows = load_episodes(user_folder / "e.parquet").to_list()
    rows[-1]["reward"] = float("nan")  # in the held-out part
    save_episodes(
        Dataset.from_list(rows, features=load_episodes(user_folder / "e.parquet").features), user_folder / "b.parquet"
    )
    code, _, err = run("train --dataset b.parquet --output_dir bad --eval_share 0.5")
    assert code == 1
    assert f"- row {len(rows) - 1}, column 'reward': is not a finite number" in err
    assert "Traceback" not in err and not (user_folder / "bad").exists()


def test_the_users_own_history_is_recorded_where_the_data_record_none(run, user_folder):
    save_episodes(load_episodes(user_folder / "e.parquet"), user_folder / "silent.parquet")
    line = f"train {SHORT} --dataset silent.parquet --max_steps 1 --save_strategy no --output_dir told --history 1"
    code, out, _ = run(line)
    assert code == 0 and "nothing is recorded" in out
    assert json.loads((user_folder / "told" / "prompt.json").read_text()) == PromptBuilder(history=1).to_dict()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--dataset nothing.parquet", "nothing.parquet"),
        ("--dataset e.parquet --history 3", "made with history=1"),
        (
            "--dataset e.parquet --model_name_or_path ./none",
            "The model './none' cannot be loaded: there is no such folder",
        ),
        (
            "--dataset e.parquet --model_name_or_path none",
            "The model 'none' cannot be loaded: there is no such folder",
        ),
        ("--dataset e.parquet --resume_from_checkpoint true", "There is no checkpoint in out"),
        ("--dataset e.parquet --resume_from_checkpoint agent/checkpoint-9", "agent/checkpoint-9 is not a checkpoint"),
        ("--dataset e.parquet --env hallway:Halway-v0", "There is no environment 'hallway:Halway-v0'"),
        ("--dataset e.parquet --output_dir e.parquet", "e.parquet is a file"),
        ("--dataset e.parquet --model_name_or_path agent --critic_hidden_size 7", "was saved with"),
        ("--config nothing.yaml", "There is no file nothing.yaml"),
    ],
)
def test_a_users_mistake_is_one_line_that_says_what_is_wrong(run, user_folder, line, message):
    code, _, err = run(f"train --output_dir out {line}")
    lines = [text for text in err.splitlines() if text.startswith("error: ")]
    assert code == 1 and len(lines) == 1 and message in lines[0], err
    assert err.rstrip().endswith(lines[0]) and "Traceback" not in err
    assert not (user_folder / "out" / "adapter_config.json").exists()


def test_ctrl_c_saves_says_how_to_go_on_and_is_130(user_folder):
    line = f"train {SHORT} --max_steps 100000 --save_strategy no --logging_steps 1 --output_dir stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "trl_vlmq.cli", *line.split()],
        cwd=user_folder,
        env=os.environ | {"PYTHONPATH": str(Path(trl_vlmq.__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any("'loss'" in text for text in process.stdout), process.stderr.read()  # a first step is done
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    (checkpoint,) = (user_folder / "stopped").glob("checkpoint-*")
    last = err.splitlines()[-1]
    assert process.returncode == 130 and "Traceback" not in err
    assert last == f"interrupted: go on with --resume_from_checkpoint stopped/{checkpoint.name}"


@pytest.mark.slow
def test_two_processes_train_and_only_one_speaks(user_folder):
    line = f"train {SHORT} --max_steps 2 --save_strategy no --use_cpu --output_dir two"
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "accelerate.commands.launch",
                "--cpu",
                "--num_processes",
                "2",
                "--num_machines",
                "1",
            ),
            *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "trl_vlmq.cli", *line.split()),
        ],
        cwd=user_folder,
        env=os.environ | {"PYTHONPATH": str(Path(trl_vlmq.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("| all | 20 |") == done.stdout.count("Agent: two") == done.stdout.count("train metrics") == 1
    )
    assert (user_folder / "two" / "critic.safetensors").is_file()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C during training loses nothing, and a killed process loses no more than the steps since its checkpoint."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

import trl_vlmq
from trl_vlmq import save_episodes


SETTINGS = {"gradient_accumulation_steps": 2, "filter_warmup_ratio": 0.25, "target_tau": 0.2}


class PressCtrlC(TrainerCallback):
    """Sends SIGINT `times` times at `event` once `step` steps are done."""

    def __init__(self, event: str, step: int, times: int = 1):
        def press(args, state, control, **kwargs):
            if state.global_step == step and not self.pressed:
                self.pressed = True
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        self.pressed = False
        setattr(self, event, press)


@pytest.fixture(autouse=True)
def own_handler():
    """A handler of somebody else's, which training has to give back."""

    def handler(signum, frame):
        raise AssertionError("the handler of somebody else was called during training")

    before = signal.signal(signal.SIGINT, handler)
    yield handler
    assert signal.getsignal(signal.SIGINT) is handler, "Ctrl-C was not given back"
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def assert_same_run(snapshot, trajectory):
    def check(trainer, straight) -> None:
        assert trajectory(trainer) == trajectory(straight)
        weights = snapshot(straight.model)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot(trainer.model).items())

    return check


@pytest.mark.parametrize("event", ["on_step_begin", "on_substep_end", "on_optimizer_step"])
def test_ctrl_c_saves_the_step_and_resuming_goes_on_from_it(make_trainer, assert_same_run, checkpoint_of, event):
    straight = make_trainer(**SETTINGS)
    straight.train()
    trainer = make_trainer(**SETTINGS, callbacks=[PressCtrlC(event, 3)])
    with pytest.raises(KeyboardInterrupt, match=r"Saved .*checkpoint-4; go on with .*resume_from_checkpoint=True"):
        trainer.train()
    assert trainer.state.global_step == 4
    assert [path.name for path in checkpoint_of(4).parent.iterdir()] == ["checkpoint-4"]
    resumed = make_trainer(**SETTINGS, model_seed=7)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, straight)


def test_the_same_trainer_goes_on_after_ctrl_c(make_trainer, assert_same_run):
    straight = make_trainer(**SETTINGS)
    straight.train()
    trainer = make_trainer(**SETTINGS, callbacks=[PressCtrlC("on_step_begin", 3)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    assert_same_run(trainer, straight)


def test_a_second_ctrl_c_leaves_at_once(make_trainer, tmp_path):
    trainer = make_trainer(**SETTINGS, callbacks=[PressCtrlC("on_substep_end", 3, times=2)])
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.train()
    assert "Saved" not in str(caught.value)
    assert trainer.state.global_step == 3 and not list(tmp_path.glob("run/checkpoint-*"))


def test_after_leaving_at_once_the_same_trainer_resumes_cleanly(make_trainer, assert_same_run):
    straight = make_trainer(**SETTINGS)
    straight.train()
    press = PressCtrlC("on_substep_end", 3, times=2)
    trainer = make_trainer(**SETTINGS, save_strategy="steps", save_steps=2, callbacks=[press])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()  # half of step 4's window is lost
    trainer.train(resume_from_checkpoint=True)
    assert_same_run(trainer, straight)


def test_ctrl_c_after_the_last_step_still_saves(make_trainer, episodes, checkpoint_of):
    evaluation = {"eval_dataset": episodes.select(range(3)), "eval_strategy": "steps", "eval_steps": 8}
    trainer = make_trainer(**evaluation, callbacks=[PressCtrlC("on_evaluate", 8)])
    with pytest.raises(KeyboardInterrupt, match="Saved .*checkpoint-8"):
        trainer.train()
    assert (checkpoint_of(8) / "critic.safetensors").is_file()


def test_ctrl_c_keeps_its_checkpoint_beside_the_best_one(make_trainer, episodes, assert_same_run, checkpoint_of):
    settings = SETTINGS | {
        "eval_dataset": episodes.select(range(12)),
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_nll",
        "greater_is_better": True,  # the worst one, which is the first
    }
    straight = make_trainer(**settings | {"load_best_model_at_end": False, "save_strategy": "no"})
    straight.train()
    trainer = make_trainer(**settings, callbacks=[PressCtrlC("on_step_begin", 3)])
    with pytest.raises(KeyboardInterrupt, match="Saved .*checkpoint-4"):
        trainer.train()
    assert sorted(path.name for path in checkpoint_of(4).parent.iterdir()) == ["checkpoint-1", "checkpoint-4"]
    resumed = make_trainer(**settings | {"load_best_model_at_end": False}, model_seed=7)
    resumed.train(resume_from_checkpoint=str(checkpoint_of(4)))
    assert_same_run(resumed, straight)


class Failing(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise RuntimeError("a callback of the user's")


def test_ctrl_c_is_given_back_after_training_and_after_an_error(make_trainer, own_handler):
    make_trainer().train()
    assert signal.getsignal(signal.SIGINT) is own_handler
    with pytest.raises(RuntimeError, match="of the user's"):
        make_trainer(callbacks=[Failing()]).train()
    assert signal.getsignal(signal.SIGINT) is own_handler


def test_training_works_outside_of_the_main_thread(make_trainer):
    trainer, steps = make_trainer(), []
    thread = threading.Thread(target=lambda: steps.append(trainer.train().global_step))
    thread.start()
    thread.join()
    assert steps == [8]


# ---- Real processes ----

SCRIPT = """
import json
import sys
import time

import torch
from peft import LoraConfig
from transformers import TrainerCallback

from trl_vlmq import AFSFTConfig, AFSFTTrainer, load_episodes


class Speak(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        print("begins", state.global_step, flush=True)
        if state.global_step == 5:
            time.sleep(float(sys.argv[1]))


torch.manual_seed(0)
trainer = AFSFTTrainer(
    model=sys.argv[2],
    args=AFSFTConfig(**json.loads(sys.argv[4])),
    train_dataset=load_episodes(sys.argv[3]),
    peft_config=LoraConfig(r=4, lora_alpha=8),
    callbacks=[Speak()],
)
trainer.train()
"""


@pytest.fixture
def training_process(base_folder, episodes, training_arguments, tmp_path):
    """`start(seconds, **arguments)`: a process that trains, waits that long in step 6, and is in that step now."""
    save_episodes(episodes, tmp_path / "episodes.parquet")
    started = []

    def start(seconds: float, **arguments) -> subprocess.Popen:
        given = [seconds, base_folder, tmp_path / "episodes.parquet", json.dumps(training_arguments(**arguments))]
        environment = os.environ | {"PYTHONPATH": str(Path(trl_vlmq.__file__).parents[1])}
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *map(str, given)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        started.append(process)
        for line in process.stdout:
            if line.startswith("begins 5"):
                return process
        raise AssertionError(process.stderr.read())

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_process_resumes_as_if_nothing_had_happened(
    make_trainer, training_process, assert_same_run, checkpoint_of
):
    process = training_process(300, **SETTINGS, save_strategy="steps", save_steps=4)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert [path.name for path in checkpoint_of(4).parent.iterdir()] == ["checkpoint-4"]
    straight = make_trainer(**SETTINGS)
    straight.train()
    resumed = make_trainer(**SETTINGS, model_seed=7)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, straight)


@pytest.mark.slow
def test_ctrl_c_on_a_real_process_saves_says_so_and_resumes(
    make_trainer, training_process, assert_same_run, checkpoint_of
):
    process = training_process(2, **SETTINGS)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert "Interrupted: saving a checkpoint at the end of this step" in errors
    assert f"KeyboardInterrupt: Saved {checkpoint_of(6)}; go on with" in errors
    straight = make_trainer(**SETTINGS)
    straight.train()
    resumed = make_trainer(**SETTINGS, model_seed=7)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, straight)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_real_process_at_once(training_process, tmp_path):
    process = training_process(300, **SETTINGS)
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "Press Ctrl-C again to leave at once" in line:
            break
    assert process.poll() is None, "the first Ctrl-C ended it"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert time.monotonic() - start < 60
    assert process.returncode == -signal.SIGINT and not list(tmp_path.glob("run/checkpoint-*"))

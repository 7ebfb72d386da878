# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A loss or a gradient that is not finite stops training, keeps the state before it and names the rows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import trl_vlmq
from trl_vlmq import NonFiniteLossError, save_episodes


class Plant(TrainerCallback):
    """Spoils the training step after `step`: `spoil(model, factor, micro_batch)` returns handles of its hooks."""

    def __init__(self, step: int, spoil, factor: float):
        self.step, self.spoil, self.factor = step, spoil, factor
        self.rows: list[list[int]] = []  # of each micro-batch of the spoiled step
        self.before: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step != self.step:
            return
        self.before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self.before |= {f"target.{name}": b.clone() for name, b in model.target_critic.named_buffers()}
        self.spoil(self, model)


def loss(plant: Plant, model) -> None:
    """The loss of the second micro-batch."""

    def spoil(module, args, kwargs, outputs):
        plant.rows.append(kwargs["row"].tolist())
        if len(plant.rows) == 2:
            outputs["loss"] = outputs["loss"] * plant.factor

    model.register_forward_hook(spoil, with_kwargs=True)


def gradient(plant: Plant, model) -> None:
    """One number of one gradient; the loss stays finite."""

    def spoil(gradient):
        gradient = gradient.clone()
        gradient.view(-1)[0] = plant.factor
        return gradient

    next(p for name, p in model.named_parameters() if "lora_B" in name).register_hook(spoil)
    model.register_forward_hook(lambda m, a, kwargs, out: plant.rows.append(kwargs["row"].tolist()), with_kwargs=True)


SETTINGS = {"gradient_accumulation_steps": 2, "filter_warmup_ratio": 0.25, "target_tau": 0.2}


@pytest.mark.parametrize("factor", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("spoil", [loss, gradient], ids=lambda spoil: spoil.__name__)
def test_training_stops_keeps_the_good_state_and_names_the_rows(
    make_trainer, episodes, snapshot, trajectory, checkpoint_of, spoil, factor
):
    straight = make_trainer(**SETTINGS)
    straight.train()

    plant = Plant(4, spoil, factor)
    trainer = make_trainer(**SETTINGS, callbacks=[plant])
    with pytest.raises(NonFiniteLossError, match=f"The {spoil.__name__} of step 5 is not finite") as caught:
        trainer.train()

    rows = plant.rows[1] if spoil is loss else plant.rows[0] + plant.rows[1]
    assert len(plant.rows) == 2 and rows
    named = [int(row) for row in re.findall(r"row (\d+)", str(caught.value))]
    assert named == rows[:8] and (len(rows) <= 8 or f"and {len(rows) - 8} more" in str(caught.value))
    assert f"(episode {episodes[rows[0]]['episode_id']!r}, turn {episodes[rows[0]]['turn']})" in str(caught.value)

    folder = checkpoint_of(4)
    assert str(folder) in str(caught.value) and [path.name for path in folder.parent.iterdir()] == [folder.name]
    critic = load_file(folder / "critic.safetensors")
    adapter = load_file(folder / "adapter_model.safetensors")
    saved = {name: tensor.flatten(0, 1) for name, tensor in critic.items()}  # of one head
    saved |= {f"model.{name}".replace(".weight", ".default.weight"): tensor for name, tensor in adapter.items()}
    assert saved.keys() == plant.before.keys()
    assert [name for name in saved if not torch.equal(saved[name], plant.before[name])] == []

    resumed = make_trainer(**SETTINGS, model_seed=7)
    resumed.train(resume_from_checkpoint=str(folder))
    assert trajectory(resumed) == trajectory(straight)
    weights = snapshot(straight.model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot(resumed.model).items())


def test_the_same_trainer_goes_on_after_the_cause_is_gone(make_trainer, trajectory):
    straight = make_trainer(**SETTINGS)
    straight.train()
    plant = Plant(4, loss, float("nan"))
    trainer = make_trainer(**SETTINGS, callbacks=[plant])
    with pytest.raises(NonFiniteLossError):
        trainer.train()
    plant.step = None
    trainer.train(resume_from_checkpoint=True)
    assert trajectory(trainer) == trajectory(straight)


def test_weights_that_are_bad_already_do_not_overwrite_a_good_checkpoint(make_trainer, checkpoint_of):
    def weights(plant: Plant, model) -> None:
        next(p for name, p in model.named_parameters() if "lora_B" in name).data.view(-1)[3] = float("nan")

    trainer = make_trainer(save_strategy="steps", save_steps=4, callbacks=[Plant(4, weights, float("nan"))])
    with pytest.raises(NonFiniteLossError, match="not saved; go on from an earlier checkpoint"):
        trainer.train()
    assert all(p.isfinite().all() for p in load_file(checkpoint_of(4) / "adapter_model.safetensors").values())
    assert make_trainer().train(resume_from_checkpoint=str(checkpoint_of(4))).global_step == 8


def test_an_overflow_under_a_gradient_scaler_is_the_scalers_business(make_trainer):
    """float16: the scaler looks for its scale by overflowing, and skips those steps."""
    plant = Plant(4, gradient, float("inf"))
    trainer = make_trainer(callbacks=[plant])
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    assert trainer.train().global_step == 8
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, plant.before[name]) for name, p in trained.items()), "an overflown step was not skipped"


PROCESS = """
import os
import sys

import torch
from fsdp_on_cpu import shard_on_cpu
from peft import LoraConfig
from transformers import TrainerCallback

from trl_vlmq import AFSFTConfig, AFSFTTrainer, NonFiniteLossError, load_episodes


def say(*words):  # to a file of its own: what two processes print may share a line
    with open(f"said_{os.environ['RANK']}", "a") as file:
        print(*words, file=file)


class Plant(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2 and os.environ["RANK"] == "1":
            model.register_forward_hook(self.spoil, with_kwargs=True)

    def spoil(self, module, args, kwargs, outputs):
        say("spoiled", *kwargs["row"].tolist())
        outputs["loss"] = outputs["loss"] * float("nan")


config = AFSFTConfig(
    sys.argv[3], max_steps=4, use_cpu=True, per_device_train_batch_size=1, report_to="none", disable_tqdm=True
)
shard_on_cpu()
torch.manual_seed(0)
trainer = AFSFTTrainer(
    model=sys.argv[1],
    args=config,
    train_dataset=load_episodes(sys.argv[2]),
    peft_config=LoraConfig(r=4),
    callbacks=[Plant()],
)
try:
    trainer.train()
except NonFiniteLossError as error:
    say("stopped:", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ddp", "fsdp2"])
def test_all_processes_stop_where_the_loss_of_one_is_not_finite(
    base_folder, episodes, checkpoint_of, tmp_path, launcher
):
    save_episodes(episodes, tmp_path / "episodes.parquet")
    (tmp_path / "train.py").write_text(PROCESS)
    root = Path(trl_vlmq.__file__).parents[1]
    config = root / "examples" / "accelerate_configs" / f"{launcher}.yaml"
    launch = ["-m", "accelerate.commands.launch", "--config_file", config, tmp_path / "train.py"]
    given = [base_folder, tmp_path / "episodes.parquet", checkpoint_of(2).parent]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *map(str, launch + given)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        timeout=600,  # one process that waits for the other would wait for ever
    )
    said = [(tmp_path / f"said_{rank}").read_text() for rank in (0, 1)]
    (rows,) = re.findall(r"spoiled ([\d ]+)", said[1])
    for text in said:
        (message,) = re.findall("stopped: (The loss of step 3 is not finite.*)", text)
        assert re.findall(r"row (\d+)", message) == rows.split()
    assert (checkpoint_of(2) / "trainer_state.json").is_file() and not checkpoint_of(3).exists()

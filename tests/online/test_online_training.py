# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Training that plays: what is played when, by whom, and what a resumed run does."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from transformers import TrainerCallback

from trl_vlmq import LinearSchedule, load_episodes
from trl_vlmq.env_worker import EnvironmentFailureError
from trl_vlmq.envs import PromptBuilder, ToolEnv
from trl_vlmq.prompt_record import prompt_of_episodes
from trl_vlmq.shards import EpisodeShards, read_shard
from trl_vlmq.validation import validate_episodes


class StopAfter(TrainerCallback):
    """The power goes after this step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


class Epochs(TrainerCallback):
    """What the buffer holds when an epoch's first step begins."""

    def __init__(self, trainer):
        self.trainer, self.seen = trainer, []

    def on_step_begin(self, args, state, control, **kwargs):
        buffer = self.trainer.train_dataset
        if state.global_step % 4 == 0:
            self.seen.append((buffer.epoch, buffer.num_online_episodes, buffer.current_online_share))


def episodes_in(folder) -> Dataset:
    shards = EpisodeShards(folder)
    return concatenate_datasets([read_shard(path) for number in shards.rounds() for path in shards.dealt(number)])


def weights(trainer) -> dict[str, torch.Tensor]:
    named = [*trainer.model.named_parameters(), *trainer.model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def assert_equal_runs(one, other, rounds_of):
    assert rounds_of(one) == rounds_of(other)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name
    state, found = one.train_dataset.state_dict(), other.train_dataset.state_dict()
    assert all(np.array_equal(values, found[name], equal_nan=True) for name, values in state.items())


def test_a_round_is_played_before_each_epoch_from_the_start_epoch_on(make_trainer, make_callback, rounds_of, tmp_path):
    trainer = make_trainer(make_callback(start_epoch=1))
    watcher = Epochs(trainer)
    trainer.add_callback(watcher)
    trainer.train()
    assert watcher.seen == [(0, 0, 0.0), (1, 6, 0.5), (2, 12, 0.5)]
    rounds = rounds_of(trainer)
    assert [r["step"] for r in rounds] == [4, 8] and [r["rollout_epsilon"] for r in rounds] == [0.5, 0.3]
    played = episodes_in(tmp_path / "run" / "episodes")
    validate_episodes(played)
    ids = [i for i, turn in zip(played["episode_id"], played["turn"], strict=True) if turn == 0]
    assert ids == [f"online-{r:06d}-0000-{i:06d}" for r in range(2) for i in range(6)]
    assert set(played["behavior"]) == {"online, epsilon 0.50", "online, epsilon 0.30"}
    assert rounds[1]["rollout_total_env_steps"] == len(played) == rounds[1]["replay_online_turns"]


def test_what_is_logged_of_a_round_is_what_happened(make_trainer, make_callback, rounds_of, tmp_path):
    """Against a count over the stored turns."""
    trainer = make_trainer(make_callback())
    trainer.train()
    for number, logged in enumerate(rounds_of(trainer)):
        rows = read_shard(EpisodeShards(tmp_path / "run" / "episodes").dealt(number)[0])
        last = {row["episode_id"]: row for row in rows}.values()
        assert logged["rollout_success"] == pytest.approx(np.mean([row["success"] for row in last]))
        assert logged["rollout_return"] == pytest.approx(sum(rows["reward"]) / 6)
        assert logged["rollout_length"] == pytest.approx(len(rows) / 6)
        assert logged["rollout_syntax_accuracy"] == pytest.approx(np.mean(rows["action_is_valid"]))


def test_without_logs_the_agent_learns_from_its_own_episodes_alone(make_trainer, make_callback, rounds_of):
    """And learns at all: the lamp is switched on nearly always in the end."""
    callback = make_callback(episodes_per_round=24, num_envs=24, epsilon=LinearSchedule(1.0, 0.0, 15))
    trainer = make_trainer(
        callback, None, lora=False, num_train_epochs=20, segments_per_epoch=64, per_device_train_batch_size=8,
        td_horizon="turn", gamma=0.5, filter_warmup_ratio=0.2, filter_ramp_ratio=0.2, filter_keep_fraction=0.0,
        actor_coef=1.0,
    )  # fmt: skip
    trainer.train()
    success = [r["rollout_success"] for r in rounds_of(trainer)]
    syntax = [r["rollout_syntax_accuracy"] for r in rounds_of(trainer)]
    assert success[-1] > 0.9 and syntax[-1] > 0.9, (success, syntax)


def test_switching_to_live_play_is_one_argument(make_trainer, make_callback):
    offline, online = make_trainer(), make_trainer(make_callback(), folder="other")
    assert len(offline.train_dataset) == len(online.train_dataset) == 8
    offline.train()
    online.train()
    assert offline.state.max_steps == online.state.max_steps == 12


@pytest.mark.parametrize("save_steps", [3, 4, 6], ids=["mid-epoch", "end of an epoch", "mid-epoch 1"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"replay_priority": "td_error"}, {"replay_capacity_turns": 20, "dataloader_num_workers": 1}],
    ids=["uniform", "td_error", "evicting"],
)
def test_a_resumed_run_is_the_uninterrupted_run(
    make_trainer, make_callback, rounds_of, tmp_path, save_steps, settings
):
    straight = make_trainer(make_callback(), folder="straight", **settings)
    straight.train()
    saving = {"save_strategy": "steps", "save_steps": save_steps}
    interrupted = make_trainer(make_callback(), **settings | saving)
    interrupted.add_callback(StopAfter(save_steps + 2))
    interrupted.train()
    resumed = make_trainer(make_callback(), **settings | saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{save_steps}"))
    assert_equal_runs(straight, resumed, rounds_of)
    one, other = (episodes_in(tmp_path / name / "episodes") for name in ("straight", "run"))
    assert one.to_list() == other.to_list()


def test_a_round_that_was_cut_off_is_played_to_its_end_and_not_anew(
    make_trainer, make_callback, lamp, tmp_path, monkeypatch, rounds_of
):
    monkeypatch.setattr("trl_vlmq.online._EPISODES_PER_FILE", 2)
    straight = make_trainer(make_callback(), folder="straight")
    straight.train()
    started = []

    class Counted(lamp):
        def _reset(self, seed, options):
            started.append(seed)
            super()._reset(seed, options)

    Counted.__name__ = "Lamp"
    first = make_trainer(make_callback())
    first.add_callback(StopAfter(2))
    first.train()
    gone = sorted((tmp_path / "run" / "episodes").glob("round-000000-*"))[1:]
    for path in gone:  # as if the process had been killed after the first file, before any checkpoint
        path.unlink()
    again = make_trainer(make_callback(Counted))
    again.train()
    assert_equal_runs(straight, again, rounds_of)
    # Resets: those of the checks, four episodes of the first round, six of each other.
    assert len(set(started)) - 4 - 12 <= 3


@pytest.mark.parametrize(
    "change, named",
    [
        ({"learning_rate": 5e-3}, r"learning_rate: 0.01 there, 0.005 here"),
        ({"seed": 3}, "seed: 42 there, 3 here"),
    ],
)
def test_episodes_of_another_run_are_not_taken_for_ones_own(make_trainer, make_callback, change, named):
    make_trainer(make_callback()).train()
    with pytest.raises(ValueError, match=f"holds the episodes of another run .{named}.*Choose another output_dir"):
        make_trainer(make_callback(), **change).train()


def test_episodes_of_another_environment_are_not_resumed_with(make_trainer, make_callback, tmp_path):
    make_trainer(make_callback(), save_strategy="steps", save_steps=4).train()
    with pytest.raises(ValueError, match="another run .episodes_per_round: 6 there, 8 here"):
        make_trainer(make_callback(episodes_per_round=8)).train(resume_from_checkpoint=True)


def test_a_resumed_run_may_have_another_learning_rate(make_trainer, make_callback, tmp_path):
    first = make_trainer(make_callback(), save_strategy="steps", save_steps=4)
    first.add_callback(StopAfter(6))
    first.train()
    resumed = make_trainer(make_callback(), learning_rate=5e-3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert resumed.state.global_step == 12


def test_training_again_plays_nothing_twice(make_trainer, make_callback, rounds_of):
    trainer = make_trainer(make_callback())
    trainer.train()
    once = trainer.train_dataset.num_online_episodes
    trainer.train()
    assert trainer.train_dataset.num_online_episodes == once == 18


def test_lost_rounds_are_said_to_be_lost(make_trainer, make_callback, tmp_path, caplog):
    first = make_trainer(make_callback(), save_strategy="steps", save_steps=8)
    first.train()
    for path in (tmp_path / "run" / "episodes").glob("round-000000-*"):
        path.unlink()
    resumed = make_trainer(make_callback())
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    assert "The episodes of round 0 are gone from" in caplog.text


def test_several_environments_share_a_round_and_are_reported_apart(
    make_trainer, make_callback, lamp, rounds_of, tmp_path
):
    callback = make_callback({"short": lambda: lamp(max_steps=1), "long": lamp}, episodes_per_round=7)
    trainer = make_trainer(callback, num_train_epochs=1)
    trainer.train()
    (logged,) = rounds_of(trainer)
    rows = episodes_in(tmp_path / "run" / "episodes").to_pandas()
    rows = rows[rows["turn"] == 0]
    assert list(rows["env_id"]) == ["short"] * 3 + ["long"] * 4
    assert logged["rollout_length/short"] == 1.0 < logged["rollout_length/long"] <= 3.0
    assert logged["rollout_success"] == pytest.approx(
        (3 * logged["rollout_success/short"] + 4 * logged["rollout_success/long"]) / 7
    )


def test_an_environment_of_trls_environment_factory_can_be_learned_in(make_trainer, make_callback, rounds_of):
    class Switch:
        def reset(self) -> str:
            self.on = False
            return "It is dark."

        def press(self, on: bool) -> str:
            """
            Press the switch.

            Args:
                on: Whether to switch on.
            """
            self.on = on
            return "Pressed."

    def make():
        return ToolEnv(Switch, reward=lambda s: float(s.on), done=lambda s: s.on, max_steps=3, list_tools=False)

    callback = make_callback({"switch": make}, epsilon=LinearSchedule(1.0, 1.0, 0))
    trainer = make_trainer(callback, None, num_train_epochs=1)
    trainer.train()
    (logged,) = rounds_of(trainer)
    assert logged["rollout_syntax_accuracy"] == 1.0 and 0 < logged["rollout_success"] == logged["rollout_return"]


def test_failing_environments_are_counted_and_too_many_stop_the_training(make_trainer, make_callback, lamp, rounds_of):
    class Fragile(lamp):
        def _execute(self, action):
            if self.color % 3 == 0:
                raise RuntimeError("the simulator crashed")
            return super()._execute(action)

    fragile = make_callback(Fragile, episodes_per_round=30, max_lost_share=0.9)
    trainer = make_trainer(fragile, num_train_epochs=1)
    trainer.train()
    (logged,) = rounds_of(trainer)
    assert 0 < logged["rollout_lost_episodes"] == 30 - logged["rollout_episodes"]
    with pytest.raises(EnvironmentFailureError, match="the simulator crashed"):
        make_trainer(make_callback(Fragile, episodes_per_round=30), folder="b").train()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"episodes_per_round": 0}, "episodes_per_round=0 must be at least 1"),
        ({"num_envs": 0}, "num_envs=0 must be at least 1"),
        ({"start_epoch": -1}, "start_epoch=-1 must be at least 0"),
        ({"explore_over": "dreams"}, "explore_over='dreams': choose one of actions, tokens"),
        ({"epsilon": LinearSchedule(1.5, 0.1, 3)}, "probabilities lie in"),
        ({"max_lost_share": 1.0}, r"max_lost_share=1.0 lies outside of \[0, 1\)"),
        ({"envs": {}}, "envs is empty"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(make_callback, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_callback(**arguments)


def test_mistakes_are_found_before_offline_training(make_trainer, make_callback, lamp):
    class Liar(lamp):
        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            return observation, reward, terminated, truncated, {}

    with pytest.raises(ValueError, match="action_is_valid"):
        make_trainer(make_callback(Liar, start_epoch=2)).train()
    with pytest.raises(ValueError, match="episodes_per_round=1 is too few for 2 environment"):
        make_trainer(make_callback({"a": lamp, "b": lamp}, episodes_per_round=1, start_epoch=2)).train()
    with pytest.raises(ValueError, match="the first prompt of Lamp"):
        make_trainer(make_callback(max_new_tokens=500, start_epoch=2)).train()
    with pytest.raises(ValueError, match="before start_epoch=1: pass train_dataset"):
        make_trainer(make_callback(start_epoch=1), None)
    with pytest.raises(ValueError, match="set segments_per_epoch"):
        make_trainer(make_callback(), None, segments_per_epoch=None)
    with pytest.raises(ValueError, match="dataloader_persistent_workers=False"):
        make_trainer(make_callback(), dataloader_persistent_workers=True, dataloader_num_workers=1)


def test_a_sample_of_episodes_is_shown(make_trainer, make_callback, capsys):
    make_trainer(make_callback(show_episodes=2), num_train_epochs=1).train()
    shown = capsys.readouterr().out
    assert shown.count("online-000000-0000-00000") == 2 and "Turn 0." in shown and "-> reward" in shown


def test_tensorboard_shows_episodes_with_their_images(make_trainer, make_callback, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(make_callback(show_episodes=1), num_train_epochs=1, report_to="tensorboard").train()
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.*")}
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    (image,) = events.Images("rollout/episode_0")
    assert image.height == 16 and image.width in (16, 32, 48)
    assert "train/rollout_success" in events.Tags()["scalars"]


def test_the_prompts_settings_lie_beside_the_agent_and_in_its_episodes(make_trainer, make_callback, tmp_path):
    builder = PromptBuilder(history=2)
    make_trainer(make_callback(prompt_builder=builder), num_train_epochs=1).train()
    assert json.loads((tmp_path / "run" / "prompt.json").read_text())["history"] == 2
    assert prompt_of_episodes(tmp_path / "run" / "episodes") == builder
    assert load_episodes(tmp_path / "run" / "episodes")["turn"][:1] == [0]


def test_a_torn_checkpoint_is_passed_over(make_trainer, make_callback, tmp_path, rounds_of, caplog):
    straight = make_trainer(make_callback(), folder="straight")
    straight.train()
    first = make_trainer(make_callback(), save_strategy="steps", save_steps=3)
    first.add_callback(StopAfter(6))
    first.train()
    state = tmp_path / "run" / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    resumed = make_trainer(make_callback())
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-6 is incomplete" in caplog.text
    assert_equal_runs(straight, resumed, rounds_of)
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    with pytest.raises(ValueError, match="no complete checkpoint"):
        make_trainer(make_callback()).train(resume_from_checkpoint=True)

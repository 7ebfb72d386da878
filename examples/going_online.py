# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The online phase of the examples: the agent that was trained on logs plays, and goes on learning from both."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from comparison import Comparison, differences, save_outcomes
from datasets import Dataset
from transformers import set_seed

from trl_vlmq import AFSFTTrainer, LinearSchedule, OnlineRolloutCallback
from trl_vlmq.diagnostics import comparison_table, plot_comparison
from trl_vlmq.logs import describe_logs


@dataclass
class OnlineArguments:
    """The online phase."""

    online: bool = field(default=False, metadata={"help": "Go on online, from the AFSFT agent in the output folder."})
    online_rounds: int = field(default=20, metadata={"help": "Rounds of play, one before each epoch."})
    online_episodes: int = field(default=64, metadata={"help": "Episodes of a round."})
    online_steps: int = field(default=25, metadata={"help": "Optimiser steps after a round."})
    online_learning_rate: float = field(default=5e-4, metadata={"help": "Learning rate online, constant."})
    epsilon: float = field(default=0.1, metadata={"help": "Probability of a random action in the first round."})
    epsilon_end: float = field(default=0.02, metadata={"help": "The same in the last round."})
    vllm_server_base_url: str | None = field(
        default=None, metadata={"help": "Play online on this vLLM server, http://localhost:8000 for one."}
    )


def go_online(task: str, online: OnlineArguments, comparison: Comparison, logs: Dataset) -> None:
    """The offline agent plays, and learns from logs and its own episodes alike.

    Args:
        task (`str`):
            Name of the task, for people.
        online ([`OnlineArguments`]):
            How long.
        comparison ([`Comparison`]):
            The offline phase, whose folder has the agent.
        logs ([`~datasets.Dataset`]):
            What that was trained on.
    """
    print(f"Going on from the agent in {comparison.out / 'afsft'}.")
    set_seed(comparison.args.seed)
    run, env, offline = copy.deepcopy(comparison.args), comparison.env, comparison.out
    run.output_dir, run.actor_objective = str(offline / "online"), "afsft"
    run.max_steps, run.num_train_epochs = -1, online.online_rounds
    run.segments_per_epoch = online.online_steps * run.per_device_train_batch_size
    run.learning_rate, run.lr_scheduler_type = online.online_learning_rate, "constant_with_warmup"
    run.lr_scheduler_kwargs = {}
    run.critic_learning_rate = online.online_learning_rate
    run.filter_warmup_ratio, run.filter_ramp_ratio = 0.0, 0.0  # the critic is there already
    run.filter_min_explained_variance = None
    play = OnlineRolloutCallback(
        env["make_env"], env_kwargs=env["env_kwargs"], prompt_builder=env["prompt_builder"],
        episodes_per_round=online.online_episodes, max_new_tokens=comparison.max_new_tokens,
        num_envs=min(online.online_episodes, comparison.num_envs),
        epsilon=LinearSchedule(online.epsilon, online.epsilon_end, max(1, online.online_rounds - 1)),
        vllm=vllm_client(online.vllm_server_base_url),
    )  # fmt: skip
    trainer = AFSFTTrainer(str(offline / "afsft"), args=run, train_dataset=logs, callbacks=[play])
    backbone = trainer.model.backbone
    after = type(comparison)(comparison.settings, run, comparison.model_args, env, num_envs=comparison.num_envs)
    with trainer.unsharded():
        after.play_all("offline", backbone)
    curve = after.curve(backbone, online.online_rounds * online.online_steps)
    trainer.add_callback(curve)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    with trainer.unsharded():
        after.play_all("online", backbone)
    if PartialState().is_main_process:
        print(f"\n{comparison_table(after.results)}")
        save_online_results(task, after, describe_logs(logs), curve.curve, trainer, offline / "results.json")


def vllm_client(base_url: str | None):
    """The server to play on, if one was named."""
    if base_url is None:
        return None
    from trl_vlmq import VLLMClient  # an extra of its own

    return VLLMClient(base_url)


def save_online_results(
    task: str, after: Comparison, logs: dict, curve: list, trainer: AFSFTTrainer, offline: Path
) -> None:
    """Figure with the offline curve before the switch, JSON, outcomes of every episode."""
    before = json.loads(offline.read_text())["curves"].get("afsft", []) if offline.is_file() else []
    switch = before[-1][0] if before else 0
    curves = {"offline": before} if before else {}
    curves["online"] = [(step + switch, *rest) for step, *rest in curve]
    figure = after.out / "online.png"
    plot_comparison(
        figure, after.results, curves,
        title=f"{task}: from logs to its own episodes", switch_on=switch, switch_label="online from here",
    )  # fmt: skip
    summary = {
        "task": task,
        "seed": after.args.seed,
        "results": {name: result.summary() for name, result in after.results.items()},
        "steps": trainer.state.max_steps,
        "logs": logs,
        "online_minus_offline": differences(after.results, "online", "offline"),
        "curves": curves,
        "rounds": [entry for entry in trainer.state.log_history if "rollout_episodes" in entry],
    }
    (after.out / "results.json").write_text(json.dumps(summary, indent=2) + "\n")
    save_outcomes(after.out, after.results)
    print(f"\nFigure: {figure}\nAgent: {after.out}")

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Logs in, trained agent out: SFT and AFSFT on the same logs of real BabyAI episodes.

1. Collects logs of good and bad behaviour (or loads yours).
2. Trains `sft` (imitate everything) and `afsft` (imitate what the critic finds better than average) on them, for the
   same number of steps from the same base, with LoRA and a frozen vision tower.
3. Plays held-out episodes with both, with the untouched base model and with the behaviours, and writes a table, a
   figure, the results as JSON and both adapters with the critic.
4. With `--online`, goes on from the AFSFT agent (of this or an earlier run in the same folder) with its own episodes.

    accelerate launch examples/train_babyai.py                       # about 20 minutes on two cores
    accelerate launch examples/train_babyai.py --quick               # a few minutes: does everything work?
    accelerate launch examples/train_babyai.py --online              # then the agent plays and goes on improving
    accelerate launch examples/train_babyai.py --help
    accelerate launch examples/train_babyai.py --config my.yaml --level GoToLocalS6N4 --output_dir outputs/n4
    accelerate launch examples/train_babyai.py --model_name_or_path HuggingFaceTB/SmolVLM-256M-Instruct

The base is the embedded `tiny-babyai`, which has learned to describe BabyAI pictures and has never seen an action.
"""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from comparison import (
    HOW,
    MAX_NEW_TOKENS,
    Comparison,
    ComparisonArguments,
    ComparisonTrainingArguments,
    collect_or_load,
    differences,
    save_outcomes,
)
from datasets import Dataset
from transformers import set_seed
from trl import TrlParser

from trl_vlmq import (
    AFSFTConfig,
    AFSFTTrainer,
    BehaviorPolicy,
    LinearSchedule,
    OnlineRolloutCallback,
)
from trl_vlmq.critic import CRITIC_WEIGHTS
from trl_vlmq.diagnostics import comparison_table, plot_comparison
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.hardware import use_all_cores
from trl_vlmq.launch import end_processes
from trl_vlmq.logs import describe_logs, parse_mixture, split_episodes
from trl_vlmq.model_arguments import ModelArguments


@dataclass
class TaskArguments:
    """The task, its logs and its evaluation."""

    level: str = field(default="GoToLocalS6N2", metadata={"help": "BabyAI level, without prefix and version."})
    max_episode_steps: int = field(
        default=10, metadata={"help": "Turns after which an episode is truncated, in the logs and in evaluations."}
    )
    list_actions: bool = field(
        default=False,
        metadata={"help": "List the actions in the prompt: for a base that knows words, and at its price."},
    )
    history: int = field(default=0, metadata={"help": "Past actions that the prompt recalls."})
    episodes_path: str | None = field(
        default=None, metadata={"help": "Parquet file of episodes to train on; by default they are collected."}
    )
    num_log_episodes: int = field(default=15000, metadata={"help": "Episodes to collect."})
    behaviors: str = field(
        default="expert:1,wrong_goal:1,random:1", metadata={"help": "Who acts in the logs, with relative weights."}
    )
    quick: bool = field(default=False, metadata={"help": "A short run that shows that everything works."})


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


@dataclass
class TrainingArguments(ComparisonTrainingArguments):
    """AFSFTConfig with the defaults of this example."""

    output_dir: str | None = field(default="outputs/babyai", metadata={"help": "Folder for everything."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Segments per step."})


def shrink(task: TaskArguments, settings: ComparisonArguments, online: OnlineArguments, args: AFSFTConfig) -> None:
    """The settings of --quick."""
    online.online_rounds, online.online_episodes, online.online_steps = 2, 16, 5
    settings.eval_episodes, settings.curve_episodes, settings.curve_points = 50, 20, 2
    task.num_log_episodes, args.max_steps, args.per_device_train_batch_size = 400, 40, 16


def main() -> None:
    parser = TrlParser((TaskArguments, ComparisonArguments, OnlineArguments, TrainingArguments, ModelArguments))
    task, settings, online, args, model_args = parser.parse_args_and_config()
    if task.quick:
        shrink(task, settings, online, args)
    use_all_cores()

    env = {
        "make_env": f"trl_vlmq/BabyAI-{task.level}-v0",
        "env_kwargs": {"max_steps": task.max_episode_steps, "list_actions": task.list_actions},
        "prompt_builder": PromptBuilder(history=task.history),
    }
    comparison, out = Comparison(settings, args, model_args, env), Path(args.output_dir)
    policy = BehaviorPolicy(parse_mixture(task.behaviors))
    dataset = collect_or_load(task.episodes_path, policy, task.num_log_episodes, args, env)
    logs = describe_logs(dataset)
    if PartialState().is_main_process:
        print(json.dumps(logs, indent=2))
    train_dataset, eval_dataset = split_episodes(dataset)
    if online.online and (out / "afsft" / CRITIC_WEIGHTS).is_file():
        print(f"Going on from the agent in {out / 'afsft'}.")
        go_online(task, online, comparison, train_dataset)
        return

    comparison.play_behaviors(parse_mixture(task.behaviors))
    comparison.play_base()
    comparison.train(train_dataset, eval_dataset)
    comparison.report(f"BabyAI-{task.level}", logs)
    if online.online:
        go_online(task, online, comparison, train_dataset)


def go_online(task: TaskArguments, online: OnlineArguments, comparison: Comparison, logs: Dataset) -> None:
    """The offline agent plays, and learns from logs and its own episodes alike."""
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
        episodes_per_round=online.online_episodes, num_envs=online.online_episodes, max_new_tokens=MAX_NEW_TOKENS,
        epsilon=LinearSchedule(online.epsilon, online.epsilon_end, max(1, online.online_rounds - 1)),
        vllm=vllm_client(online.vllm_server_base_url),
    )  # fmt: skip
    trainer = AFSFTTrainer(str(offline / "afsft"), args=run, train_dataset=logs, callbacks=[play])
    backbone = trainer.model.backbone
    after = Comparison(comparison.settings, run, comparison.model_args, env)
    with trainer.unsharded():
        for how, temperature in HOW:
            after.play(f"offline ({how})", backbone, temperature)
    curve = after.curve(backbone, online.online_rounds * online.online_steps)
    trainer.add_callback(curve)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    with trainer.unsharded():
        for how, temperature in HOW:
            after.play(f"online ({how})", backbone, temperature)
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
    task: TaskArguments, after: Comparison, logs: dict, curve: list, trainer: AFSFTTrainer, offline: Path
) -> None:
    """Figure with the offline curve before the switch, JSON, outcomes of every episode."""
    before = json.loads(offline.read_text())["curves"].get("afsft", []) if offline.is_file() else []
    switch = before[-1][0] if before else 0
    curves = {"offline": before} if before else {}
    curves["online"] = [(step + switch, *rest) for step, *rest in curve]
    figure = after.out / "online.png"
    plot_comparison(
        figure, after.results, curves,
        title=f"BabyAI-{task.level}: from logs to its own episodes", switch_on=switch, switch_label="online from here",
    )  # fmt: skip
    summary = {
        "task": f"BabyAI-{task.level}",
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


if __name__ == "__main__":
    main()
    end_processes()

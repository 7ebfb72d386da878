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

import json
from dataclasses import dataclass, field

from accelerate import PartialState
from comparison import Comparison, ComparisonArguments, ComparisonTrainingArguments
from going_online import OnlineArguments, go_online
from trl import TrlParser

from trl_vlmq import AFSFTConfig, BehaviorPolicy
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
    comparison = Comparison(settings, args, model_args, env)
    policy = BehaviorPolicy(parse_mixture(task.behaviors))
    go_on = online.online and comparison.has_agent
    dataset = comparison.collect_or_load(task.episodes_path, policy, task.num_log_episodes, go_on)
    logs = describe_logs(dataset)
    if PartialState().is_main_process:
        print(json.dumps(logs, indent=2))
    train_dataset, eval_dataset = split_episodes(dataset)
    if go_on:
        go_online(f"BabyAI-{task.level}", online, comparison, train_dataset)
        return

    comparison.play_behaviors(parse_mixture(task.behaviors))
    comparison.play_base()
    comparison.train(train_dataset, eval_dataset)
    comparison.report(f"BabyAI-{task.level}", logs)
    if online.online:
        go_online(f"BabyAI-{task.level}", online, comparison, train_dataset)


if __name__ == "__main__":
    main()
    end_processes()

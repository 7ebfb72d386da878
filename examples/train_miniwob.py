# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""MiniWoB++: one agent for several web tasks in a real Chromium, from logs of good and bad behaviour.

1. Collects logs of the tasks, a share of whose actions is spoiled so that nobody can read it (or loads yours).
2. Trains `sft` and `afsft` on them, for as many steps from the same base, with LoRA and a frozen vision tower.
3. Plays held-out episodes and writes a table of all tasks and one task by task, figures, the results as JSON and
   both adapters with the critic.
4. With `--online`, goes on from the AFSFT agent (of this or an earlier run in the same folder) with its own episodes.

    apt-get install chromium chromium-driver; pip install "trl_vlmq[miniwob]"

    accelerate launch examples/train_miniwob.py                      # more than an hour on two cores
    accelerate launch examples/train_miniwob.py --quick              # a few minutes: does everything work?
    accelerate launch examples/train_miniwob.py --online             # then the agent plays and goes on improving
    accelerate launch examples/train_miniwob.py --tasks click-link,read-table --list_actions True \
        --model_name_or_path HuggingFaceTB/SmolVLM-256M-Instruct --output_dir outputs/other

The base is the embedded `tiny-miniwob`, which has learned to describe such pages and has never seen an action.
"""

import json
from dataclasses import dataclass, field

from accelerate import PartialState
from comparison import Comparison, ComparisonArguments, ComparisonTrainingArguments, examine_filter
from datasets import Dataset
from going_online import OnlineArguments, go_online
from trl import TrlParser

from trl_vlmq import AFSFTConfig, BehaviorPolicy, SloppyPolicy, VLMActorCritic
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.hardware import use_all_cores
from trl_vlmq.launch import end_processes
from trl_vlmq.logs import describe_logs, parse_mixture, split_episodes
from trl_vlmq.model_arguments import ModelArguments


TASKS = (
    "click-button,click-button-sequence,click-color,click-dialog-2,click-tab,click-test-2,focus-text-2,identify-shape"
)


@dataclass
class TaskArguments:
    """The tasks, their logs and their evaluation."""

    tasks: str = field(default=TASKS, metadata={"help": "Tasks of MiniWoB++ with an expert, separated by commas."})
    max_episode_steps: int = field(
        default=5, metadata={"help": "Turns after which an episode is truncated, in the logs and in evaluations."}
    )
    list_actions: bool = field(
        default=False,
        metadata={"help": "List the actions in the prompt: for a base that knows words, and at its price."},
    )
    history: int = field(default=0, metadata={"help": "Past actions that the prompt recalls."})
    episodes_path: str | None = field(
        default=None, metadata={"help": "Parquet file of episodes to train on; by default they are collected."}
    )
    num_log_episodes: int = field(default=2500, metadata={"help": "Episodes to collect, of all tasks together."})
    behaviors: str = field(
        default="expert:1,wrong_target:2,random:1", metadata={"help": "Who acts in the logs, with relative weights."}
    )
    invalid_share: float = field(
        default=0.1, metadata={"help": "Share of the actions in the logs that nobody can read."}
    )
    invalid_penalty: float = field(
        default=0.5,
        metadata={
            "help": "What an action costs that nobody can read. It ends no episode, and so would be worth more than a "
            "wrong one that does."
        },
    )
    browsers: int = field(default=4, metadata={"help": "Browsers at once, about 500 MiB each."})
    quick: bool = field(default=False, metadata={"help": "A short run that shows that everything works."})


@dataclass
class EvaluationArguments(ComparisonArguments):
    """Fewer episodes than in other examples, since a page takes a quarter of a second: over three seeds 200 of each task."""

    eval_episodes: int = field(default=540, metadata={"help": "Held-out episodes of each final evaluation."})
    curve_episodes: int = field(default=80, metadata={"help": "Held-out episodes of each point of the curves."})
    curve_points: int = field(default=2, metadata={"help": "Evaluations on the way."})


@dataclass
class TrainingArguments(ComparisonTrainingArguments):
    """AFSFTConfig with the defaults of this example."""

    output_dir: str | None = field(default="outputs/miniwob", metadata={"help": "Folder for everything."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Segments per step."})
    max_steps: int = field(default=1200, metadata={"help": "Optimiser steps of each training."})


class BrowserComparison(Comparison):
    """What a browser has time for: held-out episodes, and whose choices the filter keeps."""

    max_new_tokens = 32

    def examine_critic(self, objective: str, model: VLMActorCritic, held_out: Dataset) -> dict[str, dict]:
        return {"filter": examine_filter(model, held_out)}


def shrink(task: TaskArguments, settings: ComparisonArguments, online: OnlineArguments, args: AFSFTConfig) -> None:
    """The settings of --quick."""
    task.tasks, task.browsers, task.num_log_episodes = "click-test-2,focus-text-2", 2, 60
    online.online_rounds, online.online_episodes, online.online_steps = 2, 8, 5
    settings.eval_episodes, settings.curve_episodes, settings.curve_points = 20, 10, 1
    args.max_steps, args.per_device_train_batch_size = 20, 16


def main() -> None:
    parser = TrlParser((TaskArguments, EvaluationArguments, OnlineArguments, TrainingArguments, ModelArguments))
    task, settings, online, args, model_args = parser.parse_args_and_config()
    model_args.model_name_or_path = model_args.model_name_or_path or "tiny-miniwob"
    if task.quick:
        shrink(task, settings, online, args)
    use_all_cores()

    tasks = task.tasks.split(",")
    env = {
        "make_env": "trl_vlmq/MiniWoB-v0",
        "env_kwargs": {
            "task": tasks,
            "max_steps": task.max_episode_steps,
            "list_actions": task.list_actions,
            "invalid_penalty": task.invalid_penalty,
        },
        "prompt_builder": PromptBuilder(history=task.history),
    }
    comparison = BrowserComparison(settings, args, model_args, env, num_envs=task.browsers)
    policy = SloppyPolicy(BehaviorPolicy(parse_mixture(task.behaviors)), task.invalid_share)
    go_on = online.online and comparison.has_agent
    dataset = comparison.collect_or_load(task.episodes_path, policy, task.num_log_episodes, go_on)
    logs = describe_logs(dataset)
    if PartialState().is_main_process:
        print(json.dumps(logs, indent=2))
    train_dataset, eval_dataset = split_episodes(dataset)
    name = f"MiniWoB++, {len(tasks)} tasks"
    if not go_on:
        comparison.play_base()
        comparison.train(train_dataset, eval_dataset)
        comparison.report(name, logs)
    if online.online:
        go_online(name, online, comparison, train_dataset)


if __name__ == "__main__":
    main()
    end_processes()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the examples share: objectives trained on the same logs, compared on the same held-out episodes."""

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import get_peft_config

from trl_vlmq import (
    AFSFTConfig,
    AFSFTTrainer,
    BehaviorPolicy,
    EvaluationResult,
    PolicyEvaluationCallback,
    VLMActorCritic,
    VLMPolicy,
    evaluate_policy,
    load_episodes,
)
from trl_vlmq.critic import CRITIC_WEIGHTS
from trl_vlmq.diagnostics import (
    calibrate_returns,
    calibrate_tokens,
    comparison_table,
    environment_table,
    plot_calibration,
    plot_comparison,
    plot_environments,
    rank_actions,
    report_filter,
)
from trl_vlmq.env_record import EnvironmentRecord, environment_of_episodes
from trl_vlmq.hardware import choose_cpu_precision
from trl_vlmq.logs import collect_logs
from trl_vlmq.model_arguments import ModelArguments
from trl_vlmq.policies import Policy
from trl_vlmq.prompt_record import agree_on_prompt, prompt_of_episodes, save_prompt
from trl_vlmq.statistics import paired_bootstrap


HOW = (("greedy", 0.0), ("sampled", 1.0))  # name and temperature


@dataclass
class ComparisonArguments:
    """What is trained and how it is examined."""

    eval_episodes: int = field(default=500, metadata={"help": "Held-out episodes of each final evaluation."})
    curve_episodes: int = field(default=100, metadata={"help": "Held-out episodes of each point of the curves."})
    curve_points: int = field(default=8, metadata={"help": "Evaluations on the way."})
    objectives: str = field(default="sft,afsft", metadata={"help": "What to train, one after the other."})


@dataclass
class ComparisonTrainingArguments(AFSFTConfig):
    """AFSFTConfig with what the examples change."""

    critic_learning_rate: float | None = field(default=3e-3, metadata={"help": "Learning rate of the critic's head."})
    max_steps: int = field(default=1500, metadata={"help": "Optimiser steps of each training."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(
        default="cosine_with_min_lr",
        metadata={"help": "Schedule of the learning rate; by default a cosine that ends at 0.4 of the peak."},
    )
    warmup_steps: float = field(default=20, metadata={"help": "Steps of linear warm-up."})
    save_strategy: str = field(default="no", metadata={"help": "When to save checkpoints."})
    report_to: str = field(default="none", metadata={"help": "Trackers."})

    def __post_init__(self):
        choose_cpu_precision(self)
        if self.lr_scheduler_type == "cosine_with_min_lr" and not self.lr_scheduler_kwargs:
            # Not to 0: what the closed filter teaches comes last, and took its time on some seeds.
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.4}
        super().__post_init__()


class Comparison:
    """
    Policies and what they reach.

    Args:
        settings ([`ComparisonArguments`]):
            How to examine.
        args ([`AFSFTConfig`]):
            How to train; `output_dir` gets a folder for each objective.
        model_args ([`ModelArguments`]):
            The base and its adapter.
        env (`dict`):
            `make_env`, `env_kwargs` and `prompt_builder` of the logs.
        variants (`dict[str, dict]`, *optional*):
            What policies play: a label that is added to their names -> what differs from `env_kwargs`. By default the
            environment of the logs. The first one gives the curves.
        num_envs (`int`, *optional*, defaults to `128`):
            Environments at once.

    Attributes:
        max_new_tokens (`int`):
            Tokens of an action, at most.
        results (`dict[str, EvaluationResult]`):
            Name of each policy -> its held-out episodes.
        curves (`dict[str, list]`):
            Objective -> (step, success, low, high) on the way.
        critics (`dict[str, dict]`):
            Objective -> what is known of its critic.
    """

    max_new_tokens = 16

    def __init__(
        self,
        settings: ComparisonArguments,
        args: AFSFTConfig,
        model_args: ModelArguments,
        env: dict,
        variants: dict[str, dict] | None = None,
        num_envs: int = 128,
    ):
        self.num_envs = num_envs
        self.settings, self.args, self.model_args, self.env = settings, args, model_args, env
        self.out = Path(args.output_dir)
        self.evaluate = {
            label: partial(evaluate_policy, num_envs=num_envs, **env | {"env_kwargs": env["env_kwargs"] | changes})
            for label, changes in (variants or {"": {}}).items()
        }
        self.results: dict[str, EvaluationResult] = {}
        self.curves: dict[str, list] = {}
        self.critics: dict[str, dict] = {}

    @property
    def has_agent(self) -> bool:
        """Whether the output folder has an AFSFT agent with its critic, to go on from."""
        return (self.out / "afsft" / CRITIC_WEIGHTS).is_file()

    def collect_or_load(
        self, episodes_path: str | None, policy: Policy, num_episodes: int, go_on: bool = False
    ) -> Dataset:
        """The logs: collected once, by the first process, into the output folder; or loaded from a file that is there.

        Args:
            episodes_path (`str`, *optional*):
                The file to load.
            policy ([`Policy`]):
                Who acts, if they are collected.
            num_episodes (`int`):
                How many episodes are then collected.
            go_on (`bool`, *optional*, defaults to `False`):
                Load those in the output folder, which the agent there was trained on, if they are there still.

        Raises:
            ValueError: the file's environment or prompts are not those of this run.
        """
        path = Path(episodes_path or self.out / "episodes.parquet")
        collect = episodes_path is None and not (go_on and path.is_file())
        with PartialState().main_process_first():
            if collect and PartialState().is_main_process:
                collect_logs(
                    path,
                    policy=policy,
                    num_episodes=num_episodes,
                    seed=self.args.seed,
                    num_envs=self.num_envs,
                    **self.env,
                )
            agree_on_environment(path, EnvironmentRecord.of(self.env["make_env"], self.env["env_kwargs"]))
            agree_on_prompt(prompt_of_episodes(path), self.env["prompt_builder"].history)
            return load_episodes(path)

    def play_behaviors(self, names: Iterable[str]) -> None:
        """Scripted agents, for reference."""
        for name in names:
            self.play_policy(name, BehaviorPolicy(name), self.settings.eval_episodes)

    def play_base(self) -> None:
        """It knows no action: a few episodes show that, and each of its turns takes as long as a turn can.

        Not under ZeRO-3, which gives each process a part of it.
        """
        if is_deepspeed_zero3_enabled():
            return
        self.play("base (sampled)", self.model_args.load(), 1.0, self.settings.curve_episodes)

    def play(self, name: str, backbone, temperature: float, num_episodes: int | None = None) -> None:
        """Held-out episodes of a model."""
        policy = VLMPolicy(backbone, temperature=temperature, max_new_tokens=self.max_new_tokens)
        self.play_policy(name, policy, num_episodes or self.settings.eval_episodes)

    def play_all(self, name: str, backbone) -> None:
        """Held-out episodes of a model, greedy and sampled."""
        for how, temperature in HOW:
            self.play(f"{name} ({how})", backbone, temperature)

    def play_policy(self, name: str, policy: Policy, num_episodes: int) -> None:
        """Held-out episodes of anybody, of every variant; played by the first process."""
        if not PartialState().is_main_process:
            return
        for label, evaluate in self.evaluate.items():
            self.results[name + label] = evaluate(policy=policy, num_episodes=num_episodes, progress=name + label)

    def train(
        self,
        train_dataset: Dataset,
        eval_dataset: Dataset,
        watch: Callable[[str], list[TrainerCallback]] = lambda objective: [],
    ) -> None:
        """Every objective from the same base, for as many steps; then it plays.

        Args:
            train_dataset, eval_dataset ([`~datasets.Dataset`]):
                The logs, and those of them that are held out.
            watch (`Callable[[str], list]`, *optional*):
                Makes further callbacks of an objective's training.
        """
        for objective in self.settings.objectives.split(","):
            set_seed(self.args.seed)
            run = copy.deepcopy(self.args)
            run.actor_objective, run.output_dir = objective, str(self.out / objective)
            if objective == "sft":
                run.critic_coef = 0.0
            backbone = self.model_args.load()
            trainer = AFSFTTrainer(
                model=backbone.model,
                args=run,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=backbone.processor,
                peft_config=get_peft_config(self.model_args),
                callbacks=watch(objective),
            )
            curve = self.curve(trainer.model.backbone, run.max_steps)
            trainer.add_callback(curve)
            trainer.train()
            trainer.log_metrics("eval", trainer.evaluate())
            trainer.save_model()
            trainer.save_state()
            save_prompt(self.env["prompt_builder"], run.output_dir)
            EnvironmentRecord.of(self.env["make_env"], self.env["env_kwargs"]).save(run.output_dir)
            self.curves[objective] = curve.curve
            with trainer.unsharded():
                self.examine(objective, trainer.model, eval_dataset)
            PartialState().wait_for_everyone()

    def examine(self, objective: str, model: VLMActorCritic, eval_dataset: Dataset) -> None:
        """What an objective has led to: its critic, and the episodes that it plays."""
        if model.critic is not None and PartialState().is_main_process:
            self.critics[objective] = self.examine_critic(objective, model, eval_dataset)
        self.play_all(objective, model.backbone)

    def examine_critic(self, objective: str, model: VLMActorCritic, held_out: Dataset) -> dict[str, dict]:
        """Can the critic be trusted: does it rank the expert's action first, whose choices does the filter keep, is Q right?"""
        ranking = rank_actions(model, policy=BehaviorPolicy("random"), **self.env).summary()
        print(
            f"Q of the expert's action against the others in {ranking['states']} states of the random policy: AUROC "
            f"{ranking['auroc']:.2f}; highest in {ranking['q_agreement']:.0%}, likeliest in {ranking['policy_agreement']:.0%}"
        )
        kept = examine_filter(model, held_out)
        tokens = calibrate_tokens(model, held_out)
        policy = VLMPolicy(model.backbone, temperature=1.0, max_new_tokens=self.max_new_tokens)
        returns = calibrate_returns(model, policy=policy, num_episodes=100, **self.env)
        print(f"{tokens.verdict()}\n{returns.verdict()}")
        figure = self.out / f"{objective}_critic.png"
        plot_calibration(figure, tokens, returns, title="The critic on held-out episodes")
        return {"ranking": ranking, "filter": kept, "tokens": tokens.summary(), "returns": returns.summary()}

    def curve(self, backbone, steps: int) -> PolicyEvaluationCallback:
        """Plays on the way, on other episodes than those of the end."""
        evaluate = next(iter(self.evaluate.values()))
        return PolicyEvaluationCallback(
            partial(evaluate, num_episodes=self.settings.curve_episodes, seed=2_000_000, progress=None),
            VLMPolicy(backbone, temperature=1.0, max_new_tokens=self.max_new_tokens),
            every_steps=max(1, steps // self.settings.curve_points),
        )

    def report(self, task: str, logs: dict) -> None:
        """Table, figure and JSON.

        Args:
            task (`str`):
                Name of the task, for people; what must be the same in runs that are pooled.
            logs (`dict`):
                From [`describe_logs`].
        """
        if not PartialState().is_main_process:
            return
        table = comparison_table(self.results)
        print(
            f"\n{task}, {self.settings.eval_episodes} held-out episodes each; logs: {logs['all']['success']:.1%} success\n"
        )
        print(table)
        figure = self.out / "comparison.png"
        plot_comparison(
            figure, self.results, self.curves,
            title=f"{task}: {', '.join(map(str.upper, self.curves))} on logs with {logs['all']['success']:.0%} successes",
            switch_on=round(self.args.filter_warmup_ratio * self.args.max_steps),
        )  # fmt: skip
        if any(len(result.by_environment()) > 1 for result in self.results.values()):
            by_environment = environment_table(self.results)
            print(f"\n{by_environment}")
            table += f"\n\n{by_environment}"
            plot_environments(self.out / "environments.png", self.results, f"{task}: held-out episodes")
        summary = {
            "task": task,
            "seed": self.args.seed,
            "steps": self.args.max_steps,
            "logs": logs,
            "results": {name: result.summary() for name, result in self.results.items()},
            "afsft_minus_sft": differences(self.results, "afsft", "sft"),
            "curves": self.curves,
            "critics": self.critics,
        }
        (self.out / "results.json").write_text(json.dumps(summary, indent=2) + "\n")
        (self.out / "results.md").write_text(table + "\n")
        save_outcomes(self.out, self.results)
        print(f"\nFigures: {figure}, {self.out}/*_critic.png\nResults: {self.out / 'results.json'}")
        print(f"Adapters and critic: {self.out}/<objective>/")
        print(f"Play again: trl-vlmq evaluate --model {self.out}/<objective> --env {self.env['make_env']}")


def agree_on_environment(path: Path, mine: EnvironmentRecord | None) -> None:
    """Logs of another environment, or of the same with other arguments, tell of other prompts and rewards.

    Raises:
        ValueError: says what differs and what to do.
    """
    theirs = environment_of_episodes(path)
    if theirs is None or (mine is not None and theirs.env_id == mine.env_id and theirs.complete() == mine.complete()):
        return
    here = "one that cannot be written down" if mine is None else f"{mine.env_id} with {mine.env_kwargs}"
    raise ValueError(
        f"{path} holds episodes of {theirs.env_id} with {theirs.env_kwargs}; the environment of this run is {here}. Give "
        "the options that these logs were collected with, or leave out --episodes_path for new ones."
    )


def differences(results: dict[str, EvaluationResult], better: str, worse: str) -> dict[str, dict[str, float]]:
    """Success of one policy minus that of another, greedy and sampled, where both have played; printed as well."""
    found = {}
    for how, _ in HOW:
        one, other = results.get(f"{better} ({how})"), results.get(f"{worse} ({how})")
        if one is not None and other is not None:
            difference, low, high = paired_bootstrap(one.success, other.success)
            found[how] = {"difference": difference, "low": low, "high": high}
            print(f"{better} - {worse}, {how}: {difference:+.1%} (paired bootstrap 95%: {low:+.1%} to {high:+.1%})")
    return found


def save_outcomes(folder: Path, results: dict[str, EvaluationResult]) -> None:
    """Of every episode, for examples/pool_seeds.py."""
    outcomes = {
        f"{name}|{field}": values for name, result in results.items() for field, values in vars(result).items()
    }
    np.savez_compressed(folder / "outcomes.npz", **outcomes)


def examine_filter(model: VLMActorCritic, held_out: Dataset) -> dict[str, dict]:
    """Whose choices the filter keeps."""
    kept = report_filter(model, held_out).by_behavior()
    for name, numbers in kept.items():
        print(f"unsure choices of {name}: {numbers.get('kept', 0):.0%} of {numbers['unsure']} have A > 0")
    return kept

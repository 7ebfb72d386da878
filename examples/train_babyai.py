# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Logs in, trained agent out: SFT and AFSFT on the same logs of real BabyAI episodes.

1. Collects logs of good and bad behaviour (or loads yours).
2. Trains `sft` (imitate everything) and `afsft` (imitate what the critic finds better than average) on them, for the
   same number of steps from the same base, with LoRA and a frozen vision tower.
3. Plays held-out episodes with both, with the untouched base model and with the behaviours, and writes a table, a
   figure, the results as JSON and both adapters with the critic.
4. With `--online`, goes on from the AFSFT agent (of this or an earlier run in the same folder) with its own episodes.

    accelerate launch examples/train_babyai.py                       # about half an hour on two cores
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
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import set_seed
from trl import TrlParser, get_peft_config

from trl_vlmq import (
    AFSFTConfig,
    AFSFTTrainer,
    BehaviorPolicy,
    EvaluationResult,
    LinearSchedule,
    OnlineRolloutCallback,
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
    plot_calibration,
    plot_comparison,
    rank_actions,
    report_filter,
)
from trl_vlmq.env_record import EnvironmentRecord
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.hardware import choose_cpu_precision, use_all_cores
from trl_vlmq.logs import collect_logs, describe_logs, parse_mixture, split_episodes
from trl_vlmq.model_arguments import ModelArguments
from trl_vlmq.prompt_record import agree_on_prompt, prompt_of_episodes, save_prompt
from trl_vlmq.statistics import paired_bootstrap


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
    eval_episodes: int = field(default=500, metadata={"help": "Held-out episodes of each final evaluation."})
    curve_episodes: int = field(default=100, metadata={"help": "Held-out episodes of each point of the curves."})
    curve_points: int = field(default=8, metadata={"help": "Evaluations on the way."})
    objectives: str = field(default="sft,afsft", metadata={"help": "What to train, one after the other."})
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


@dataclass
class TrainingArguments(AFSFTConfig):
    """AFSFTConfig with the defaults of this example."""

    output_dir: str | None = field(default="outputs/babyai", metadata={"help": "Folder for everything."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Segments per step."})
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


def shrink(task: TaskArguments, online: OnlineArguments, args: AFSFTConfig) -> None:
    """The settings of --quick."""
    online.online_rounds, online.online_episodes, online.online_steps = 2, 16, 5
    task.num_log_episodes, task.eval_episodes, task.curve_episodes, task.curve_points = 400, 50, 20, 2
    args.max_steps, args.per_device_train_batch_size = 40, 16


def collect(task: TaskArguments, args: AFSFTConfig, env: dict) -> Dataset:
    """The logs: collected once by the first process, or loaded."""
    path = Path(task.episodes_path or Path(args.output_dir, "episodes.parquet"))
    with PartialState().main_process_first():
        if task.episodes_path is None and PartialState().is_main_process:
            policy = BehaviorPolicy(parse_mixture(task.behaviors))
            collect_logs(path, policy=policy, num_episodes=task.num_log_episodes, seed=args.seed, **env)
        agree_on_prompt(prompt_of_episodes(path), task.history)
        return load_episodes(path)


def main() -> None:
    parser = TrlParser((TaskArguments, OnlineArguments, TrainingArguments, ModelArguments))
    task, online, args, model_args = parser.parse_args_and_config()
    if task.quick:
        shrink(task, online, args)
    use_all_cores()

    env = {
        "make_env": f"trl_vlmq/BabyAI-{task.level}-v0",
        "env_kwargs": {"max_steps": task.max_episode_steps, "list_actions": task.list_actions},
        "prompt_builder": PromptBuilder(history=task.history),
    }
    out = Path(args.output_dir)
    dataset = collect(task, args, env)
    logs = describe_logs(dataset)
    print(json.dumps(logs, indent=2))
    train_dataset, eval_dataset = split_episodes(dataset)
    if online.online and (out / "afsft" / CRITIC_WEIGHTS).is_file():
        print(f"Going on from the agent in {out / 'afsft'}.")
        go_online(task, online, args, train_dataset, env, out)
        return

    evaluate = partial(evaluate_policy, num_envs=128, **env)
    results: dict[str, EvaluationResult] = {}
    for behavior in parse_mixture(task.behaviors):
        results[behavior] = evaluate(
            policy=BehaviorPolicy(behavior), num_episodes=task.eval_episodes, progress=behavior
        )
    backbone = model_args.load()
    # It knows no action: a few episodes show that, and each of its turns takes as long as a turn can.
    results["base (sampled)"] = play_final(evaluate, backbone, task.curve_episodes, "base (sampled)", temperature=1.0)

    curves, critics = {}, {}
    for objective in task.objectives.split(","):
        set_seed(args.seed)
        run = copy.deepcopy(args)
        run.actor_objective, run.output_dir = objective, str(out / objective)
        if objective == "sft":
            run.critic_coef = 0.0
        backbone = model_args.load()
        trainer = AFSFTTrainer(
            model=backbone.model,
            args=run,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=backbone.processor,
            peft_config=get_peft_config(model_args),
        )
        backbone = trainer.model.backbone
        policy = VLMPolicy(backbone, temperature=1.0, max_new_tokens=16)
        curve = PolicyEvaluationCallback(
            partial(evaluate, num_episodes=task.curve_episodes, seed=2_000_000, progress=None),
            policy,
            every_steps=max(1, run.max_steps // task.curve_points),
        )
        trainer.add_callback(curve)
        trainer.train()
        trainer.log_metrics("eval", trainer.evaluate())
        trainer.save_model()
        trainer.save_state()
        save_prompt(env["prompt_builder"], run.output_dir)
        EnvironmentRecord.of(env["make_env"], env["env_kwargs"]).save(run.output_dir)
        if trainer.model.critic is not None:
            critics[objective] = examine_critic(trainer.model, eval_dataset, env, out / f"{objective}_critic.png")
        curves[objective] = curve.curve
        for how, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            name = f"{objective} ({how})"
            results[name] = play_final(evaluate, backbone, task.eval_episodes, name, temperature)

    report(task, args, logs, results, curves, critics, env, out)
    if online.online:
        go_online(task, online, args, train_dataset, env, out)


def go_online(
    task: TaskArguments, online: OnlineArguments, args: AFSFTConfig, logs: Dataset, env: dict, out: Path
) -> None:
    """The offline agent plays, and learns from logs and its own episodes alike."""
    set_seed(args.seed)
    run = copy.deepcopy(args)
    run.output_dir, run.actor_objective = str(out / "online"), "afsft"
    run.max_steps, run.num_train_epochs = -1, online.online_rounds
    run.segments_per_epoch = online.online_steps * run.per_device_train_batch_size
    run.learning_rate, run.lr_scheduler_type = online.online_learning_rate, "constant_with_warmup"
    run.lr_scheduler_kwargs = {}
    run.critic_learning_rate = online.online_learning_rate
    run.filter_warmup_ratio, run.filter_ramp_ratio = 0.0, 0.0  # the critic is there already
    run.filter_min_explained_variance = None
    play = OnlineRolloutCallback(
        env["make_env"], env_kwargs=env["env_kwargs"], prompt_builder=env["prompt_builder"],
        episodes_per_round=online.online_episodes, num_envs=online.online_episodes, max_new_tokens=16,
        epsilon=LinearSchedule(online.epsilon, online.epsilon_end, max(1, online.online_rounds - 1)),
    )  # fmt: skip
    trainer = AFSFTTrainer(str(out / "afsft"), args=run, train_dataset=logs, callbacks=[play])
    backbone = trainer.model.backbone
    evaluate = partial(evaluate_policy, num_envs=128, **env)
    names = (("greedy", 0.0), ("sampled", 1.0))
    results = {
        f"offline ({how})": play_final(evaluate, backbone, task.eval_episodes, f"offline ({how})", temperature)
        for how, temperature in names
    }
    total = online.online_rounds * online.online_steps
    curve = PolicyEvaluationCallback(
        partial(evaluate, num_episodes=task.curve_episodes, seed=2_000_000, progress=None),
        VLMPolicy(backbone, temperature=1.0, max_new_tokens=16),
        every_steps=max(1, total // task.curve_points),
    )
    trainer.add_callback(curve)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    for how, temperature in names:
        name = f"online ({how})"
        results[name] = play_final(evaluate, backbone, task.eval_episodes, name, temperature)
    print(f"\n{comparison_table(results)}")
    gains = {}
    for how, _ in names:
        gain, low, high = paired_bootstrap(results[f"online ({how})"].success, results[f"offline ({how})"].success)
        gains[how] = {"difference": gain, "low": low, "high": high}
        print(f"online - offline, {how}: {gain:+.1%} (paired bootstrap 95%: {low:+.1%} to {high:+.1%})")
    save_online_results(task, args, describe_logs(logs), results, gains, curve.curve, trainer, out)


def save_online_results(
    task: TaskArguments,
    args: AFSFTConfig,
    logs: dict,
    results: dict[str, EvaluationResult],
    gains: dict[str, dict],
    curve: list,
    trainer: AFSFTTrainer,
    out: Path,
) -> None:
    """Figure with the offline curve before the switch, JSON, outcomes of every episode."""
    offline = out / "results.json"
    before = json.loads(offline.read_text())["curves"].get("afsft", []) if offline.is_file() else []
    switch = before[-1][0] if before else 0
    curves = {"offline": before} if before else {}
    curves["online"] = [(step + switch, *rest) for step, *rest in curve]
    plot_comparison(
        out / "online" / "online.png", results, curves,
        title=f"BabyAI-{task.level}: from logs to its own episodes", switch_on=switch, switch_label="online from here",
    )  # fmt: skip
    rounds = [entry for entry in trainer.state.log_history if "rollout_episodes" in entry]
    summary = {
        "level": task.level,
        "seed": args.seed,
        "results": {name: result.summary() for name, result in results.items()},
        "steps": trainer.state.max_steps,
        "logs": logs,
        "online_minus_offline": gains,
        "curves": curves,
        "rounds": rounds,
    }
    (out / "online" / "results.json").write_text(json.dumps(summary, indent=2) + "\n")
    save_outcomes(out / "online", results)
    print(f"\nFigure: {out / 'online' / 'online.png'}\nAgent: {out / 'online'}")


def save_outcomes(folder: Path, results: dict[str, EvaluationResult]) -> None:
    """Of every episode, for examples/pool_seeds.py."""
    outcomes = {
        f"{name}|{field}": values for name, result in results.items() for field, values in vars(result).items()
    }
    np.savez_compressed(folder / "outcomes.npz", **outcomes)


def play_final(evaluate, backbone, num_episodes: int, name: str, temperature: float) -> EvaluationResult:
    policy = VLMPolicy(backbone, temperature=temperature, max_new_tokens=16)
    return evaluate(policy=policy, num_episodes=num_episodes, progress=name)


def examine_critic(model: VLMActorCritic, held_out: Dataset, env: dict, figure: Path) -> dict[str, dict]:
    """Can the critic be trusted: does it rank the expert's action first, whose choices does the filter keep, is Q right?"""
    ranking = rank_actions(model, policy=BehaviorPolicy("random"), **env).summary()
    print(
        f"Q of the expert's action against the others in {ranking['states']} states of the random policy: AUROC "
        f"{ranking['auroc']:.2f}; highest in {ranking['q_agreement']:.0%}, likeliest in {ranking['policy_agreement']:.0%}"
    )
    kept = report_filter(model, held_out).by_behavior()
    for name, numbers in kept.items():
        print(f"unsure choices of {name}: {numbers.get('kept', 0):.0%} of {numbers['unsure']} have A > 0")
    tokens = calibrate_tokens(model, held_out)
    policy = VLMPolicy(model.backbone, temperature=1.0, max_new_tokens=16)
    returns = calibrate_returns(model, policy=policy, num_episodes=100, **env)
    print(f"{tokens.verdict()}\n{returns.verdict()}")
    plot_calibration(figure, tokens, returns, title="The critic on held-out episodes")
    return {"ranking": ranking, "filter": kept, "tokens": tokens.summary(), "returns": returns.summary()}


def report(
    task: TaskArguments,
    args: AFSFTConfig,
    logs: dict,
    results: dict[str, EvaluationResult],
    curves: dict[str, list],
    critics: dict[str, dict],
    env: dict,
    out: Path,
) -> None:
    """Table, figure and JSON."""
    table = comparison_table(results)
    print(
        f"\nBabyAI-{task.level}, {task.eval_episodes} held-out episodes each; logs: {logs['all']['success']:.1%} success\n"
    )
    print(table)
    differences = {}
    for how in ("greedy", "sampled"):
        sft, afsft = results.get(f"sft ({how})"), results.get(f"afsft ({how})")
        if sft is not None and afsft is not None:
            difference, low, high = paired_bootstrap(afsft.success, sft.success)
            differences[how] = {"difference": difference, "low": low, "high": high}
            print(f"afsft - sft, {how}: {difference:+.1%} (paired bootstrap 95%: {low:+.1%} to {high:+.1%})")
    figure = out / "comparison.png"
    plot_comparison(
        figure, results, curves,
        title=f"BabyAI-{task.level}: the same logs ({logs['all']['success']:.0%} successes), two ways to learn",
        switch_on=round(args.filter_warmup_ratio * args.max_steps),
    )  # fmt: skip
    summary = {
        "level": task.level,
        "seed": args.seed,
        "steps": args.max_steps,
        "logs": logs,
        "results": {name: result.summary() for name, result in results.items()},
        "afsft_minus_sft": differences,
        "curves": curves,
        "critics": critics,
    }
    (out / "results.json").write_text(json.dumps(summary, indent=2) + "\n")
    (out / "results.md").write_text(table + "\n")
    save_outcomes(out, results)
    print(
        f"\nFigures: {figure}, {out}/*_critic.png\nResults: {out / 'results.json'}\nAdapters and critic: {out}/<objective>/"
    )
    print(f"Play again: trl-vlmq evaluate --model {out}/<objective> --env {env['make_env']}")


if __name__ == "__main__":
    main()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What happens to a good offline agent that suddenly explores at random? The switch to online play, at its harshest.

The agent of `examples/train_babyai.py` goes online with epsilon = 1 (every action random) for 10,000 environment steps,
and trains on what comes in. Every few hundred environment steps held-out episodes tell its success, and the critic's Q is
logged. The dip is the offline success minus the lowest one afterwards; it has recovered when success is back within two
standard errors of the offline one and stays there at the next evaluation.

    accelerate launch examples/train_babyai.py --objectives afsft
    python examples/stress_online.py --agent outputs/babyai
    python examples/stress_online.py --agent outputs/babyai --variants default,mostly_offline

Writes a figure, a table and JSON into the agent's folder.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from train_babyai import TrainingArguments
from transformers import HfArgumentParser, TrainerCallback, set_seed

from trl_vlmq import (
    AFSFTTrainer,
    LinearSchedule,
    OnlineRolloutCallback,
    VLMPolicy,
    evaluate_policy,
    load_episodes,
)
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.hardware import use_all_cores
from trl_vlmq.logs import split_episodes


# What differs from the first: half of the segments are the agent's own at once. The filter is on from the first step unless a variant says otherwise.
VARIANTS = {
    "default": {},
    "mostly_offline": {"online_share": 0.1},
    "slow_share": {"online_share_epochs": 20},
    "beta_again": {"filter_warmup_ratio": 0.25, "filter_ramp_ratio": 0.25},
    "td_error": {"replay_priority": "td_error"},
}


@dataclass
class Arguments:
    """The stress test."""

    agent: str = field(default="outputs/babyai", metadata={"help": "Output folder of examples/train_babyai.py."})
    level: str = field(default="GoToLocalS6N2", metadata={"help": "BabyAI level of the agent."})
    variants: str = field(default="default,mostly_offline", metadata={"help": f"Of {', '.join(VARIANTS)}."})
    env_steps: int = field(default=10_000, metadata={"help": "Environment steps at epsilon = 1."})
    episodes_per_round: int = field(default=40, metadata={"help": "Episodes between two evaluations."})
    steps_per_round: int = field(default=20, metadata={"help": "Optimiser steps between two evaluations."})
    learning_rate: float = field(default=5e-4, metadata={"help": "Learning rate of everything, constant."})
    eval_episodes: int = field(default=200, metadata={"help": "Held-out episodes of each evaluation, sampled."})
    seed: int = field(default=0, metadata={"help": "Seed."})


class Watch(TrainerCallback):
    """Success, and the values that training saw since the last look, at the end of each epoch."""

    def __init__(self, evaluate, play: OnlineRolloutCallback):
        self.evaluate, self.play = evaluate, play
        self.points: list[dict] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self._look(state)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._look(state)

    def _look(self, state) -> None:
        result = self.evaluate()
        low, high = result.success_interval
        logged = next((entry for entry in reversed(state.log_history) if "q_mean" in entry), {})
        values = {name: logged.get(name) for name in ("q_mean", "q_std", "advantage_choice_std", "explained_variance")}
        point = {"env_steps": self.play.env_steps, "success": result.success_rate, "low": low, "high": high, **values}
        self.points.append(point)
        print(json.dumps(point), flush=True)


def run(name: str, arguments: Arguments, out: Path) -> list[dict]:
    """One variant: its points, by environment steps."""
    set_seed(arguments.seed)
    agent = Path(arguments.agent)
    env = {
        "make_env": f"trl_vlmq/BabyAI-{arguments.level}-v0",
        "env_kwargs": {"max_steps": 10, "list_actions": False},
        "prompt_builder": PromptBuilder(),
    }
    logs, _ = split_episodes(load_episodes(agent / "episodes.parquet"))
    # A random episode of the main level takes 9.5 of its 10 turns.
    epochs = max(1, round(arguments.env_steps / (9.5 * arguments.episodes_per_round)))
    settings = {
        "output_dir": str(out / name),
        "max_steps": -1, "num_train_epochs": epochs, "per_device_train_batch_size": 32,
        "segments_per_epoch": 32 * arguments.steps_per_round, "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 20, "filter_warmup_ratio": 0.0,
        "filter_ramp_ratio": 0.0, "logging_steps": arguments.steps_per_round, "save_strategy": "no",
        "report_to": "none", "seed": arguments.seed,
    }  # fmt: skip
    config = TrainingArguments(**settings | VARIANTS[name])
    play = OnlineRolloutCallback(
        env["make_env"], env_kwargs=env["env_kwargs"], prompt_builder=env["prompt_builder"],
        episodes_per_round=arguments.episodes_per_round, num_envs=arguments.episodes_per_round, max_new_tokens=16,
        epsilon=LinearSchedule(1.0, 1.0, 0),
    )  # fmt: skip
    trainer = AFSFTTrainer(str(agent / "afsft"), args=config, train_dataset=logs, callbacks=[play])
    policy = VLMPolicy(trainer.model.backbone, temperature=1.0, max_new_tokens=16)
    evaluate = partial(
        evaluate_policy, policy=policy, num_episodes=arguments.eval_episodes, seed=2_000_000, num_envs=128,
        progress=None, **env,
    )  # fmt: skip
    watch = Watch(evaluate, play)
    trainer.add_callback(watch)
    trainer.train()
    return watch.points


def dip_and_recovery(points: list[dict], episodes: int) -> tuple[float, int | None]:
    """The dip in success, and the environment steps until it was over (0 without a dip, `None` if it never was)."""
    success = np.array([point["success"] for point in points])
    tolerance = 2 * np.sqrt(success[0] * (1 - success[0]) / episodes)
    below = success < success[0] - tolerance
    dip = float(max(0.0, success[0] - success.min()))
    if not below.any():
        return dip, 0
    lowest = int(success.argmin())
    for i in range(lowest, len(points)):
        if not below[i : i + 2].any():
            return dip, points[i]["env_steps"]
    return dip, None


def draw(path: Path, results: dict[str, list[dict]]) -> None:
    """Success and Q against environment steps."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, points in results.items():
        steps = [point["env_steps"] for point in points]
        (line,) = left.plot(steps, [100 * p["success"] for p in points], marker="o", markersize=3, label=name)
        left.fill_between(
            steps, [100 * p["low"] for p in points], [100 * p["high"] for p in points],
            alpha=0.12, color=line.get_color(), linewidth=0,
        )  # fmt: skip
        known = [point for point in points if point["q_mean"] is not None]
        steps, mean, std = (np.array([point[key] for point in known]) for key in ("env_steps", "q_mean", "q_std"))
        right.plot(steps, mean, color=line.get_color(), label=name)
        right.fill_between(steps, mean - std, mean + std, alpha=0.12, color=line.get_color(), linewidth=0)
    left.set(
        xlabel="environment steps at epsilon = 1",
        ylabel="success, % (band: 95%)",
        ylim=(0, 100),
        title="held-out, sampled",
    )
    right.set(
        xlabel="environment steps at epsilon = 1", ylabel="Q of the actions trained on (band: std)", title="critic"
    )
    left.legend(frameon=False, loc="lower right")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("The offline agent plays at random from one moment to the next, and trains on it")
    figure.savefig(path, dpi=150)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    unknown = set(arguments.variants.split(",")) - set(VARIANTS)
    if unknown:
        raise SystemExit(f"No such variant: {', '.join(sorted(unknown))}; choose from {', '.join(VARIANTS)}.")
    use_all_cores()
    out = Path(arguments.agent, "stress")
    results = {name: run(name, arguments, out) for name in arguments.variants.split(",")}
    print("\n| variant | offline | lowest | dip | recovered after | at the end |\n|---|---|---|---|---|---|")
    for name, points in results.items():
        dip, recovered = dip_and_recovery(points, arguments.eval_episodes)
        after = "never" if recovered is None else f"{recovered:,} steps" if recovered else "no dip"
        lowest = min(point["success"] for point in points)
        print(
            f"| {name} | {points[0]['success']:.1%} | {lowest:.1%} | {100 * dip:.1f} points | {after} | "
            f"{points[-1]['success']:.1%} |"
        )
    (out / "stress.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(out / "stress.png", results)
    print(f"\nFigure: {out / 'stress.png'}")


if __name__ == "__main__":
    main()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Logs to train on: who acts in them, collecting them, what is in them, and which of them are held out."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from .env_record import EnvironmentRecord
from .envs import PromptBuilder
from .policies import Policy
from .prompt_record import prompt_metadata
from .rollout import MakeEnv, play_episodes, play_lost_again
from .storage import save_episodes


def parse_mixture(text: str) -> dict[str, float]:
    """Behaviours and their weights from text, for [`BehaviorPolicy`].

    Args:
        text (`str`):
            `"expert:2,wrong_goal:4,random"`: names with relative weights, 1 where there is none.

    Raises:
        ValueError: names the part that cannot be read.
    """
    mixture: dict[str, float] = {}
    for part in text.split(","):
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not name or not 0 <= weight < math.inf:
            raise ValueError(
                f"{part.strip()!r} in {text!r} is not a behavior with its weight; write for example "
                "expert:2,random:1 (weights are numbers of at least 0)."
            )
        if name in mixture:
            raise ValueError(f"{text!r} names {name!r} twice; give it one weight.")
        mixture[name] = weight
    if not sum(mixture.values()):
        raise ValueError(f"{text!r} gives nobody a weight above 0.")
    return mixture


def collect_logs(
    path: str | Path,
    make_env: MakeEnv,
    policy: Policy,
    num_episodes: int,
    *,
    seed: int = 0,
    num_envs: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    prompt_builder: PromptBuilder | None = None,
    step_timeout: float | None = None,
    max_lost_share: float | None = None,
    progress: str | None = "collect logs",
) -> None:
    """Play episodes and write them to a Parquet file, which records the environment and how its prompts were made.

    Args:
        path (`str` or `Path`):
            The file to write; a file already there is replaced.
        make_env, policy, num_episodes, seed, num_envs, env_kwargs, prompt_builder, step_timeout, progress:
            As in [`play_episodes`].
        max_lost_share (`float`, *optional*):
            As in [`evaluate_policy`]: lost episodes are played again.

    Raises:
        EnvironmentFailureError: if more episodes were lost than that.
    """
    builder = prompt_builder or PromptBuilder()
    episodes = play_episodes(
        make_env, policy, num_episodes,
        seed=seed, num_envs=num_envs, env_kwargs=env_kwargs, prompt_builder=builder, step_timeout=step_timeout,
        faults=play_lost_again(make_env, num_episodes, max_lost_share), progress=progress,
    )  # fmt: skip
    record = EnvironmentRecord.of(make_env, env_kwargs)
    save_episodes(episodes, path, metadata=prompt_metadata(builder) | (record.metadata() if record else {}))


def describe_logs(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Episodes, turns and success of all logs and of each behaviour in them; success is NaN where none is recorded."""
    table = dataset.select_columns(["turn", "success", "behavior"]).to_pandas()
    episodes = table[table["turn"] == 0]

    def success(rows) -> float:
        return float(rows["success"].astype("float64").mean())

    report = {"all": {"episodes": len(episodes), "turns": len(table), "success": success(episodes)}}
    for name, rows in episodes.groupby("behavior"):
        turns = int((table["behavior"] == name).sum())
        report[name] = {"episodes": len(rows), "turns": turns, "success": success(rows)}
    return report


def logs_table(report: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of what [`describe_logs`] found."""
    rows = ["| behavior | episodes | success | turns | turns per episode |", "|---|---|---|---|---|"]
    for name, numbers in report.items():
        success = "unknown" if math.isnan(numbers["success"]) else f"{numbers['success']:.1%}"
        length = numbers["turns"] / numbers["episodes"] if numbers["episodes"] else 0.0
        rows.append(f"| {name} | {numbers['episodes']} | {success} | {numbers['turns']} | {length:.1f} |")
    return "\n".join(rows)


def split_episodes(dataset: Dataset, share: float = 0.05) -> tuple[Dataset, Dataset]:
    """Whole episodes for training, and the last few for held-out losses.

    Args:
        dataset ([`~datasets.Dataset`]):
            Valid episodes.
        share (`float`, *optional*, defaults to `0.05`):
            Share of the episodes that is held out: at least one, and at least one is left.

    Raises:
        ValueError: if `share` is not between 0 and 1, or there are fewer than two episodes.
    """
    if not 0 < share < 1:
        raise ValueError(f"A share of {share} cannot be held out; it lies between 0 and 1.")
    turns = dataset.select_columns(["turn"]).to_pandas()["turn"].to_numpy()
    starts = (turns == 0).nonzero()[0]
    if len(starts) < 2:
        raise ValueError(f"{len(starts)} episode(s) cannot be split into training and held-out ones.")
    cut = int(starts[max(1, int(len(starts) * (1 - share)))])
    return dataset.select(range(cut)), dataset.select(range(cut, len(dataset)))

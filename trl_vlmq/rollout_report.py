# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a round of online episodes was like: numbers for the log, sample episodes to look at."""

from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback

from .episodes import Episode


@dataclass
class RoundStatistics:
    """Outcomes of episodes, one entry each.

    Args:
        lost (`int`, *optional*, defaults to `0`):
            Episodes lost to failing environments.
        env_id (`list[str]`): environment.
        success (`list[bool]`): whether it succeeded.
        total_reward (`list[float]`): sum of its rewards.
        length (`list[int]`): its turns.
        valid (`list[int]`): turns whose action the environment could read.
        generated_tokens (`int`): tokens that the policy wrote in all of them.
    """

    lost: int = 0
    env_id: list[str] = field(default_factory=list)
    success: list[bool] = field(default_factory=list)
    total_reward: list[float] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    valid: list[int] = field(default_factory=list)
    generated_tokens: int = 0

    def add(self, dataset: Dataset) -> None:
        """Count the episodes of a dataset of turns."""
        columns = ["turn", "env_id", "success", "reward", "action_is_valid", "completion_ids"]
        rows = dataset.select_columns(columns).to_pandas()
        episode = (rows["turn"] == 0).cumsum()
        for _, turns in rows.groupby(episode):
            self.env_id.append(turns["env_id"].iloc[0])
            self.success.append(bool(turns["success"].iloc[-1]))
            self.total_reward.append(float(turns["reward"].sum()))
            self.length.append(len(turns))
            self.valid.append(int(turns["action_is_valid"].sum()))
        self.generated_tokens += int(sum(len(ids) for ids in rows["completion_ids"] if ids is not None))

    @classmethod
    def merged(cls, parts: list["RoundStatistics"]) -> "RoundStatistics":
        """Those of several processes as one."""
        whole = cls()
        for part in parts:
            for name, value in vars(part).items():
                setattr(whole, name, getattr(whole, name) + value)
        return whole

    @property
    def env_steps(self) -> int:
        """Turns of all episodes."""
        return sum(self.length)

    def summary(self, env_ids: list[str]) -> dict[str, float]:
        """Metrics of all episodes, and of each environment where there are several."""
        logs = {"rollout_episodes": len(self.success), "rollout_lost_episodes": self.lost}
        logs |= self._outcome(np.ones(len(self.success), dtype=bool), "")
        if len(env_ids) > 1:
            for name in env_ids:
                logs |= self._outcome(np.asarray(self.env_id) == name, f"/{name}")
        return logs

    def _outcome(self, chosen: np.ndarray, suffix: str) -> dict[str, float]:
        if not chosen.any():
            return {}
        success, total_reward, length, valid = (
            np.asarray(values, dtype=float)[chosen]
            for values in (self.success, self.total_reward, self.length, self.valid)
        )
        return {
            f"rollout_success{suffix}": float(success.mean()),
            f"rollout_return{suffix}": float(total_reward.mean()),
            f"rollout_length{suffix}": float(length.mean()),
            f"rollout_syntax_accuracy{suffix}": float(valid.sum() / length.sum()),
        }


def show_samples(round_: int, episodes: list[Episode]) -> None:
    """Print episodes turn by turn."""
    for episode in episodes:
        outcome = "success" if episode.success else "no success"
        lines = [
            f"round {round_}, {episode.episode_id} ({episode.behavior}): {outcome}, return {episode.total_reward:g}"
        ]
        lines.append(f"  {_task(episode)}")
        lines += [
            f"  {i:3d} {turn.completion!r} -> reward {turn.reward:g}{'' if turn.action_is_valid else ', invalid'}"
            for i, turn in enumerate(episode.turns)
        ]
        tqdm.write("\n".join(lines))


def log_samples(round_: int, episodes: list[Episode], callbacks: list[TrainerCallback], step: int) -> None:
    """Sample episodes with their images, where TensorBoard or Weights & Biases is among the trainer's callbacks.

    Args:
        round_ (`int`):
            Number of the round.
        episodes (`list[Episode]`):
            The episodes.
        callbacks (`list[~transformers.TrainerCallback]`):
            Callbacks of the trainer.
        step (`int`):
            Optimiser steps done.
    """
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            for i, episode in enumerate(episodes):
                images = [np.asarray(turn.images[-1].convert("RGB")) for turn in episode.turns if turn.images]
                actions = "  \n".join(f"{turn.completion} → {turn.reward:g}" for turn in episode.turns)
                callback.tb_writer.add_text(f"rollout/episode_{i}", f"{_task(episode)}  \n{actions}", step)
                if images:
                    strip = np.concatenate(images, axis=1)
                    callback.tb_writer.add_image(f"rollout/episode_{i}", strip, step, dataformats="HWC")
        elif isinstance(callback, WandbCallback) and getattr(callback, "_wandb", None) and callback._wandb.run:
            wandb = callback._wandb
            table = wandb.Table(columns=["round", "episode", "turn", "image", "action", "reward", "valid"])
            for episode in episodes:
                for number, turn in enumerate(episode.turns):
                    image = wandb.Image(turn.images[-1]) if turn.images else None
                    table.add_data(
                        round_, episode.episode_id, number, image, turn.completion, turn.reward, turn.action_is_valid
                    )
            wandb.log({"rollout/episodes": table})


def _task(episode: Episode) -> str:
    """The text of the first prompt."""
    parts = episode.turns[0].prompt[-1]["content"]
    return " ".join(part["text"] for part in parts if part.get("text"))

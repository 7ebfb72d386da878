# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An episode as it was logged -> rows of the turn schema, with its images read."""

from dataclasses import dataclass
from typing import Any

from .images import ImageReader
from .mapping import FieldMapping
from .outcomes import end_of, rewards_of, success_of
from .problems import LogProblem
from .reading import LoggedEpisode


# Decoded bytes of one episode's images, an image counted as often as a prompt shows it: Arrow holds each row in full.
_EPISODE_BYTES = 2**30


@dataclass
class ImportedEpisode:
    """
    An episode, ready to be written.

    Args:
        rows (`list[dict]`):
            In the columns of [`~columns.FEATURES`].
        lost_last_action (`bool`):
            Whether its last turn has become its final observation.
    """

    rows: list[dict[str, Any]]
    lost_last_action: bool


def rows_of(episode: LoggedEpisode, images: ImageReader, mapping: FieldMapping) -> ImportedEpisode:
    """
    Args:
        episode ([`~reading.LoggedEpisode`]):
            The episode.
        images ([`~images.ImageReader`]):
            Reads its images.
        mapping ([`FieldMapping`]):
            What its fields are called and mean.

    Returns:
        [`ImportedEpisode`]: a truncated episode whose log has no final observation gives its last turn for it: what
        was seen there becomes the final observation of the turn before, and the action taken there is lost.

    Raises:
        LogProblem: If the episode cannot be used.
    """
    success, cut_off = success_of(episode, mapping)
    terminated, truncated = end_of(episode, cut_off, mapping)
    final = episode.final_prompt if truncated else None
    lost = truncated and not terminated and final is None
    if lost:
        if len(episode.turns) == 1:
            raise LogProblem(
                mapping.name("final_prompt"),
                "is missing although the episode was truncated after its only turn",
                "write what the agent saw after its last action",
                where=episode.turns[-1].where,
            )
        rewards_of(episode, success, mapping)  # the lost turn's reward must be right, too
        final = episode.turns.pop().prompt
        total = episode.facts["episode_reward"]
        if isinstance(total, list):
            total.pop()
    rewards = rewards_of(episode, success, mapping)

    rows = []
    for index, (turn, reward) in enumerate(zip(episode.turns, rewards, strict=True)):
        last = index == len(rewards) - 1
        try:
            prompt, shown = _prompt(turn.prompt, images, mapping)
        except LogProblem as problem:
            problem.where = problem.where or turn.where
            raise
        rows.append(
            {
                "episode_id": episode.episode_id,
                "turn": index,
                "images": shown,
                "prompt": prompt,
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": turn.completion}]}],
                "reward": reward,
                "terminated": terminated and last,
                "truncated": truncated and last,
                "action_is_valid": turn.action_is_valid,
                "success": success,
                "behavior": episode.facts["behavior"],
                "env_id": episode.facts["env_id"],
                "executed_action": turn.executed_action,
            }
        )
    if final is not None:
        rows[-1]["final_prompt"], rows[-1]["final_images"] = _prompt(final, images, mapping)
    _check_size(rows, mapping)
    return ImportedEpisode(rows, lost)


def _prompt(messages: list[dict], images: ImageReader, mapping: FieldMapping) -> tuple[list[dict], list[dict]]:
    """Messages as they are stored, and the images of their image parts."""
    if not any(message["content"] for message in messages):
        cure = "write what the agent was told, or leave the episode out"
        raise LogProblem(mapping.name("prompt"), "is empty", cure)
    name = mapping.name("images")
    shown = [
        images.read(part["image"], name)
        for message in messages
        for part in message["content"]
        if part["type"] == "image"
    ]
    stored = [
        {
            "role": message["role"],
            "content": [{"type": part["type"], "text": part.get("text")} for part in message["content"]],
        }
        for message in messages
    ]
    return stored, shown


def _check_size(rows: list[dict[str, Any]], mapping: FieldMapping) -> None:
    size = sum(len(image["bytes"]) for row in rows for image in row["images"])
    if size > _EPISODE_BYTES:
        cure = "let prompts recall less, for example `history: 1` in the mapping, or store smaller images"
        raise LogProblem(mapping.name("images"), "are too large for one episode", cure, f"{size / 2**30:.1f} GiB")

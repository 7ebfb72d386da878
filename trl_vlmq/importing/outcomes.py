# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a log says of success, rewards and ends -> the rewards and flags of the turn schema."""

from typing import Any

import numpy as np

from .mapping import FieldMapping
from .problems import LogProblem
from .reading import LoggedEpisode


def success_of(episode: LoggedEpisode, mapping: FieldMapping) -> tuple[bool | None, bool]:
    """
    Args:
        episode ([`~reading.LoggedEpisode`]):
            The episode.
        mapping ([`FieldMapping`]):
            What its outcomes mean.

    Returns:
        Whether it succeeded (`None` if the log does not say), and whether its outcome says that it was cut off.
    """
    value = episode.facts["success"]
    if value is None:
        return None, False
    outcome = mapping.outcome(value)
    return outcome == "success", outcome == "truncated"


def rewards_of(episode: LoggedEpisode, success: bool | None, mapping: FieldMapping) -> list[float]:
    """
    The rewards of the turns; if those have none, the episode's reward goes to its last turn; if it has none, what the
    mapping says success and failure are worth.

    Args:
        episode ([`~reading.LoggedEpisode`]):
            The episode.
        success (`bool`, *optional*):
            From [`success_of`].
        mapping ([`FieldMapping`]):
            What success is worth.

    Raises:
        LogProblem: If a turn's reward is missing or is not a number, or if nothing says how the episode went.
    """
    name, turns = mapping.name("reward"), episode.turns
    if any(turn.reward is not None for turn in turns):
        if (missing := next((turn for turn in turns if turn.reward is None), None)) is not None:
            cure = "write 0 where there was none, or map `episode_reward` if it is the episode's"
            raise LogProblem(name, "is missing in a turn although other turns have it", cure, where=missing.where)
        return [_number(turn.reward, name, turn.where) for turn in turns]

    total, name = episode.facts["episode_reward"], mapping.name("episode_reward")
    if isinstance(total, list):
        if len(total) != len(turns):
            detail = f"{len(total)} rewards, {len(turns)} turns"
            raise LogProblem(name, "does not have one reward for each turn", "write one number for each turn", detail)
        return [_number(reward, name, turn.where) for reward, turn in zip(total, turns, strict=True)]
    if total is not None:
        last = _number(total, name, turns[-1].where)
    elif success is not None:
        last = mapping.success_reward if success else mapping.failure_reward
    else:
        cure = "map one of `reward`, `episode_reward` and `success`"
        raise LogProblem(mapping.name("reward"), "nothing says how the episode went", cure)
    return [0.0] * (len(turns) - 1) + [last]


def end_of(episode: LoggedEpisode, cut_off: bool, mapping: FieldMapping) -> tuple[bool, bool]:
    """
    How an episode ended: cut off if the log says `truncated`, gives such an outcome, or says of the last turn that the
    episode was not over; else with its task, as is also taken where the log says nothing.

    Args:
        episode ([`~reading.LoggedEpisode`]):
            The episode.
        cut_off (`bool`):
            From [`success_of`].
        mapping ([`FieldMapping`]):
            What the log calls its fields.

    Returns:
        `terminated` and `truncated` of the last turn.

    Raises:
        LogProblem: If an earlier turn has ended the episode.
    """
    for turn in episode.turns[:-1]:
        if early := [mapping.name(name) for name, value in turn.flags.items() if value]:
            cure = "give the turns after it an episode of their own, or set it in the last turn only"
            raise LogProblem(early[0], "ends the episode before its last turn", cure, where=turn.where)
    flags = episode.turns[-1].flags
    terminated, truncated, done = flags["terminated"], flags["truncated"], flags["done"]
    unfinished = not truncated and not terminated and (terminated is False or done is False)
    if terminated is None:
        return not (truncated or cut_off or unfinished), bool(truncated or cut_off or unfinished)
    return terminated, bool(truncated or unfinished or (cut_off and not terminated))


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        cure = "write a number; map true and false as `success`"
        raise LogProblem(name, "is not a number", cure, f"{str(value)[:40]!r}", where)
    try:
        number = float(value)
        with np.errstate(over="ignore"):
            finite = bool(np.isfinite(np.float32(number)))
    except OverflowError:
        finite = False
    if not finite:
        cure = "write the reward that the environment gave"
        raise LogProblem(name, "is not a finite number of 32 bits", cure, f"{str(value)[:40]}", where)
    return number

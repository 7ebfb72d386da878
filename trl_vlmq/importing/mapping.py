# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a log calls its fields, and what its outcomes mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from .problems import LogProblem


# Our name of a field -> the names it is found under without a mapping, the first that is there and not null.
FIELDS: dict[str, tuple[str, ...]] = {
    "episode_id": ("episode_id", "episode", "trajectory_id", "conversation_id", "run_id", "session_id", "id"),
    "turn": ("turn", "step", "turn_id", "step_id", "turn_index", "step_index"),
    "steps": ("steps", "turns", "trajectory"),
    "messages": ("messages", "conversation"),
    "prompt": ("prompt", "observation", "instruction", "user", "messages"),
    "images": ("images", "image", "screenshot", "screenshots"),
    "completion": ("completion", "response", "assistant", "answer", "action", "output"),
    "reward": ("reward",),
    "episode_reward": ("episode_reward", "return", "score", "total_reward", "rewards"),
    "success": ("success", "outcome", "won", "solved"),
    "terminated": ("terminated",),
    "truncated": ("truncated",),
    "done": ("done",),
    "final_prompt": ("final_prompt", "final_observation"),
    "final_images": ("final_images", "final_image"),
    "action_is_valid": ("action_is_valid",),
    "executed_action": ("executed_action",),
    "behavior": ("behavior", "policy", "agent", "model"),
    "env_id": ("env_id", "env", "environment"),
}

# Fields of an episode: a mapping may name one that only some lines of an episode have.
EPISODE_FIELDS = (
    "episode_reward", "success", "terminated", "truncated", "done", "final_prompt", "final_images", "behavior",
    "env_id",
)  # fmt: skip

FORMATS = ("turns", "episodes", "messages")

_OUTCOMES: dict[str, tuple[str, ...]] = {
    "success": ("success", "succeeded", "successful", "won", "win", "solved", "passed", "pass", "true", "1", "1.0"),
    "failure": ("failure", "failed", "fail", "lost", "loss", "lose", "unsolved", "false", "0", "0.0"),
    "truncated": ("timeout", "timed out", "truncated", "max_steps"),
}

_MISSING = object()


@dataclass(frozen=True)
class FieldMapping:
    """
    What a log calls its fields, and what its outcomes mean. The defaults know common names.

    Args:
        format (`str`, *optional*):
            `"turns"`, `"episodes"` or `"messages"`: what a line holds. By default the first line tells.
        fields (`dict[str, str or None]`, *optional*):
            Our name of a field -> the log's, a path with dots where it lies deeper: `{"reward": "meta.reward"}`; `None`
            to pass over a field that has a common name but another meaning.
        outcomes (`dict[str, list]`, *optional*):
            Further values of the field `success`, under `"success"`, `"failure"` and `"truncated"` (cut off, no success).
        success_reward (`float`, *optional*, defaults to `1.0`):
            Reward of a successful episode's last turn, where the log has no rewards.
        failure_reward (`float`, *optional*, defaults to `0.0`):
            Reward of any other episode's last turn, where the log has no rewards.
        history (`int` or `"all"`, *optional*, defaults to `"all"`):
            How many past exchanges of a conversation a turn's prompt holds, besides system messages. 0 leaves what came
            after the agent's previous message. For the format `"messages"`.
    """

    format: str | None = None
    fields: Mapping[str, str | None] = field(default_factory=dict)
    outcomes: Mapping[str, list] = field(default_factory=dict)
    success_reward: float = 1.0
    failure_reward: float = 0.0
    history: int | str = "all"

    def __post_init__(self):
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"format: {self.format!r} is none of {list(FORMATS)}.")
        for name, known in (("fields", FIELDS), ("outcomes", _OUTCOMES)):
            given = getattr(self, name)
            if not isinstance(given, Mapping):
                raise ValueError(f"{name}: {given!r} is not a mapping of names; the known ones are {list(known)}.")
            if unknown := [key for key in given if key not in known]:
                raise ValueError(f"{name}: {unknown} is unknown; the known names are {list(known)}.")
        for name, path in self.fields.items():
            if path is not None and (not isinstance(path, str) or not path):
                raise ValueError(f"fields.{name}: {path!r} is not the name of a field; write it in quotes.")
        for name, values in self.outcomes.items():
            if not isinstance(values, list):
                raise ValueError(f"outcomes.{name}: {values!r} is not a list of values.")
        for name in ("success_reward", "failure_reward"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name}: {value!r} is not a finite number.")
        count = isinstance(self.history, int) and not isinstance(self.history, bool) and self.history >= 0
        if self.history != "all" and not count:
            raise ValueError(f"history: {self.history!r} is neither 'all' nor 0 or more past exchanges.")
        object.__setattr__(self, "_meaning", self._meanings())

    @classmethod
    def from_yaml(cls, path: str | Path) -> "FieldMapping":
        """
        Read a mapping file.

        Args:
            path (`str` or `Path`):
                YAML with the arguments of this class as keys.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such YAML; the message names the key.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no mapping file {str(path)!r}.")
        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        known = [each.name for each in fields(cls)]
        if not isinstance(settings, dict) or (unknown := sorted(set(map(str, settings)) - set(known))):
            named = f"keys {unknown}" if isinstance(settings, dict) else f"{type(settings).__name__} at the top"
            raise ValueError(f"{path}: unknown {named}; a mapping file has the keys {known}.")
        try:
            return cls(**settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def name(self, field: str) -> str:
        """What the log calls a field: the mapped name, or ours."""
        return self.fields.get(field) or field

    def find(self, field: str, *scopes: dict[str, Any], required: bool = False) -> Any:
        """
        The value of a field, from the first scope that has it.

        Args:
            field (`str`):
                Our name.
            scopes (`dict`):
                Where to look, for example the step and then the line that it stands in.
            required (`bool`, *optional*, defaults to `False`):
                Whether it must be there. A field of a turn that the mapping names must be there anyway.

        Returns:
            `Any`: `None` if it is null or nowhere.

        Raises:
            LogProblem: If it must be there and is not.
        """
        mapped, paths = self.maps(field), self._paths(field)
        there = False
        for scope in scopes:
            for path in paths:
                value = _lookup(scope, path)
                there |= value is not _MISSING
                if value is not _MISSING and value is not None:
                    return value
        if not there and (required or (mapped and field not in EPISODE_FIELDS)):
            cure = (
                f"correct `fields.{field}` in the mapping"
                if mapped
                else f"name it in the mapping, `fields: {{{field}: ...}}`"
            )
            raise LogProblem(
                self.name(field), "is missing", f"write it, or {cure}", f"the fields are {_names(scopes)}"
            )
        return None

    def maps(self, field: str) -> bool:
        """Whether the mapping says what the log calls a field."""
        return self.fields.get(field) is not None

    def has(self, field: str, scope: dict[str, Any]) -> bool:
        """Whether a field is there, null or not."""
        return any(_lookup(scope, path) is not _MISSING for path in self._paths(field))

    def outcome(self, value: Any) -> str:
        """
        What a value of the field `success` means.

        Args:
            value (`Any`):
                As the log has it.

        Returns:
            `str`: `"success"`, `"failure"` or `"truncated"`.

        Raises:
            LogProblem: If that is not known.
        """
        key = str(value).strip().lower()
        if key not in self._meaning:
            raise LogProblem(
                self.name("success"),
                f"the outcome {str(value)[:40]!r} is unknown",
                "list it in the mapping under `outcomes`: success, failure or truncated",
            )
        return self._meaning[key]

    def _paths(self, field: str) -> tuple[str, ...]:
        if field not in self.fields:
            return FIELDS[field]
        return () if self.fields[field] is None else (self.fields[field],)

    def _meanings(self) -> dict[str, str]:
        meanings = {value: name for name, values in _OUTCOMES.items() for value in values}
        given: dict[str, str] = {}
        for name, values in self.outcomes.items():
            for value in values:
                key = str(value).strip().lower()
                if given.setdefault(key, name) != name:
                    raise ValueError(f"outcomes: {value!r} is listed under {given[key]} and under {name}.")
        return meanings | given


def _lookup(scope: Any, path: str) -> Any:
    if isinstance(scope, dict) and path in scope:  # a key may itself contain dots
        return scope[path]
    for key in path.split("."):
        if isinstance(scope, dict) and key in scope:
            scope = scope[key]
        elif isinstance(scope, list) and key.isdigit() and int(key) < len(scope):
            scope = scope[int(key)]
        else:
            return _MISSING
    return scope


def _names(scopes: tuple[dict[str, Any], ...]) -> str:
    names = [f"{key}.{inner}" if inner else str(key) for scope in scopes for key, inner in _keys(scope)]
    shown = ", ".join(dict.fromkeys(names[:20]))
    return shown + (", ..." if len(names) > 20 else "")


def _keys(scope: dict[str, Any]):
    for key, value in scope.items():
        if isinstance(value, dict):
            yield from ((key, inner) for inner in value)
        else:
            yield key, ""

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which environment logs come from, with which arguments, goes with the logs and with the agent trained on them.

An argument such as `list_actions` changes what the agent reads: played with another one it may fail entirely.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .records import load_record, records_in_files, save_record
from .rollout import MakeEnv, environment_class, find_spec


ENVIRONMENT_FILE = "environment.json"
_KEY = "trl_vlmq.environment"


@dataclass(frozen=True)
class EnvironmentRecord:
    """
    An environment.

    Args:
        env_id (`str`):
            Gymnasium id.
        env_kwargs (`dict`):
            Arguments of `gymnasium.make`.
    """

    env_id: str
    env_kwargs: dict[str, Any]

    @classmethod
    def of(cls, make_env: MakeEnv, env_kwargs: Mapping[str, Any] | None) -> "EnvironmentRecord | None":
        """`None` if it cannot be written down: a function, or arguments that are not JSON."""
        kwargs = dict(env_kwargs or {})
        try:
            return cls(make_env, json.loads(json.dumps(kwargs))) if isinstance(make_env, str) else None
        except (TypeError, ValueError):
            return None

    def complete(self) -> dict[str, Any]:
        """The arguments with the defaults of those that are not given, as far as the environment's classes tell them."""
        spec, creator = find_spec(self.env_id), environment_class(self.env_id)
        defaults: dict[str, Any] = {}
        for kind in reversed(getattr(creator, "__mro__", (creator,))):
            if "__init__" in vars(kind) and kind is not object:
                parameters = inspect.signature(kind.__init__).parameters.values()
                defaults |= {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        return defaults | (spec.kwargs if spec else {}) | self.env_kwargs

    def metadata(self) -> dict[str, str]:
        """What [`save_episodes`] shall record in the file."""
        return {_KEY: json.dumps(asdict(self))}

    def save(self, folder: str | Path) -> None:
        """Write `environment.json` beside an agent."""
        save_record(asdict(self), folder, ENVIRONMENT_FILE)


def environment_of_episodes(path: str | Path) -> EnvironmentRecord | None:
    """The environment of a Parquet file, or of a folder of them; `None` if it is not recorded or not one alone."""
    found = records_in_files(path, _KEY)
    return EnvironmentRecord(**found[0]) if len(found) == 1 and found[0] is not None else None


def load_environment(name_or_path: str) -> EnvironmentRecord | None:
    """What [`EnvironmentRecord.save`] wrote beside an agent.

    Args:
        name_or_path (`str`):
            Folder or Hub id of a model or adapter.
    """
    record = load_record(name_or_path, ENVIRONMENT_FILE)
    return None if record is None else EnvironmentRecord(**record)

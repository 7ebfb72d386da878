# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What several commands need: an environment by its id, checked before anything is played, and a model to act."""

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import yaml

import trl_vlmq.envs  # noqa: F401 (registers the ids)
from trl_vlmq.backbones import Backbone, load_backbone, resolve_model
from trl_vlmq.env_record import EnvironmentRecord
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.hardware import default_attention
from trl_vlmq.prompt_record import agree_on_prompt, load_prompt

from .errors import UserError, require_at_least, suggest, user_errors


@dataclass
class PlayArguments:
    """How environments are played in; by default as they say themselves."""

    num_envs: int | None = field(
        default=None,
        metadata={
            "help": "Environments at once; the episodes do not depend on it. Default: what the environment says (a few "
            "browsers, for one), else 64."
        },
    )
    step_timeout: float | None = field(
        default=None,
        metadata={
            "help": "Seconds a step of an environment may take; inf for no limit. Default: what the environment says, or no limit."
        },
    )
    max_lost_share: float | None = field(
        default=None,
        metadata={
            "help": "Share of the episodes that may be lost to environments that raise or hang; they are played again. "
            "Default: what the environment says, or 0."
        },
    )

    def __post_init__(self):
        require_at_least(self, num_envs=1, max_lost_share=0)
        if self.step_timeout is not None and not self.step_timeout > 0:
            raise ValueError(f"--step_timeout must be above 0, not {self.step_timeout}")
        if self.max_lost_share is not None and not self.max_lost_share < 1:
            raise ValueError(f"--max_lost_share must be below 1, not {self.max_lost_share}")


def read_env_kwargs(text: str | None) -> dict[str, Any]:
    """Arguments of an environment from YAML or JSON."""
    try:
        kwargs = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise UserError(f"--env_kwargs {text!r} is not YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(kwargs, dict) or not all(str(name).isidentifier() for name in kwargs):
        raise UserError(
            f"--env_kwargs {text!r} does not name its arguments; write '{{max_steps: 20}}', for example, with the space."
        )
    return kwargs


def choose_env_kwargs(env: str, text: str | None, recorded: Mapping[str, EnvironmentRecord | None]) -> dict[str, Any]:
    """Arguments of an environment: those that the user gave, else those that logs or agents of it were made with.

    Args:
        env (`str`):
            Its id.
        text (`str`, *optional*):
            What the user gave.
        recorded (`Mapping[str, EnvironmentRecord | None]`):
            Name of each agent or file -> what is recorded with it.
    """
    if text is not None:
        return read_env_kwargs(text)
    found = {
        name: record.env_kwargs for name, record in recorded.items() if record is not None and record.env_id == env
    }
    different = {json.dumps(kwargs, sort_keys=True) for kwargs in found.values()}
    if len(different) > 1:
        listed = "; ".join(f"{name}: {kwargs}" for name, kwargs in found.items())
        raise UserError(f"What was made with {env} had different arguments ({listed}): choose with --env_kwargs.")
    name, kwargs = next(iter(found.items()), ("", {}))
    if kwargs:
        print(f"{env}: {json.dumps(kwargs)} (as recorded with {name})")
    return kwargs


def check_env(env: str, kwargs: dict[str, Any], behaviors: Sequence[str] = ()) -> None:
    """Make the environment once, so that a wrong id, argument or behaviour is reported before anything else happens."""
    if ":" in env and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # `my_module:MyEnv-v0` of the user's own
    try:
        made = gymnasium.make(env, **kwargs)
    except gymnasium.error.UnregisteredEnv as error:
        ours = [name for name in gymnasium.registry if name.startswith("trl_vlmq/")]
        hint = suggest(env, ours) or suggest(f"trl_vlmq/{env}", ours) or "."
        if importlib.util.find_spec("minigrid") is None:
            hint += ' The BabyAI environments need: pip install "trl_vlmq[babyai]".'
        raise UserError(f"There is no environment {env!r}{hint}") from error
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        given = f" with {kwargs}" if kwargs else ""
        raise UserError(f"The environment {env!r} cannot be made{given}: {' '.join(str(error).split())}") from error
    try:
        if not {"image", "text"} <= set(getattr(made.observation_space, "spaces", ())):
            raise UserError(
                f"{env!r} does not show images and text; see the page on environments in the documentation."
            )
        known = list(getattr(made.unwrapped, "behaviors", ()))
        for name in behaviors:
            if name not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise UserError(f"{name!r} is not a behavior of {env}{suggest(name, known) or ';'} {has}.")
    finally:
        made.close()


def model_errors(name: str) -> AbstractContextManager[None]:
    """Turns what loading a model raises into one line that names the model."""
    about = "" if os.path.isdir(name) else "there is no such folder, and as an id of the Hub: "
    return user_errors(OSError, ValueError, ImportError, about=f"The model {name!r} cannot be loaded: {about}")


def load_agent(model: str | None, history: int | None) -> tuple[Backbone, PromptBuilder, str]:
    """A model that acts, how it is asked, and a sentence about that.

    Args:
        model (`str`, *optional*):
            Folder or Hub id of a model or adapter, or name of an embedded model; by default `tiny-babyai`.
        history (`int`, *optional*):
            Past actions in the prompt, if the user says so.
    """
    name = resolve_model(model or "tiny-babyai")
    with model_errors(name):
        backbone = load_backbone(name, attn_implementation=default_attention())
    with user_errors(OSError, ValueError):
        recorded = load_prompt(name)
        builder = agree_on_prompt(recorded, history)
    return backbone, builder, prompt_note(builder, found=recorded is not None)


def prompt_note(builder: PromptBuilder, *, found: bool | None = None) -> str:
    """How prompts are made, and whether a record of data or model says so (`None`: there is neither yet)."""
    settings = ", ".join(f"{name}={value}" for name, value in builder.to_dict().items())
    source = {True: " (as recorded)", False: " (nothing is recorded)", None: ""}[found]
    return f"prompts: {settings}{source}"

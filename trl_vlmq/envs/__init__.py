# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
Environments that show images and text and are acted on by text.

Importing this package registers them with Gymnasium, those apart whose simulator is not installed.
"""

import importlib.util
import re

import gymnasium

from trl_vlmq.envs.checker import EnvironmentCheckError, check_text_action_env
from trl_vlmq.envs.grammar import JsonActionGrammar, LenientJsonActionGrammar
from trl_vlmq.envs.miniwob.tasks import task_names
from trl_vlmq.envs.prompts import PromptBuilder
from trl_vlmq.envs.text_action import (
    Behavior,
    BehaviorUnavailableError,
    FreeText,
    Outcome,
    RolloutSettings,
    TextActionEnv,
    image_space,
)
from trl_vlmq.envs.tools import ToolEnv


def _register_babyai() -> None:
    if importlib.util.find_spec("minigrid") is None:
        return
    import minigrid  # noqa: F401 (registers its levels)

    for level in [name for name in gymnasium.registry if name.startswith("BabyAI-")]:
        gymnasium.register(
            id=f"trl_vlmq/{re.sub('-v[0-9]+$', '', level)}-v0",
            entry_point="trl_vlmq.envs.babyai:BabyAIEnv",
            kwargs={"level": level},
        )


def _register_gym_cards() -> None:
    for game in ("NumberLine", "EZPoints", "Points24", "Blackjack"):
        gymnasium.register(id=f"trl_vlmq/{game}-v0", entry_point=f"trl_vlmq.envs.gym_cards:{game}Env")


def _register_miniwob() -> None:
    if not task_names():
        return
    entry_point = "trl_vlmq.envs.miniwob.env:MiniWoBEnv"  # imports the browser's driver, when one is made
    for task in task_names():
        gymnasium.register(id=f"trl_vlmq/MiniWoB-{task}-v0", entry_point=entry_point, kwargs={"task": task})
    gymnasium.register(id="trl_vlmq/MiniWoB-v0", entry_point=entry_point)


_register_babyai()
_register_gym_cards()
_register_miniwob()

__all__ = [
    "Behavior",
    "BehaviorUnavailableError",
    "EnvironmentCheckError",
    "FreeText",
    "JsonActionGrammar",
    "LenientJsonActionGrammar",
    "Outcome",
    "PromptBuilder",
    "RolloutSettings",
    "TextActionEnv",
    "ToolEnv",
    "check_text_action_env",
    "image_space",
]

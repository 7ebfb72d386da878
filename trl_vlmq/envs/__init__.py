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
from trl_vlmq.envs.prompts import PromptBuilder
from trl_vlmq.envs.text_action import (
    Behavior,
    BehaviorUnavailableError,
    FreeText,
    Outcome,
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


_register_babyai()
_register_gym_cards()

__all__ = [
    "Behavior",
    "BehaviorUnavailableError",
    "EnvironmentCheckError",
    "FreeText",
    "JsonActionGrammar",
    "LenientJsonActionGrammar",
    "Outcome",
    "PromptBuilder",
    "TextActionEnv",
    "ToolEnv",
    "check_text_action_env",
    "image_space",
]

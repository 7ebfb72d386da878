# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the four games share: prompt, thoughts, return and success."""

from typing import Any

from trl_vlmq.envs.grammar import JsonActionGrammar, LenientJsonActionGrammar
from trl_vlmq.envs.text_action import TextActionEnv, image_space


class GymCardsEnv(TextActionEnv):
    """
    Base class of the games.

    An episode succeeds if it terminates with a return above 0 (so in RL4VLM, arXiv 2405.10292). An action that is not
    understood costs `invalid_penalty`; nothing else happens (ours: RL4VLM draws a random one).

    Args:
        actions (`list[str]`):
            All actions of the game.
        task (`str`):
            What the game is about, the first line of the prompt.
        max_steps (`int`):
            Time steps after which an episode is truncated.
        image_size (`int`, *optional*, defaults to `300`):
            Pixels per side of the picture.
        thoughts (`bool`, *optional*, defaults to `False`):
            Whether an answer has thoughts before the action: `{"thoughts": "...", "action": "..."}`. Scripted agents
            think what `describe` says.
        lenient (`bool`, *optional*, defaults to `False`):
            Accept what [`~trl_vlmq.envs.grammar.LenientJsonActionGrammar`] accepts.
        symbolic (`bool`, *optional*, defaults to `False`):
            Describe the picture in the prompt, too, for models that cannot see.
        list_actions (`bool`, *optional*, defaults to `True`):
            List the actions and their grammar in the prompt. A model that is trained learns them from its logs.
        invalid_penalty (`float`, *optional*, defaults to `1.0`):
            Subtracted from the reward for an action that is not understood.
        kwargs:
            `invalid_action`, `default_action` and `render_mode` of
            [`~trl_vlmq.envs.text_action.TextActionEnv`].
    """

    def __init__(
        self,
        actions: list[str],
        task: str,
        *,
        max_steps: int,
        image_size: int = 300,
        thoughts: bool = False,
        lenient: bool = False,
        symbolic: bool = False,
        list_actions: bool = True,
        invalid_penalty: float = 1.0,
        **kwargs,
    ):
        grammar = (LenientJsonActionGrammar if lenient else JsonActionGrammar)(actions, thoughts=thoughts)
        super().__init__(
            grammar,
            image_space(image_size, image_size),
            max_steps=max_steps,
            invalid_penalty=invalid_penalty,
            **kwargs,
        )
        self.image_size = image_size
        self.symbolic = symbolic
        self.episode_return = 0.0
        self._task = task
        self._help = f"\nActions: {', '.join(actions)}.\n{grammar.describe()}" if list_actions else ""

    def describe(self) -> str:
        """The state of the game in words."""
        raise NotImplementedError

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        self.episode_return += reward
        info["success"] = terminated and self.episode_return > 0
        return observation, reward, terminated, truncated, info

    def write(self, action: str) -> str:
        return self.grammar.format(action, self.describe())

    def _prompt(self, state: str = "") -> str:
        view = f"\n{self.describe()}" if self.symbolic else ""
        return f"{self._task}{state}{view}{self._help}"

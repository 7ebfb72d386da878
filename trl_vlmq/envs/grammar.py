# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Action grammars: how the text a model writes becomes an action, and back."""

import json
from collections.abc import Sequence
from typing import Any, Protocol


class ActionGrammar(Protocol):
    """What an environment asks of a grammar: [`JsonActionGrammar`] is one, an own dialect may be another."""

    def format(self, action: str) -> str:
        """The completion text that means `action`."""

    def parse(self, text: str) -> str | None:
        """The action that `text` means, or `None` if the text is not valid. Must never raise and never evaluate."""

    def describe(self) -> str:
        """The instruction to put in the prompt, in as few tokens as will do."""


class JsonActionGrammar:
    """
    One JSON object with one key whose value is one of a fixed list of actions, such as `{"action": "turn left"}`.

    Strict, because whatever is accepted here is what the policy learns to write: the whole text must be that object.
    Another or a repeated key, an action that is not listed, text before or after (white space apart), or JSON that is
    not standard (`NaN`) is invalid.

    Args:
        actions (`Sequence[str]`):
            The action words, in the order in which they are listed to the model.
        key (`str`, *optional*, defaults to `"action"`):
            The key of the object.
        thoughts (`bool`, *optional*, defaults to `False`):
            Whether a key `thoughts` with a text of any length comes before it: `{"thoughts": "...", "action": "hit"}`.
    """

    def __init__(self, actions: Sequence[str], key: str = "action", thoughts: bool = False):
        self.actions = tuple(actions)
        self.key = key
        self.keys = ["thoughts", key] if thoughts else [key]
        if not self.actions or len(set(self.actions)) != len(self.actions):
            raise ValueError(f"actions={list(actions)!r} must be a non-empty list without repetitions.")

    def format(self, action: str, thoughts: str = "") -> str:
        if action not in self.actions:
            raise ValueError(f"{action!r} is not one of the actions {list(self.actions)}.")
        return json.dumps({key: action if key == self.key else thoughts for key in self.keys}, ensure_ascii=False)

    def parse(self, text: str) -> str | None:
        try:
            value = json.loads(text, object_pairs_hook=_object_without_repeated_keys, parse_constant=_reject)
        except (ValueError, RecursionError):  # RecursionError: "[[[[..." is something a model can write
            return None
        if (
            not isinstance(value, dict)
            or list(value) != self.keys
            or not all(isinstance(value[k], str) for k in value)
        ):
            return None
        action = value[self.key]
        return action if action in self.actions else None

    def describe(self) -> str:
        return "Answer with {" + ", ".join(f'"{key}": "..."' for key in self.keys) + "}"


class LenientJsonActionGrammar(JsonActionGrammar):
    """
    Writes what [`JsonActionGrammar`] writes, and reads more: for models that are prompted, not trained.

    Accepted is the last JSON object in the text that has the key; text around it, code fences, other keys and another
    order make no difference, nor do upper and lower case and white space around key and action. A number counts as its
    digits. Everything else (single quotes, a bare action word, an object that is not closed) stays invalid.

    Args:
        kwargs:
            Those of [`JsonActionGrammar`].
    """

    def parse(self, text: str) -> str | None:
        decoder = json.JSONDecoder(parse_constant=_reject)
        wanted = {action.strip().casefold(): action for action in self.actions}
        position = text.rfind("{")
        while position >= 0:
            try:
                value, _ = decoder.raw_decode(text, position)
            except (ValueError, RecursionError):
                value = {}
            answers = [value[key] for key in value if key.strip().casefold() == self.key.casefold()]
            if answers:
                answer = answers[-1]
                if isinstance(answer, bool) or not isinstance(answer, (str, int)):
                    return None
                return wanted.get(str(answer).strip().casefold())
            position = text.rfind("{", 0, position)
        return None


def _object_without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("repeated key")
    return result


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a user did wrong, as one line; whatever else goes wrong is a bug and keeps its traceback."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """A mistake of the user's; the message says what to do. It ends a command with exit code 1."""


@contextmanager
def user_errors(*types: type[Exception], about: str = "") -> Iterator[None]:
    """Turns these exceptions into [`UserError`]s where they mean that the user's input is wrong.

    Args:
        types (`type[Exception]`):
            The exceptions.
        about (`str`, *optional*, defaults to `""`):
            What to put before their messages.
    """
    try:
        yield
    except types as error:
        raise UserError(about + _message(error)) from error


def require_at_least(arguments: Any, **minimum: int) -> None:
    """Check numbers among the arguments; those that are None are left to their defaults.

    Raises:
        ValueError: names the argument.
    """
    for name, least in minimum.items():
        value = getattr(arguments, name)
        if value is not None and not value >= least:
            raise ValueError(f"--{name} must be at least {least}, not {value}")


def debugging() -> bool:
    """Whether the user wants to see tracebacks of his own mistakes."""
    return os.environ.get("TRL_VLMQ_DEBUG", "0") not in ("", "0")


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing if nothing is close."""
    close = get_close_matches(word, list(known), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _message(error: Exception) -> str:
    from trl_vlmq.env_worker import EnvironmentFailureError
    from trl_vlmq.validation import EpisodeValidationError

    if isinstance(error, (EpisodeValidationError, EnvironmentFailureError)):
        return str(error)  # a list of problems, a traceback
    return " ".join(str(error).split()) or type(error).__name__

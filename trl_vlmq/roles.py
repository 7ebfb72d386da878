# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What each token of an action is for: syntax, choice or stop."""

import re
from collections.abc import Callable, Sequence
from enum import IntEnum


class TokenRole(IntEnum):
    """Role of an action token in the metrics."""

    SYNTAX = 0
    CHOICE = 1
    STOP = 2


# A JSON value after a quoted key: a string without its quotes, or a bare number or word.
_VALUE = re.compile(r'"\s*:\s*(?:"((?:[^"\\]|\\.)*)|([^\s"{}\[\],][^{}\[\],]*))')


def token_roles(ids: Sequence[int], stopped: bool, decode: Callable[[Sequence[int]], str]) -> list[TokenRole]:
    """Roles of an action's tokens: values of JSON text are choices, the rest of it is syntax.

    In text that holds no JSON value every token but the stop token is a choice.

    Args:
        ids (`Sequence[int]`):
            The tokens, the stop token last if `stopped`.
        stopped (`bool`):
            Whether the last token is the stop token.
        decode (`Callable`):
            Tokens -> text.
    """
    body = list(ids[:-1] if stopped else ids)
    text = decode(body)
    spans = [match.span(1 if match.group(1) is not None else 2) for match in _VALUE.finditer(text)]
    ends = [len(decode(body[: i + 1])) for i in range(len(body))]
    roles, start = [], 0
    for end in ends:
        choice = not spans or any(start < high and end > low for low, high in spans)
        roles.append(TokenRole.CHOICE if choice else TokenRole.SYNTAX)
        start = end
    return roles + [TokenRole.STOP] * stopped

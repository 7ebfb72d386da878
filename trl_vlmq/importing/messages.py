# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Chat messages as logs have them -> typed messages, whose image parts carry what the log says of the image.

Within this package an image part is `{"type": "image", "image": VALUE}`, so that no image is read before it is needed.
"""

import json
from typing import Any

from .problems import LogProblem


ROLES = ("system", "user", "assistant", "tool")
_IMAGE_KEYS = ("image", "image_url", "url", "path", "bytes", "base64")


def to_messages(value: Any, field: str) -> list[dict[str, Any]]:
    """
    Args:
        value (`Any`):
            Messages, one message, or the text of a user message.
        field (`str`):
            What the log calls the field.

    Returns:
        `list[dict]`: with typed contents. Image parts without an image of their own have the value `None`.

    Raises:
        LogProblem: If they are no messages.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise LogProblem(field, "is neither a text nor a list of messages", _CURE, f"a {type(value).__name__}")
    return [_message(each, field) for each in value]


def place_images(messages: list[dict[str, Any]], images: list[Any], field: str, several_turns: bool = False) -> None:
    """
    Give images to the image parts that have none of their own, in order.

    Where there are no image parts at all, the images come first in the first user message, as TRL has it.

    Args:
        messages (`list[dict]`):
            From [`to_messages`]; changed in place.
        images (`list`):
            Images as the log has them.
        field (`str`):
            What the log calls their field.
        several_turns (`bool`, *optional*, defaults to `False`):
            Whether the agent answers more than once, so that an image in the first message would be seen from the start.

    Raises:
        LogProblem: If there are not as many images as image parts.
    """
    parts = [part for message in messages for part in message["content"] if part["type"] == "image"]
    empty = [part for part in parts if part["image"] is None]
    users = [message for message in messages if message["role"] == "user"]
    if images and not parts and users and (len(images) == 1 or not several_turns):
        users[0]["content"][:0] = [{"type": "image", "image": image} for image in images]
        return
    if len(empty) != len(images):
        raise LogProblem(
            field,
            "does not have one image for each image part of the messages",
            'put one `{"type": "image"}` into the messages for each image, where it was seen',
            f"{len(images)} image(s), {len(empty)} image part(s) without an image of their own",
        )
    for part, image in zip(empty, images, strict=True):
        part["image"] = image


def completion_text(value: Any, field: str) -> str:
    """
    What the agent wrote.

    Args:
        value (`Any`):
            A text, an assistant message, or a list with one.
        field (`str`):
            What the log calls the field.

    Raises:
        LogProblem: If it is something else.
    """
    if isinstance(value, str):
        return checked_text(value, field)
    messages = to_messages(value, field)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        cure = "write the agent's text, or one assistant message"
        raise LogProblem(field, "is not exactly one assistant message", cure, f"{len(messages)} message(s)")
    return text_of(messages[0], field)


def text_of(message: dict[str, Any], field: str) -> str:
    """The text of a message of [`to_messages`] that has no images."""
    if any(part["type"] == "image" for part in message["content"]):
        raise LogProblem(
            field, "has an image in an assistant message", "an agent answers with text; leave the image out"
        )
    return "".join(part["text"] for part in message["content"])


def split_conversation(
    messages: list[dict[str, Any]], history: int | str
) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """
    The prompt before each assistant message.

    Args:
        messages (`list[dict]`):
            From [`to_messages`].
        history (`int` or `"all"`):
            How many past exchanges a prompt holds, besides system messages.

    Returns:
        The prompts, and what a further prompt would be (it ends with the last assistant message if nothing came after).
    """
    system = [message for message in messages if message["role"] == "system"]
    exchanges: list[list[dict[str, Any]]] = [[]]
    prompts = []
    for message in messages:
        if message["role"] == "system":
            continue
        if message["role"] == "assistant":
            prompts.append(_recalled(system, exchanges, history))
            exchanges[-1].append(message)
            exchanges.append([])
        else:
            exchanges[-1].append(message)
    return prompts, _recalled(system, exchanges, history)


def checked_text(value: Any, field: str) -> str:
    """A text that can be stored."""
    if not isinstance(value, str):
        raise LogProblem(field, "is not a text", "write a string", f"a {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LogProblem(field, "has a text with half a character", "write it as UTF-8", str(error)[:120]) from error
    return value


_CURE = 'write a text, or messages such as `{"role": "user", "content": ...}`'


def _recalled(system: list[dict], exchanges: list[list[dict]], history: int | str) -> list[dict]:
    first = 0 if history == "all" else max(0, len(exchanges) - 1 - history)
    return system + [message for exchange in exchanges[first:] for message in exchange]


def _message(message: Any, field: str) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, dict) else message
        cure = f"give each message a role, one of {list(ROLES)}"
        raise LogProblem(field, "has a message without a known role", cure, f"{str(role)[:40]!r}")
    content = message.get("content")
    if content is None:
        content = []
    elif isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise LogProblem(field, "has a message whose content is no text and no list", _CURE, type(content).__name__)
    parts = [_part(part, field) for part in content]
    if message.get("tool_calls"):
        call = _tool_call(message["tool_calls"], field)
        parts.append({"type": "text", "text": f"\n{call}" if any(part.get("text") for part in parts) else call})
    if not parts and message["role"] != "assistant":
        raise LogProblem(field, "has a message without content", _CURE, f"role {message['role']!r}")
    return {"role": message["role"], "content": parts}


def _part(part: Any, field: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"type": "text", "text": checked_text(part.get("text"), field)}
    if kind in ("image", "image_url"):
        return {"type": "image", "image": next((part[key] for key in _IMAGE_KEYS if part.get(key) is not None), None)}
    cure = 'use `{"type": "text", "text": "..."}` and `{"type": "image", "image": "..."}`'
    raise LogProblem(field, "has a content part that is neither text nor image", cure, f"type {kind!r}")


def _tool_call(calls: Any, field: str) -> str:
    """One call, as the JSON text `{"name": ..., "arguments": {...}}`."""
    try:
        (call,) = calls
        function = call["function"]
        arguments = function["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        text = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        cure = "write what the agent generated as text into `content`"
        detail = f"{len(calls)} calls" if isinstance(calls, list) else type(calls).__name__
        raise LogProblem(field, "has tool calls other than one function with JSON arguments", cure, detail) from error
    return checked_text(text, field)

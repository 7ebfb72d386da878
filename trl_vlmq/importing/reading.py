# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Lines -> episodes as they were logged, from each of the three formats."""

from dataclasses import dataclass, field
from typing import Any

from .grouping import Group, check_number
from .mapping import EPISODE_FIELDS, FieldMapping
from .messages import checked_text, completion_text, place_images, split_conversation, text_of, to_messages
from .problems import LogProblem


@dataclass
class LoggedTurn:
    """
    A turn as it was logged. Images are still what the log says of them.

    Args:
        where (`str`):
            `"file:line"`.
        prompt (`list[dict]`):
            Messages of [`~messages.to_messages`].
        completion (`str`):
            What the agent wrote.
        reward (`Any`):
            The log's value, or `None`.
        flags (`dict`):
            The log's values of `terminated`, `truncated` and `done`.
        action_is_valid (`bool`, *optional*):
            As in the dataset.
        executed_action (`str`, *optional*):
            As in the dataset.
    """

    where: str
    prompt: list[dict[str, Any]]
    completion: str
    reward: Any
    flags: dict[str, bool | None]
    action_is_valid: bool | None = None
    executed_action: str | None = None


@dataclass
class LoggedEpisode:
    """
    An episode as it was logged.

    Args:
        episode_id (`str`):
            Its id.
        turns (`list[LoggedTurn]`):
            At least one.
        facts (`dict`):
            The log's values of the fields of an episode.
        final_prompt (`list[dict]`, *optional*):
            What the agent would have been told next, if the log says so.
    """

    episode_id: str
    turns: list[LoggedTurn]
    facts: dict[str, Any] = field(default_factory=dict)
    final_prompt: list[dict[str, Any]] | None = None


def detect_format(record: dict[str, Any], mapping: FieldMapping) -> str:
    """
    What a line holds: `"episodes"` if it has steps, `"messages"` if it has messages but neither a completion nor the
    number of a turn, else `"turns"`.
    """
    if mapping.format is not None:
        return mapping.format
    if isinstance(mapping.find("steps", record), list):
        return "episodes"
    one_turn = mapping.maps("turn") or mapping.has("completion", record) or mapping.has("turn", record)
    return "turns" if one_turn or not mapping.has("messages", record) else "messages"


def read_episode(group: Group, form: str, mapping: FieldMapping, first_number: int | None = None) -> LoggedEpisode:
    """
    Args:
        group ([`~grouping.Group`]):
            The lines of an episode.
        form (`str`):
            What a line holds.
        mapping ([`FieldMapping`]):
            What the log calls its fields.
        first_number (`int`, *optional*):
            What first turns are numbered, for the format `"turns"`.

    Raises:
        LogProblem: If the episode cannot be used; its `where` is set if it is not the first line.
    """
    if form == "messages":
        return _from_messages(group, mapping)
    record = group.lines[0].record
    if form == "episodes":
        steps = mapping.find("steps", record, required=True)
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise LogProblem(mapping.name("steps"), "is not a list of turns", "write one JSON object for each turn")
        places = [(group.where, step, record) for step in steps]
        given = mapping.find("turn", steps[0]) if steps else None
        first_number = None if given is None else int(given == 1)
    else:
        places = [(line.where, line.record, {}) for line in group.lines]
    if not places:
        raise LogProblem(mapping.name("steps"), "is empty", "an episode needs a turn; leave it out of the log")
    turns = []
    for index, (where, step, outer) in enumerate(places):
        try:
            check_number(mapping.find("turn", step), index, first_number, mapping.name("turn"))
            turns.append(_turn(where, step, outer, mapping))
        except LogProblem as problem:
            problem.where = problem.where or where
            raise
    facts = _facts([record] if form == "episodes" else [line.record for line in group.lines], mapping)
    episode = LoggedEpisode(group.episode_id, turns, facts)
    if form == "episodes":
        if facts["episode_reward"] is None and not mapping.maps("reward"):
            facts["episode_reward"] = record.get("reward")  # of the line, not of a step
        for name, value in _flags(record, mapping).items():
            if turns[-1].flags[name] is None:
                turns[-1].flags[name] = value
    if (final := facts["final_prompt"]) is not None:
        episode.final_prompt = to_messages(final, mapping.name("final_prompt"))
        place_images(episode.final_prompt, _listed(facts["final_images"]), mapping.name("final_images"))
    return episode


def _turn(where: str, step: dict[str, Any], outer: dict[str, Any], mapping: FieldMapping) -> LoggedTurn:
    prompt = to_messages(mapping.find("prompt", step, outer, required=True), mapping.name("prompt"))
    written = mapping.find("completion", step)
    if written is None and prompt[-1]["role"] == "assistant" and not mapping.has("completion", step):
        completion = text_of(prompt.pop(), mapping.name("prompt"))
    elif written is None and mapping.has("completion", step):
        raise LogProblem(mapping.name("completion"), "is null", 'write what the agent wrote; "" if that was nothing')
    else:
        completion = completion_text(mapping.find("completion", step, required=True), mapping.name("completion"))
    place_images(prompt, _listed(mapping.find("images", step)), mapping.name("images"))
    return LoggedTurn(
        where, prompt, completion, mapping.find("reward", step), _flags(step, mapping), **_notes(step, mapping)
    )


def _from_messages(group: Group, mapping: FieldMapping) -> LoggedEpisode:
    record, name = group.lines[0].record, mapping.name("messages")
    stored = mapping.find("messages", record, required=True)
    if not isinstance(stored, list):
        raise LogProblem(name, "is not a list of messages", "write the conversation as one list of messages")
    messages = to_messages(stored, name)
    answers = [(raw, each) for raw, each in zip(stored, messages, strict=True) if each["role"] == "assistant"]
    place_images(messages, _listed(mapping.find("images", record)), mapping.name("images"), len(answers) > 1)
    if not answers:
        raise LogProblem(name, "has no assistant message", "an episode needs something the agent wrote; leave it out")
    conversation = [each for each in messages if each["role"] != "system"]
    if conversation[0]["role"] == "assistant" or any(
        one["role"] == other["role"] == "assistant" for one, other in zip(conversation, conversation[1:], strict=False)
    ):
        cure = "put what the agent was told before each of its messages, or join messages that were one answer"
        raise LogProblem(name, "has an assistant message that answers nothing", cure)
    prompts, following = split_conversation(messages, mapping.history)
    scoped = [{key: value for key, value in raw.items() if key not in ("role", "content")} for raw, _ in answers]
    turns = [
        LoggedTurn(
            group.where, prompt, text_of(answer, name), _own_reward(raw, mapping), _flags(raw, mapping),
            **_notes(raw, mapping),
        )
        for prompt, (_, answer), raw in zip(prompts, answers, scoped, strict=True)
    ]  # fmt: skip
    facts = _facts([record], mapping)
    if facts["episode_reward"] is None and not mapping.maps("episode_reward"):
        facts["episode_reward"] = mapping.find("reward", record)
    for flag, value in _flags(record, mapping).items():
        if turns[-1].flags[flag] is None:
            turns[-1].flags[flag] = value
    ended_by_agent = conversation[-1]["role"] == "assistant"
    return LoggedEpisode(group.episode_id, turns, facts, None if ended_by_agent else following)


def _own_reward(message: dict[str, Any], mapping: FieldMapping) -> Any:
    """A message has the reward of its turn under that very name; a mapped one is a field of the line."""
    return message.get("reward") if not mapping.maps("reward") else None


def _facts(records: list[dict[str, Any]], mapping: FieldMapping) -> dict[str, Any]:
    """The last value that is not null, of each field of an episode."""
    facts: dict[str, Any] = {}
    for name in EPISODE_FIELDS:
        values = [mapping.find(name, record) for record in records]
        facts[name] = next((value for value in reversed(values) if value is not None), None)
        if mapping.maps(name) and facts[name] is None and not any(mapping.has(name, each) for each in records):
            shown = ", ".join(list(records[-1])[:20])
            cure = f"write it, or correct `fields.{name}` in the mapping"
            raise LogProblem(mapping.name(name), "is in no line of the episode", cure, f"the fields are {shown}")
    for name in ("behavior", "env_id"):
        facts[name] = _label(facts[name], name, mapping)
    return facts


def _flags(scope: dict[str, Any], mapping: FieldMapping) -> dict[str, bool | None]:
    return {name: _flag(scope, name, mapping) for name in ("terminated", "truncated", "done")}


def _flag(scope: dict[str, Any], name: str, mapping: FieldMapping) -> bool | None:
    value = mapping.find(name, scope)
    if value is None or isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise LogProblem(mapping.name(name), "is neither true nor false", "write true or false", f"{str(value)[:40]!r}")


def _notes(scope: dict[str, Any], mapping: FieldMapping) -> dict[str, Any]:
    return {
        "action_is_valid": _flag(scope, "action_is_valid", mapping),
        "executed_action": _label(mapping.find("executed_action", scope), "executed_action", mapping),
    }


def _label(value: Any, name: str, mapping: FieldMapping) -> str | None:
    """A text; what stands under a common name, unmapped, and is no text is something else."""
    if value is None or not (isinstance(value, str) or mapping.maps(name)):
        return None
    return checked_text(value, mapping.name(name))


def _listed(images: Any) -> list[Any]:
    if images is None:
        return []
    return images if isinstance(images, list) else [images]

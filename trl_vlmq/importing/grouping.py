# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which lines are one episode. Only the lines of one episode are in memory at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .lines import Line
from .mapping import FieldMapping
from .messages import checked_text
from .problems import LogProblem


_FLAGS = ("terminated", "truncated", "done")


@dataclass
class Group:
    """
    The lines of one episode.

    Args:
        episode_id (`str`):
            Its id; empty for a line whose episode is unknown.
        where (`str`):
            `"file:line"` of the first line.
        lines (`list[Line]`):
            In the order of the file; none if there is a problem.
        problem ([`LogProblem`], *optional*):
            Why the episode cannot be used.
    """

    episode_id: str
    where: str
    lines: list[Line] = field(default_factory=list)
    problem: LogProblem | None = None

    def add(self, line: Line) -> None:
        """One more line, unless the episode is lost already."""
        if self.problem is None:
            self.lines.append(line)

    def spoil(self, problem: LogProblem, where: str) -> None:
        """The first problem counts; the lines are let go."""
        if self.problem is None:
            problem.where = problem.where or where
            self.problem = problem
        self.lines = []


def group_records(lines: Iterable[Line], mapping: FieldMapping, prefix: str, stem: str) -> Iterator[Group]:
    """
    One episode a line.

    Args:
        lines (`Iterable[Line]`):
            The lines of a file.
        mapping ([`FieldMapping`]):
            What the log calls its fields.
        prefix (`str`):
            What ids are prefixed with.
        stem (`str`):
            Name of the file: an episode without an id is called by it and the number of the line.
    """
    first: dict[str, str] = {}
    for line in lines:
        group = Group("", line.where, [line])
        try:
            name = _owner(line, mapping)
            group.episode_id = _unnamed(stem, line) if name is None else f"{prefix}{name}"
            if (before := first.setdefault(group.episode_id, line.where)) != line.where:
                cure = "give each episode an id of its own; the first one is kept"
                detail = f"{name!r}, first in {before}"
                raise LogProblem(mapping.name("episode_id"), "is the id of an earlier episode", cure, detail)
        except LogProblem as problem:
            group.spoil(problem, line.where)
        yield group


@dataclass
class Survey:
    """
    What must be known of a file with one turn a line before its first episode is written.

    Args:
        scattered (`dict[str, tuple[str, str]]`):
            The ids that come again after lines of another episode: where each was left, and where it came again.
        first_number (`int`, *optional*):
            What the first turn of an episode is numbered, 0 or 1; `None` if turns are not numbered.
    """

    scattered: dict[str, tuple[str, str]] = field(default_factory=dict)
    first_number: int | None = None


def survey_turns(lines: Iterable[Line], mapping: FieldMapping) -> Survey:
    """
    Read all lines of a file with one turn a line.

    Args:
        lines (`Iterable[Line]`):
            The lines of the file.
        mapping ([`FieldMapping`]):
            What the log calls its fields.
    """
    survey = Survey()
    last: dict[str, str] = {}
    current = None
    for line in lines:
        try:
            name, number = _owner(line, mapping), mapping.find("turn", line.record)
        except LogProblem:
            continue  # reported when the line is read for good
        if number is not None:
            survey.first_number = 0 if number == 0 or survey.first_number == 0 else 1
        if name is None:
            continue
        if name != current and name in last:
            survey.scattered.setdefault(name, (last[name], line.where))
        last[name] = line.where
        current = name
    return survey


def group_turns(
    lines: Iterable[Line], mapping: FieldMapping, prefix: str, stem: str, survey: Survey
) -> Iterator[Group]:
    """
    One turn a line. The lines of an episode have one id and stand together. Without ids an episode ends where
    `terminated`, `truncated` or `done` is true; where the log has none of these either, each line is an episode.

    A line that cannot be read may belong to the episode before or after it. Both are dropped, except the one before if
    it had ended, and the one after if its first line is numbered as a first turn.

    Args:
        lines (`Iterable[Line]`):
            The lines of a file.
        mapping ([`FieldMapping`]):
            What the log calls its fields.
        prefix (`str`):
            What ids are prefixed with.
        stem (`str`):
            Name of the file: an episode without an id is called by it and the number of its first line.
        survey ([`Survey`]):
            Of the same file.
    """
    with_ids = with_flags = False
    known = False  # whether a line has told which of them there are
    current: Group | None = None
    owner: str | None = None
    ended = False
    unread: Line | None = None
    reported: set[str | None] = set()
    for line in lines:
        try:
            name = _owner(line, mapping, required=with_ids)
        except LogProblem as problem:
            lost = Group("", line.where) if current is None or ended else current
            lost.spoil(problem, line.where)
            if lost is not current:
                yield lost
            unread = line
            continue
        if not known:
            with_ids, known = name is not None, True
            with_flags = any(mapping.has(flag, line.record) for flag in _FLAGS)
        if current is None or (name != owner if with_ids else ended or not with_flags):
            if current is not None and owner not in reported:
                yield current
            if owner in survey.scattered:
                reported.add(owner)  # its further pieces are the same loss
            current, owner = Group(_unnamed(stem, line) if name is None else f"{prefix}{name}", line.where), name
            if name in survey.scattered:
                current.spoil(_apart(mapping, name, survey.scattered[name]), line.where)
            elif unread is not None and (with_ids or with_flags) and not _begins(line, mapping, survey):
                current.spoil(_beheaded(unread), line.where)
        unread = None
        current.add(line)
        ended = any(mapping.find(flag, line.record) in (True, 1) for flag in _FLAGS if mapping.has(flag, line.record))
    if current is not None and owner not in reported:
        yield current


def check_number(number: Any, index: int, first: int | None, name: str) -> None:
    """
    Args:
        number (`Any`):
            What the log says.
        index (`int`):
            The turn's place in its episode, from 0.
        first (`int`, *optional*):
            What the first turn is numbered; `None` if turns are not numbered.
        name (`str`):
            What the log calls the field.

    Raises:
        LogProblem: If it is another number than it must be.
    """
    if first is None:
        return
    cure = (
        f"number turns {first}, {first + 1}, {first + 2}, ... in the order of the lines, or leave the episode out: "
        "a gap would join states that never met"
    )
    if isinstance(number, bool) or not isinstance(number, int):
        raise LogProblem(name, "is not the number of a turn", cure, f"{str(number)[:40]!r}")
    if number != first + index:
        what = "leaves a gap, repeats a turn or is out of order"
        raise LogProblem(name, what, cure, f"{number} instead of {first + index}")


def _owner(line: Line, mapping: FieldMapping, required: bool = False) -> str | None:
    """The id of the line's episode, `None` if the line has none."""
    if line.problem is not None:
        raise line.problem
    value = mapping.find("episode_id", line.record, required=required)
    if value is None and not required and not mapping.has("episode_id", line.record):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        cure = "write a text or a whole number"
        raise LogProblem(mapping.name("episode_id"), "is not an id", cure, f"{str(value)[:40]!r}")
    return checked_text(str(value), mapping.name("episode_id"))


def _begins(line: Line, mapping: FieldMapping, survey: Survey) -> bool:
    return survey.first_number is not None and mapping.find("turn", line.record) == survey.first_number


def _apart(mapping: FieldMapping, name: str, places: tuple[str, str]) -> LogProblem:
    return LogProblem(
        mapping.name("episode_id"),
        "the lines of an episode do not stand together",
        "sort the log by episode and turn",
        f"episode {name!r} ends in {places[0]} and comes again in {places[1]}",
    )


def _beheaded(unread: Line) -> LogProblem:
    return LogProblem(
        "(line)",
        "the line before the episode cannot be read and may be its first turn",
        "repair that line, or number the turns",
        unread.where,
    )


def _unnamed(stem: str, line: Line) -> str:
    return f"{stem}-{line.where.rpartition(':')[2]}"

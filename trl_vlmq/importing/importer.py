# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""JSONL logs -> a Parquet file of episodes and a report, one episode in memory at a time."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from trl_vlmq.storage import appears_complete, write_rows
from trl_vlmq.validation import validate_episodes

from .grouping import Group, Survey, group_records, group_turns, survey_turns
from .images import ImageReader
from .lines import Line, Log, open_logs
from .mapping import FieldMapping
from .problems import LogProblem
from .reading import detect_format, read_episode
from .report import ImportReport
from .rows import rows_of


def import_logs(
    source: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    mapping: FieldMapping | None = None,
    image_root: str | Path | None = None,
    strict: bool = False,
    overwrite: bool = False,
) -> ImportReport:
    """
    Turn a team's own logs into episodes that can be trained on.

    An episode with a problem is left out and reported; the others are written. The file is read back and checked by
    [`~validation.validate_episodes`] before it appears.

    Args:
        source (`str`, `Path` or a sequence of them):
            JSONL files, plain or `.gz`. An episode lies within one file.
        output (`str` or `Path`):
            The Parquet file to write. The report is written beside it, as `<output>.report.json`.
        mapping ([`FieldMapping`], *optional*):
            What the logs call their fields; common names are known.
        image_root (`str` or `Path`, *optional*):
            The folder in which relative image paths start; by default that of each log file.
        strict (`bool`, *optional*, defaults to `False`):
            Whether the first problem ends the import.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether an output that is there already may be replaced.

    Returns:
        [`ImportReport`]: what was read, kept and dropped, and why.

    Raises:
        FileNotFoundError: If a log or the image folder does not exist.
        FileExistsError: If the output exists.
        ValueError: If nothing can be kept; or on the first problem, if `strict`.
    """
    logs = open_logs([source] if isinstance(source, str | Path) else source)
    output = Path(output)
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists already; choose another output, or overwrite it with --overwrite.")
    if image_root is not None and not Path(image_root).is_dir():
        raise FileNotFoundError(f"There is no image folder {str(image_root)!r}.")
    report = ImportReport([str(log.path) for log in logs], str(output))
    episodes = _episodes(logs, mapping or FieldMapping(), image_root, strict, report)
    with appears_complete(output) as temporary:
        write_rows(episodes, temporary)
        if not report.all.episodes:
            raise ValueError(_nothing_kept(report))
        _validate(temporary)
    report_path = output.with_name(f"{output.name}.report.json")
    report_path.write_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def _episodes(
    logs: list[Log], mapping: FieldMapping, image_root: str | Path | None, strict: bool, report: ImportReport
) -> Iterator[list[dict[str, Any]]]:
    form = _format(logs, mapping)
    report.format = form
    for log in logs:
        images = ImageReader(Path(image_root) if image_root is not None else log.path.parent)
        survey = survey_turns(log.lines("survey"), mapping) if form == "turns" else Survey()
        for group in _groups(log, form, mapping, survey, report):
            try:
                if group.problem is not None:
                    raise group.problem
                imported = rows_of(read_episode(group, form, mapping, survey.first_number), images, mapping)
            except LogProblem as problem:
                message = f"{problem.where or group.where}: {problem}"
                if strict:
                    raise ValueError(message) from problem
                report.drop(problem.reason, message)
            else:
                report.keep(imported.rows, imported.lost_last_action)
                yield imported.rows


def _format(logs: list[Log], mapping: FieldMapping) -> str:
    """All files hold what the first line that can be read holds."""
    for log in logs:
        for line in log.lines("look at"):
            if line.problem is None:
                return detect_format(line.record, mapping)
    return "turns"


def _groups(log: Log, form: str, mapping: FieldMapping, survey: Survey, report: ImportReport) -> Iterator[Group]:
    def counted() -> Iterator[Line]:
        for line in log.lines("import"):
            report.lines += 1
            yield line

    stem = f"{log.prefix}{log.path.name.partition('.')[0]}"
    if form == "turns":
        return group_turns(counted(), mapping, log.prefix, stem, survey)
    return group_records(counted(), mapping, log.prefix, stem)


def _validate(path: Path) -> None:
    """Read the file back, a row group at a time; each holds whole episodes."""
    with pq.ParquetFile(path) as file:
        for index in range(file.num_row_groups):
            validate_episodes(Dataset(file.read_row_group(index)))


def _nothing_kept(report: ImportReport) -> str:
    if not report.dropped:
        return f"There are no lines in {', '.join(report.sources)}."
    reasons = "; ".join(f"{each.count} x {each.examples[0]}" for each in report.dropped.values())
    return f"No episode could be used, {report.episodes_dropped} dropped: {reasons}"

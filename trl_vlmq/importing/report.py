# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What an import read, kept and dropped, and why."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


_EXAMPLES = 5
_REASONS = 50


@dataclass
class Dropped:
    """
    Episodes dropped for one reason.

    Args:
        count (`int`):
            How many.
        examples (`list[str]`):
            The first of them: file, line, field, what is wrong and what to do about it.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """Episodes counted together: all of them, or those of one behaviour."""

    episodes: int = 0
    turns: int = 0
    truncated: int = 0
    judged: int = 0
    successes: int = 0
    return_sum: float = 0.0
    return_min: float = math.inf
    return_max: float = -math.inf
    longest: int = 0

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Count one episode."""
        total = math.fsum(row["reward"] for row in rows)
        success = rows[-1]["success"]
        self.episodes += 1
        self.turns += len(rows)
        self.truncated += rows[-1]["truncated"]
        self.judged += success is not None
        self.successes += success is True
        self.return_sum += total
        self.return_min = min(self.return_min, total)
        self.return_max = max(self.return_max, total)
        self.longest = max(self.longest, len(rows))

    @property
    def success_rate(self) -> float | None:
        """Among the episodes whose success is known, `None` if there are none."""
        return self.successes / self.judged if self.judged else None


@dataclass
class ImportReport:
    """
    What an import read, kept and dropped, and why.

    Args:
        sources (`list[str]`):
            The files that were read.
        output (`str`):
            The file that was written.
        format (`str`):
            What a line held: `"turns"`, `"episodes"` or `"messages"`.
        lines (`int`):
            Lines read, blank ones left out.
        lost_last_actions (`int`):
            Truncated episodes whose last turn became their final observation.
        all (`Tally`):
            The episodes kept.
        behaviors (`dict[str, Tally]`):
            The same by behaviour.
        dropped (`dict[str, Dropped]`):
            The episodes dropped, by reason.
    """

    sources: list[str]
    output: str
    format: str = ""
    lines: int = 0
    lost_last_actions: int = 0
    all: Tally = field(default_factory=Tally)
    behaviors: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    dropped: dict[str, Dropped] = field(default_factory=dict)

    @property
    def episodes_dropped(self) -> int:
        """How many, for all reasons together."""
        return sum(each.count for each in self.dropped.values())

    def keep(self, rows: list[dict[str, Any]], lost_last_action: bool) -> None:
        """Count an episode that is written."""
        self.all.add(rows)
        self.lost_last_actions += lost_last_action
        if (behavior := rows[-1]["behavior"]) is not None:
            self.behaviors[behavior].add(rows)

    def drop(self, reason: str, message: str) -> None:
        """Count an episode that is not."""
        reason, message = (text.encode("utf-8", "backslashreplace").decode() for text in (reason, message))
        if reason not in self.dropped and len(self.dropped) >= _REASONS:
            reason = "other reasons"
        dropped = self.dropped.setdefault(reason, Dropped())
        dropped.count += 1
        if len(dropped.examples) < _EXAMPLES:
            dropped.examples.append(message)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        kept = self.all
        return {
            "sources": self.sources,
            "output": self.output,
            "format": self.format,
            "read": {"lines": self.lines, "episodes": kept.episodes + self.episodes_dropped},
            "kept": {"episodes": kept.episodes, "turns": kept.turns},
            "dropped": {
                "episodes": self.episodes_dropped,
                "reasons": [
                    {"reason": reason, "episodes": each.count, "examples": each.examples}
                    for reason, each in self._reasons()
                ],
            },
            "ended": {"terminated": kept.episodes - kept.truncated, "truncated": kept.truncated},
            "lost_last_actions": self.lost_last_actions,
            "success_rate": kept.success_rate,
            "return": {"mean": kept.return_sum / kept.episodes, "min": kept.return_min, "max": kept.return_max},
            "turns_per_episode": {"mean": kept.turns / kept.episodes, "max": kept.longest},
            "behaviors": {
                name: {
                    "episodes": each.episodes,
                    "share": each.episodes / kept.episodes,
                    "turns": each.turns,
                    "success_rate": each.success_rate,
                }
                for name, each in sorted(self.behaviors.items())
            },
        }

    def to_text(self) -> str:
        """All of it for a reader."""
        kept = self.all
        lines = [
            f"Read     {self.lines} lines ({self.format}), {kept.episodes + self.episodes_dropped} episodes",
            f"Kept     {kept.episodes} episodes, {kept.turns} turns -> {self.output}",
            f"Dropped  {self.episodes_dropped} episodes",
        ]
        for reason, each in self._reasons():
            lines.append(f"  {each.count} x {reason}")
            lines += [f"      {example}" for example in each.examples]
            if each.count > len(each.examples):
                lines.append(f"      and {each.count - len(each.examples)} more")
        lines += [
            "",
            f"Success  {_percent(kept.success_rate)} of {kept.judged} episodes whose outcome is known",
            f"Return   mean {kept.return_sum / kept.episodes:.3f}, from {kept.return_min:g} to {kept.return_max:g}",
            f"Turns    {kept.turns / kept.episodes:.1f} an episode, at most {kept.longest}",
            f"Ends     {kept.episodes - kept.truncated} terminated, {kept.truncated} truncated",
        ]
        if self.lost_last_actions:
            lines.append(
                f"         {self.lost_last_actions} truncated episode(s) had no final observation: what their last turn "
                "saw became it, and its action is lost"
            )
        for name, each in sorted(self.behaviors.items()):
            share = each.episodes / kept.episodes
            lines.append(
                f"Behavior {name}: {share:.1%} of the episodes, {each.turns} turns, success {_percent(each.success_rate)}"
            )
        if kept.return_min == kept.return_max:
            lines.append("Note     all returns are equal: they do not tell good actions from bad ones")
        return "\n".join(lines)

    def _reasons(self) -> list[tuple[str, Dropped]]:
        return sorted(self.dropped.items(), key=lambda item: -item[1].count)


def _percent(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:.1%}"

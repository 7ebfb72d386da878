# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
The example logs in examples/data: what another team's logger might have left of three agents in BabyAI.

200 lines of JSONL, one turn a line, and a folder of screenshots. The fields have other names than ours, there are no
rewards, only whether a run was won, and a run that was cut off has no final observation. Made again, bit for bit, by:

    python examples/make_example_logs.py
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from trl_vlmq import BehaviorPolicy, Episode, play_episodes


@dataclass
class Arguments:
    """What to make."""

    output_dir: str = field(default=str(Path(__file__).parent / "data"), metadata={"help": "Folder of the logs."})
    lines: int = field(default=200, metadata={"help": "Turns to log: whole runs that have so many together."})
    seed: int = field(default=0, metadata={"help": "Seed of the runs."})


def fill(episodes: Iterable[Episode], lines: int) -> Iterator[Episode]:
    """Episodes in order that have just so many turns together; one that is too long for the rest is passed over."""
    for episode in episodes:
        if episode.length <= lines:
            lines -= episode.length
            yield episode
        if not lines:
            return
    raise ValueError(f"{lines} lines are left that no run fills.")


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    policy = BehaviorPolicy({"expert": 2, "wrong_goal": 4, "random": 1})
    episodes = play_episodes(
        "trl_vlmq/BabyAI-GoToLocalS6N2-v0", policy, 500, seed=args.seed, num_envs=1, env_kwargs={"max_steps": 10}
    )
    out = Path(args.output_dir)
    shots = out / "screenshots"
    shutil.rmtree(shots, ignore_errors=True)
    shots.mkdir(parents=True)
    with open(out / "logs.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for number, episode in enumerate(fill(episodes, args.lines)):
            for step, turn in enumerate(episode.turns):
                name = f"{number:03d}_{step:02d}.png"
                turn.images[0].save(shots / name)
                line = {
                    "run": number,
                    "step": step + 1,
                    "user_text": turn.prompt[0]["content"][1]["text"],
                    "screenshot": name,
                    "reply": turn.completion,
                    "won": "timeout" if episode.truncated else "yes" if episode.success else "no",
                    "meta": {"agent": episode.behavior},
                }
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A process that is killed, again and again, at moments of its own choosing, ends where it would have ended.

`TRL_VLMQ_KILLS=20 pytest tests/online/test_kill.py` kills twenty times instead of three; the moments differ with
`TRL_VLMQ_KILL_SEED`.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trl_vlmq
from trl_vlmq.shards import EpisodeShards, read_shard


KILLS = int(os.environ.get("TRL_VLMQ_KILLS", "3"))
SEED = int(os.environ.get("TRL_VLMQ_KILL_SEED", "0"))


@pytest.fixture
def start(base_folder):
    """`start(folder)`: the run of lamp.py as a process; it has begun to train when this returns."""

    def run(folder: Path) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("lamp.py")), "--base", base_folder, "--output_dir", str(folder),
             "--resume"],
            env=os.environ | {"PYTHONPATH": str(Path(trl_vlmq.__file__).parents[1])},
            stdout=subprocess.PIPE, stderr=(folder.parent / f"{folder.name}.err").open("a"), text=True,
        )  # fmt: skip
        for line in process.stdout:
            if line.startswith("ready"):
                return process
        raise AssertionError((folder.parent / f"{folder.name}.err").read_text()[-3000:])

    return run


def finish(process: subprocess.Popen) -> None:
    process.stdout.read()
    assert process.wait(timeout=120) == 0


def stored(folder: Path) -> dict[str, str]:
    files = (folder / "episodes").glob("round-*.parquet")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def episodes(folder: Path) -> list[dict]:
    shards = EpisodeShards(folder / "episodes")
    return [row for number in shards.rounds() for path in shards.dealt(number) for row in read_shard(path).to_list()]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_where_it_would_have_ended(start, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    ready = time.monotonic()
    finish(process)
    duration = time.monotonic() - ready
    expected = json.loads((whole / "result-0.json").read_text())
    assert expected["step"] == 32 and len(expected["rounds"]) == 3

    rng, kills, trial = random.Random(SEED), 0, 0
    while kills < KILLS:
        killed, before, finished = tmp_path / f"killed-{trial}", {}, False
        while not finished:
            process = start(killed)
            assert before.items() <= stored(killed).items()  # nothing that was there is lost or changed
            try:
                process.wait(timeout=rng.uniform(0, duration) if kills < KILLS else 120)
                assert process.returncode == 0
                finished = True
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                assert process.wait(timeout=60) == -signal.SIGKILL
                kills += 1
            process.stdout.close()
            before = stored(killed)
        found = json.loads((killed / "result-0.json").read_text())
        for name in expected.keys() - {
            "online_turns"
        }:  # killed beyond its last checkpoint it has nothing left to play
            assert found[name] == expected[name], name
        assert episodes(killed) == episodes(whole)
        ids = [row["episode_id"] for row in episodes(killed) if row["turn"] == 0]
        assert len(ids) == len(set(ids)) == 72
        trial += 1

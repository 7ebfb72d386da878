# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Logs larger than memory can be imported: what the import holds does not grow with them."""

import subprocess
import sys
from pathlib import Path

import pytest

import trl_vlmq


BENCHMARKS = Path(trl_vlmq.__file__).parent.parent / "benchmarks"

# Row groups of 1 MiB, so that a short log fills many.
PROGRAM = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import trl_vlmq.storage
from import_memory import import_logs, make_log, peak_during

trl_vlmq.storage._STREAM_GROUP_BYTES = 2**20
folder, turns = Path(sys.argv[2]), int(sys.argv[3])
make_log(folder / "warm.jsonl", 200, 32)
import_logs(folder / "warm.jsonl", folder / "warm.parquet")
make_log(folder / "log.jsonl", turns, 32)
print(peak_during(lambda: import_logs(folder / "log.jsonl", folder / "episodes.parquet")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the benchmarks of the repository")
def test_ten_times_the_turns_do_not_take_more_memory(tmp_path):
    peaks = {}
    for turns in (2_000, 20_000):
        folder = tmp_path / str(turns)
        folder.mkdir()
        command = [sys.executable, "-c", PROGRAM, str(BENCHMARKS), str(folder), str(turns)]
        peaks[turns] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    images = 20_000 * 32 * 32 * 3
    assert (tmp_path / "20000" / "episodes.parquet").stat().st_size > images
    # 18,000 more turns are 70 MiB of log and 53 MiB of images.
    assert peaks[20_000] - peaks[2_000] < 30 * 2**20

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
How much memory and time `trl-vlmq import` takes for logs that do not fit in it. Linux only.

Writes a log of one turn a line, ten turns an episode, each with an image of its own (noise, as base64 in the line), and
imports it. The memory is what the process holds beyond files (RssAnon), sampled every 10 ms, less what it held before.

    python benchmarks/import_memory.py --turns 100000
"""

import argparse
import base64
import json
import tempfile
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from trl_vlmq.importing import import_logs


def make_log(path: Path, turns: int, size: int) -> None:
    """Write a log whose every image is another one."""
    rng = np.random.default_rng(0)
    with open(path, "w") as file:
        for index in range(turns):
            buffer = BytesIO()
            image = PIL.Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
            image.save(buffer, format="PNG", compress_level=0)
            line = {
                "episode_id": index // 10,
                "turn": index % 10,
                "prompt": f"Turn {index}. " + "What do you do? " * 10,
                "image": base64.b64encode(buffer.getvalue()).decode(),
                "completion": '{"action": "left"}',
                "success": index // 10 % 3 == 0,
            }
            file.write(json.dumps(line) + "\n")


def held() -> int:
    """Bytes of memory that this process holds, files not counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("This system does not tell the memory of a process in /proc/self/status.")


def peak_during(work: Callable[[], Any]) -> int:
    """The most bytes held beyond those before, while `work` runs."""
    before = peak = held()
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, held())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return max(peak, held()) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--turns", type=int, default=100_000, help="turns of the log")
    parser.add_argument("--size", type=int, default=32, help="width and height of its images")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log, output = Path(folder, "log.jsonl"), Path(folder, "episodes.parquet")
        make_log(log, args.turns, args.size)
        start = time.perf_counter()
        peak = peak_during(lambda: import_logs(log, output))
        seconds = time.perf_counter() - start
        result = {
            "turns": args.turns,
            "log_mib": round(log.stat().st_size / 2**20),
            "output_mib": round(output.stat().st_size / 2**20),
            "peak_mib": round(peak / 2**20),
            "seconds": round(seconds, 1),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

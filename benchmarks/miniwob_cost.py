# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What MiniWoB++ costs: seconds per start, reset and step, memory per browser, and whether that stays.

python benchmarks/miniwob_cost.py --resets 1000
python benchmarks/miniwob_cost.py --resets 50 --browsers 4
"""

import argparse
import threading
import time

import numpy as np
import psutil

from trl_vlmq.envs.miniwob.env import MiniWoBEnv


TASKS = ["click-checkboxes", "login-user", "click-tab-2", "use-slider", "email-inbox"]


def mebibytes(env: MiniWoBEnv) -> float:
    """Memory of a browser's processes, what they share counted once (PSS)."""
    guard = psutil.Process(env._browser.process.pid)
    total = 0
    for process in [guard, *guard.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it ended meanwhile
    return total / 2**20


def run(resets: int, times: dict[str, list[float]], report: bool) -> None:
    def timed(what, function, *args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        times[what].append(time.perf_counter() - start)
        return result

    env, rng = MiniWoBEnv(TASKS), np.random.default_rng(0)
    timed("start", env.reset, seed=0)
    for seed in range(resets):
        timed("reset", env.reset, seed=seed)
        for _ in range(3):
            if timed("step", env.step, env.draw_legal_action(rng))[2]:
                break
        if report and (seed + 1) % max(resets // 10, 1) == 0:
            print(f"{seed + 1} resets: {mebibytes(env):.0f} MiB", flush=True)
    times["memory"].append(mebibytes(env))
    env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resets", type=int, default=100, help="of each browser, with up to three steps after each")
    parser.add_argument("--browsers", type=int, default=1, help="at once, each in a thread")
    args = parser.parse_args()

    times: dict[str, list[float]] = {name: [] for name in ("start", "reset", "step", "memory")}
    start = time.perf_counter()
    threads = [threading.Thread(target=run, args=(args.resets, times, i == 0)) for i in range(args.browsers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for what in ("start", "reset", "step"):
        print(
            f"{what}: median {1000 * np.median(times[what]):.0f} ms, 90% within {1000 * np.quantile(times[what], 0.9):.0f} ms"
        )
    print(f"all browsers: {len(times['step']) / (time.perf_counter() - start):.1f} steps per second, resets included")
    print(f"memory: {np.mean(times['memory']):.0f} MiB per browser at the end")


if __name__ == "__main__":
    main()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How often the scripted agents of MiniWoB++ succeed, task by task, with 95% Wilson intervals.

python benchmarks/miniwob_experts.py --seeds 100
python benchmarks/miniwob_experts.py --seeds 20 --behavior noisy_expert --tasks click-test login-user
"""

import argparse
import time

import numpy as np

from trl_vlmq.envs import BehaviorUnavailableError
from trl_vlmq.envs.miniwob.env import MiniWoBEnv
from trl_vlmq.envs.miniwob.experts import EXPERTS
from trl_vlmq.statistics import wilson_interval


def play(env: MiniWoBEnv, behavior: str, seed: int) -> tuple[bool, int] | None:
    """Whether an episode succeeded, and its time steps; `None` if the behaviour does not fit it."""
    env.reset(seed=seed)
    try:
        agent = env.make_behavior(behavior, np.random.default_rng([seed, *env.task.encode()]))
    except BehaviorUnavailableError:
        return None
    terminated = truncated = False
    while not (terminated or truncated):
        *_, terminated, truncated, info = env.step(agent.act())
    return info["success"], env.elapsed_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="episodes of each task: seeds 0, 1, ...")
    parser.add_argument("--behavior", default="expert")
    parser.add_argument("--tasks", nargs="+", default=list(EXPERTS))
    args = parser.parse_args()

    start, steps, episodes, successes, failed = time.time(), 0, 0, 0, []
    print(f"| task | {args.behavior} | 95% interval | time steps | failed seeds |\n|---|---|---|---|---|")
    env = MiniWoBEnv(args.tasks)
    for task in args.tasks:
        env.tasks = (task,)  # the browser stays
        results = {
            seed: result for seed in range(args.seeds) if (result := play(env, args.behavior, seed)) is not None
        }
        solved = sum(success for success, _ in results.values())
        low, high = wilson_interval(solved, len(results))
        lost = [seed for seed, (success, _) in results.items() if not success]
        shown = ", ".join(map(str, lost[:5])) + (", ..." if len(lost) > 5 else "")
        length = np.mean([length for _, length in results.values()]) if results else 0.0
        print(f"| {task} | {solved}/{len(results)} | {low:.1%} to {high:.1%} | {length:.1f} | {shown} |", flush=True)
        steps += sum(length for _, length in results.values())
        episodes, successes = episodes + len(results), successes + solved
        if results and solved < 0.95 * len(results):
            failed.append(task)
    env.close()
    low, high = wilson_interval(successes, episodes)
    print(f"| all | {successes}/{episodes} | {low:.1%} to {high:.1%} | {steps / max(episodes, 1):.1f} | |")
    print(
        f"\n{episodes} episodes, {steps} time steps, {time.time() - start:.0f} seconds; below 95%: {failed or 'none'}."
    )


if __name__ == "__main__":
    main()

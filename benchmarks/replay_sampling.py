# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
How fast the replay buffer is sampled and how much memory it holds while it grows to many turns. Linux only.

Plays real BabyAI episodes with a random agent, writes them as shards, and adds them round by round to a buffer of
limited capacity, as a run does; prints a table while it grows, and once the oldest episodes go.

    python benchmarks/replay_sampling.py --turns 100000
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from trl_vlmq import BehaviorPolicy, ReplayBuffer, episodes_to_dataset, play_episodes
from trl_vlmq.priorities import PRIORITIES, Prioritization
from trl_vlmq.shards import EpisodeShards, ShardRecord, read_shard


def held() -> float:
    """MiB of memory that this process holds, files not counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100_000, help="capacity of the buffer")
    parser.add_argument("--episodes_per_round", type=int, default=500)
    parser.add_argument("--priority", choices=PRIORITIES, default="td_error")
    parser.add_argument("--samples", type=int, default=2000, help="segments to draw for each line of the table")
    args = parser.parse_args()
    env = {"make_env": "trl_vlmq/BabyAI-GoToLocalS6N2-v0", "env_kwargs": {"max_steps": 10}}
    buffer = ReplayBuffer(
        None,
        4,
        segments_per_epoch=args.samples,
        capacity_turns=args.turns,
        prioritization=Prioritization(args.priority),
    )
    start, added, round_, next_line = held(), 0, 0, args.turns // 8
    print(
        "| turns added | turns held | MiB held | bytes a turn | milliseconds a segment | seconds to begin an epoch |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        shards = EpisodeShards(folder)
        while added < 1.5 * args.turns:
            played = play_episodes(
                policy=BehaviorPolicy("random"), num_episodes=args.episodes_per_round, seed=round_, **env
            )
            dataset = episodes_to_dataset(played)
            shards.write(round_, 0, dataset, ShardRecord(0, args.episodes_per_round, 0))
            dataset = read_shard(shards.dealt(round_)[0])
            buffer.add_online(dataset, round_)
            added += len(dataset)
            began = time.perf_counter()
            buffer.begin_epoch(round_)
            ready = time.perf_counter()
            if added >= next_line:
                rows = [row["row"] for i in range(args.samples) for row in buffer[i].rows]
                seconds = time.perf_counter() - ready
                buffer.record_td_errors(np.array(rows), np.random.default_rng(round_).random(len(rows)))
                print(
                    f"| {added:,} | {buffer.online_turns:,} | {held() - start:.0f} | "
                    f"{buffer.online_bytes / buffer.online_turns:.0f} | {1000 * seconds / args.samples:.2f} | "
                    f"{ready - began:.3f} |", flush=True,
                )  # fmt: skip
                next_line += args.turns // 8
            round_ += 1


if __name__ == "__main__":
    main()

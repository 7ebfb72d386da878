# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Blackjack steps per second on one core: pictures, prompts, parsing and resets included.

python benchmarks/blackjack_steps.py
"""

import time

import gymnasium
import numpy as np

import trl_vlmq.envs  # noqa: F401 (registers the games)


STEPS = 20_000


def main() -> None:
    for image_size in (112, 300):
        env = gymnasium.make("trl_vlmq/Blackjack-v0", image_size=image_size).unwrapped
        rng, steps = np.random.default_rng(1), 0
        env.reset(seed=0)
        start = time.process_time()
        while steps < STEPS:
            env.reset()
            behavior, ended = env.make_behavior("random", rng), False
            while not ended:
                *_, ended, _, _ = env.step(behavior.act())
                steps += 1
        print(f"{image_size} x {image_size} pixels: {steps / (time.process_time() - start):,.0f} steps per second")


if __name__ == "__main__":
    main()

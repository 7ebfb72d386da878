# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
What it costs to update the critic's output matrix, V x hidden, of which a batch touches a few rows.

"Dense" is what training does: a gradient of V x hidden, clipped, AdamW. "By rows" is a sparse gradient, its norm by hand, and
torch's SparseAdam, which leaves rows alone that the batch did not touch. The target critic's average moves by itself, whatever
the optimiser does. CPU seconds, one thread, in turn.

    python benchmarks/critic_optimizer.py
    python benchmarks/critic_optimizer.py --vocabulary 151936 --hidden 400
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class Output:
    """The output matrix with its optimiser, and N tokens whose rows a step touches."""

    def __init__(self, args: argparse.Namespace, sparse: bool):
        generator = torch.Generator().manual_seed(0)
        self.sparse = sparse
        self.weight = nn.Parameter(torch.zeros(args.vocabulary, args.hidden))
        self.target = torch.zeros_like(self.weight)
        self.hidden = torch.randn(args.tokens, args.hidden, generator=generator)
        # An agent's actions come from few words: Zipf's law, over the whole vocabulary.
        odds = 1 / torch.arange(1, args.vocabulary + 1)
        self.actions = odds.multinomial(args.tokens, replacement=True, generator=generator)
        optimizer, settings = torch.optim.SparseAdam, {}
        if not sparse:
            optimizer, settings = torch.optim.AdamW, {"weight_decay": 0.0, "fused": True}
        # The two put eps at different places; with a small one their first updates are equal, and later ones of rows in use.
        self.optimizer = optimizer([self.weight], lr=1e-3, eps=1e-14, **settings)

    def gradient(self) -> None:
        q = (self.hidden * F.embedding(self.actions, self.weight, sparse=self.sparse)).sum(1)
        (q - 1).square().mean().backward()

    def clip(self) -> None:
        if not self.sparse:
            nn.utils.clip_grad_norm_([self.weight], 1.0)
            return
        self.weight.grad = self.weight.grad.coalesce()
        values = self.weight.grad.values()
        values.mul_((1.0 / (values.norm() + 1e-6)).clamp(max=1.0))

    def step(self) -> None:
        self.optimizer.step()
        self.weight.grad = None

    def average(self) -> None:
        self.target.lerp_(self.weight.detach(), 0.005)

    @property
    def work(self) -> dict[str, Callable[[], None]]:
        return {"gradient": self.gradient, "clipping": self.clip, "optimiser": self.step, "target": self.average}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=49280)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--tokens", type=int, default=512, help="action tokens of a batch")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"dense": Output(args, sparse=False), "by rows": Output(args, sparse=True)}
    times = {name: {part: [] for part in output.work} for name, output in ways.items()}
    for round_ in range(args.rounds + 1):
        for name, output in ways.items():
            for part, work in output.work.items():
                start = time.process_time()
                work()
                times[name][part].append(time.process_time() - start)
        if round_ == 0:  # the first update is Adam's either way
            weights = [output.weight.detach() for output in ways.values()]
            torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-7)
    print(
        f"V = {args.vocabulary:,}, hidden {args.hidden}, {args.tokens} action tokens "
        f"({len(ways['dense'].actions.unique())} rows), float32, one thread, medians of {args.rounds}, milliseconds\n"
    )
    print("| way | " + " | ".join(times["dense"]) + " | all |\n|" + "---|" * 6)
    for name, parts in times.items():
        middle = [1000 * statistics.median(values[1:]) for values in parts.values()]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in middle) + f" | {sum(middle):.1f} |")


if __name__ == "__main__":
    main()

# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the values and gradients of N action tokens cost, above the trunk: side by side, in turn, in one run.

    python benchmarks/head.py                                   # N = 512, d = 576, V = 49,280 (SmolVLM-256M's head)
    python benchmarks/head.py --tokens 128 --width 2048 --vocabulary 151936 --kept 0.3

Times are medians of the process's CPU time, on one thread; memory is the most that the variant's tensors hold at once,
beyond weights and their gradients. Every variant's gradient by the states is compared with the naive one's before anything is timed.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from measuring import PeakMemory, Timing, take_turns
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from trl_vlmq.backbones import LanguageHead
from trl_vlmq.critic import CriticHead
from trl_vlmq.fused import streamed_values


class Head:
    """Action tokens of a batch with a language head, a critic and its target, as in training."""

    def __init__(self, n: int, d: int, vocabulary: int, kept: float = 0.5, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        draw = partial(torch.randn, generator=generator)
        self.states, self.weight = draw(n, d), draw(vocabulary, d) * d**-0.5
        self.hidden = draw(1, n, d)
        self.critic_weight = draw(1, vocabulary, d) * d**-0.5
        self.target = CriticHead(draw(1, n, d), draw(1, vocabulary, d) * d**-0.5, torch.zeros(1, vocabulary))
        self.actions = torch.randint(0, vocabulary - 64, (n,), generator=generator)
        self.kept = (torch.rand(n, generator=generator) < kept).float()
        self.valid = torch.arange(vocabulary) < vocabulary - 64  # padded rows, as many heads have them

    def loss(self, logp: torch.Tensor, q: torch.Tensor, v_target: torch.Tensor) -> torch.Tensor:
        return -(self.kept * logp).sum() + (q - v_target).square().sum()

    # Each variant takes leaves that require gradients and leaves gradients in them.

    def cross_entropy(self, states, weight, hidden, critic_weight, baseline) -> None:
        F.cross_entropy(states @ weight.T, self.actions, reduction="sum").backward()

    def trl(self, states, weight, hidden, critic_weight, baseline) -> None:
        logp, *_ = ChunkedLogProbFunction.apply(states, weight, None, self.actions, 1.0, 8192, None, 1.0, ("entropy",))
        (-logp.sum()).backward()

    def naive(self, states, weight, hidden, critic_weight, baseline) -> None:
        logp_all = (states @ weight.T).masked_fill(~self.valid, float("-inf")).log_softmax(-1)
        logp = logp_all.gather(-1, self.actions[:, None])[:, 0]
        torch.special.entr(logp_all.detach().exp()).sum(-1)
        every_q = CriticHead(hidden, critic_weight, self.target.bias).values()
        with torch.no_grad():
            policy = logp_all.exp()
            if baseline == "online":
                (policy * every_q.mean(0)).sum(-1)
            every_target = self.target.values().mean(0)
            v_target = (policy * every_target).sum(-1)
        self.loss(logp, every_q[0].gather(-1, self.actions[:, None])[:, 0], v_target).backward()

    def streamed(self, states, weight, hidden, critic_weight, baseline, early: bool = False) -> None:
        critic = CriticHead(hidden, critic_weight, self.target.bias)
        critics = [critic, self.target] if baseline == "online" else [self.target]
        values = streamed_values(
            states, self.actions, LanguageHead(weight), critics, valid=self.valid, early_gradient=early
        )
        self.loss(values.logp, critic.of_actions(self.actions)[0], values.expectations[-1]).backward()

    def run(self, variant: Callable, trained: bool, baseline: str) -> tuple[float, list[torch.Tensor]]:
        """CPU seconds, and states and weights with their gradients."""
        leaves = [x.clone().requires_grad_() for x in (self.states, self.weight, self.hidden, self.critic_weight)]
        leaves[1].requires_grad_(trained)
        start = time.process_time()
        variant(*leaves, baseline)
        return time.process_time() - start, leaves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512, help="action tokens, N")
    parser.add_argument("--width", type=int, default=576, help="of the states and of the critic's hidden layer, d")
    parser.add_argument("--vocabulary", type=int, default=49280, help="tokens, V")
    parser.add_argument("--kept", type=float, default=0.5, help="share of tokens that the filter keeps")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    head = Head(args.tokens, args.width, args.vocabulary, args.kept, args.seed)
    print(
        f"N = {args.tokens}, d = {args.width}, V = {args.vocabulary:,}, kept share {args.kept}, float32, one thread, "
        f"medians of {args.rounds} (fastest to slowest), torch {torch.__version__}\n"
    )
    print(HEADER)
    for trained in (False, True):
        for baseline in ("target", "online"):
            for row in compare(head, trained, baseline, args.rounds):
                print(row)


HEADER = """\
| head | baseline | variant | CPU seconds | / naive | / cross-entropy | peak MB | / naive |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Row:
    """What a variant costs, beside others on the same head."""

    trained: bool
    baseline: str
    variant: str
    seconds: Timing
    by_naive: float
    by_cross_entropy: float
    peak_bytes: int
    peak_by_naive: float

    def __str__(self) -> str:
        return (
            f"| {'trained' if self.trained else 'frozen'} | {self.baseline} | {self.variant} | {self.seconds} | "
            f"{self.by_naive:.2f} | {self.by_cross_entropy:.2f} | {self.peak_bytes / 1e6:.0f} | {self.peak_by_naive:.3f} |"
        )


def compare(head: Head, trained: bool, baseline: str, rounds: int) -> list[Row]:
    """Rows of the table for one kind of head and one baseline."""
    variants = {"cross-entropy": head.cross_entropy, "TRL's chunked log pi": head.trl, "naive": head.naive}
    variants["streamed"] = head.streamed
    if not trained:
        variants["streamed, early gradient"] = partial(head.streamed, early=True)
    peaks, expected = {}, head.run(head.naive, trained, baseline)[1][0].grad
    for name, variant in variants.items():
        with PeakMemory() as memory:
            _, leaves = head.run(variant, trained, baseline)
        lasting = [*leaves, *(leaf.grad for leaf in leaves if leaf.grad is not None)]
        peaks[name] = memory.peak - sum(tensor.untyped_storage().nbytes() for tensor in lasting)
        if "streamed" in name:
            error = ((leaves[0].grad - expected).norm() / expected.norm()).item()
            assert error < 1e-5, f"{name}: the gradient is off by {error:.1e}"
    times = take_turns(
        {name: lambda v=variant: head.run(v, trained, baseline)[0] for name, variant in variants.items()}, rounds
    )
    naive, cross_entropy = times["naive"].median, times["cross-entropy"].median
    return [
        Row(
            trained,
            baseline,
            name,
            t,
            t.median / naive,
            t.median / cross_entropy,
            peaks[name],
            peaks[name] / peaks["naive"],
        )
        for name, t in times.items()
    ]


if __name__ == "__main__":
    main()

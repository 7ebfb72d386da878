# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The streamed head: log pi(a|s), entropy, V and Vbar without ever holding a value for every token of the vocabulary.

One pass over tiles of the vocabulary keeps a running softmax (Milakov and Gimelshein 2018) and, in the manner of
attention (Dao et al. 2022), running expectations under it:

    V(s) = sum_j pi_j Q_j = hidden . sum_j pi_j w_j + sum_j pi_j b_j        w_j, b_j: output row of the critic for token j

The gradient of log pi(a|s) is that of a cross-entropy, and only rows whose gradient is not zero have one: what the
filter drops costs nothing. It comes from a second pass over those rows, or, where the head is frozen and most rows
will be kept, from one more running expectation, sum_j pi_j h_j over the rows h_j of the head. Ours.

Here it is in torch, for every device. On GPUs with triton the tiles are those of [`kernels.head`].
"""

from dataclasses import dataclass, replace
from types import ModuleType

import torch

from .backbones import LanguageHead
from .critic import CriticHead
from .kernels import RowsWithGradient, head_kernels


# A finite stand-in for the logit of a token that is no action: its probability is exactly 0, and 0 * _NEVER is 0.
_NEVER = -1e30
# Entries of a tile, [N, tokens]; of a size that stays in a cache of the processor.
_TILE_ENTRIES = {"cpu": 1 << 18, "cuda": 1 << 23}


@dataclass
class StreamedValues:
    """Float32 [N] each (float64 for float64 states); gradients as in [`TokenValues`].

    Args:
        logp (`torch.Tensor`): log pi(a|s), with gradient.
        entropy (`torch.Tensor`): of pi(.|s), in nats.
        expectations (`list[torch.Tensor]`): sum_a pi(a|s) Q(s, a) for each critic that was passed.
    """

    logp: torch.Tensor
    entropy: torch.Tensor
    expectations: list[torch.Tensor]


def streamed_values(
    states: torch.Tensor,
    actions: torch.Tensor,
    head: LanguageHead,
    critics: list[CriticHead] = (),
    *,
    valid: torch.Tensor | None = None,
    policy_gradient: bool = False,
    early_gradient: bool = False,
    tile: int | None = None,
) -> StreamedValues:
    """
    The values of N action tokens.

    Args:
        states (`torch.Tensor`):
            What the head reads, [N, d], in the dtype in which the head computes.
        actions (`torch.Tensor`):
            Tokens, int64 [N].
        head ([`LanguageHead`]):
            The actor.
        critics (`list[CriticHead]`, *optional*):
            Critics whose expectation under the actor is wanted; no gradient reaches them.
        valid (`torch.Tensor`, *optional*):
            True for tokens that an action may consist of, bool [V].
        policy_gradient (`bool`, *optional*, defaults to `False`):
            Whether the first expectation carries a gradient to the actor ("epg").
        early_gradient (`bool`, *optional*, defaults to `False`):
            Whether the gradient by the states is prepared on the way, for all rows, instead of computed afterwards for
            those that need it: cheaper from half of the rows on. Only where the head is frozen, without `policy_gradient`
            and without kernels.
        tile (`int`, *optional*):
            Tokens at a time; by default chosen for the device.
    """
    frozen = not head.weight.requires_grad and (head.bias is None or not head.bias.requires_grad)
    kernels = head_kernels(states)
    early = early_gradient and frozen and not policy_gradient and states.requires_grad and torch.is_grad_enabled()
    work = _Work(
        head.scale, head.softcap, list(critics), valid,
        tile or max(256, _TILE_ENTRIES.get(states.device.type, 1 << 20) // max(1, len(states))), policy_gradient,
        early and kernels is None, kernels,
    )  # fmt: skip
    logp, entropy, *expectations = _StreamedHead.apply(states, head.weight, head.bias, actions, work)
    return StreamedValues(logp, entropy, expectations)


@dataclass(frozen=True)
class _Work:
    """What the autograd function is asked for, beside its tensors."""

    scale: float
    softcap: float | None
    critics: list[CriticHead]
    valid: torch.Tensor | None
    tile: int
    policy_gradient: bool
    early: bool
    kernels: ModuleType | None


class _StreamedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, bias, actions, work: _Work):
        head = LanguageHead(weight, bias, work.scale, work.softcap)
        chosen = mean_row = None
        with torch.autocast(states.device.type, enabled=False):
            if work.kernels is not None:
                logp, entropy, log_sum, expectations = work.kernels.head_statistics(
                    states, head, actions, work.critics, work.valid
                )
            else:
                running = _RunningSoftmax(states, head, actions, work)
                for start in range(0, len(weight), work.tile):
                    running.add(start, min(start + work.tile, len(weight)))
                logp, entropy, log_sum = running.policy()
                expectations = running.expectations()
                if work.early:
                    chosen, mean_row = running.chosen, running.mean_head_row()
        ctx.work = work
        first = expectations[0] if work.policy_gradient else None
        ctx.save_for_backward(states, weight, bias, actions, log_sum, chosen, mean_row, first)
        ctx.mark_non_differentiable(entropy, *expectations[1 if work.policy_gradient else 0 :])
        return logp, entropy, *expectations

    @staticmethod
    def backward(ctx, grad_logp, _, *grad_expectations):
        states, weight, bias, actions, _, chosen, mean_row, _ = ctx.saved_tensors
        work, head = ctx.work, LanguageHead(weight, bias, ctx.work.scale, ctx.work.softcap)
        with torch.autocast(states.device.type, enabled=False):
            if work.early:
                own = head.times_slope(grad_logp, chosen)[:, None] * weight[actions].to(states.dtype)
                return (own - grad_logp[:, None] * mean_row).to(states.dtype), None, None, None, None
            grad_v = grad_expectations[0] if work.policy_gradient else None
            return *_later_gradient(ctx, grad_logp, grad_v), None, None


class _RunningSoftmax:
    """Statistics of pi over the tokens seen so far, for N states."""

    def __init__(self, states: torch.Tensor, head: LanguageHead, actions: torch.Tensor, work: _Work):
        self.states, self.head, self.actions, self.work = states, head, actions, work
        self.dtype = torch.promote_types(states.dtype, torch.float32)
        zeros = states.new_zeros(len(states), dtype=self.dtype)
        # Of exp(logit - largest), and of that times (logit - largest).
        self.largest, self.sum, self.sum_logits, self.chosen = zeros + _NEVER, zeros, zeros, zeros
        # Expectations under way: of each critic's output rows and biases, and of the head's rows.
        self.rows = [[hidden.new_zeros(hidden.shape) for hidden in critic.hidden] for critic in work.critics]
        self.biases = [zeros.clone() for _ in work.critics]
        self.head_rows = states.new_zeros(states.shape, dtype=self.dtype) if work.early else None

    def add(self, start: int, stop: int) -> None:
        """The tokens of one tile."""
        work = self.work
        logits = _tile_of_logits(self.states, self.head, work.valid, start, stop)
        here = (self.actions >= start) & (self.actions < stop)
        own = logits.gather(1, (self.actions - start).clamp(0, stop - start - 1)[:, None])[:, 0]
        self.chosen = torch.where(here, own, self.chosen)
        largest = torch.maximum(self.largest, logits.amax(1))
        fall = self.largest - largest
        shrink = fall.exp()
        relative = logits - largest[:, None]
        p = relative.exp()
        self.sum_logits = (self.sum_logits + self.sum * fall) * shrink + torch.linalg.vecdot(p, relative)
        self.sum = self.sum * shrink + p.sum(1)
        self.largest = largest
        for critic, rows, bias in zip(work.critics, self.rows, self.biases, strict=True):
            bias.mul_(shrink).addmv_(p, critic.bias[:, start:stop].mean(0))
            for row, weight in zip(rows, critic.weight, strict=True):
                row.mul_(shrink[:, None]).addmm_(p, weight[start:stop])
        if self.head_rows is not None:
            weight = self.head.weight[start:stop].to(self.states.dtype)
            p = self.head.times_slope(p, logits).to(weight.dtype)
            self.head_rows.mul_(shrink[:, None]).add_(p @ weight)

    def policy(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """log pi(a|s), entropy and the logarithm of the softmax's denominator, [N] each."""
        log_sum = self.largest + self.sum.log()
        return self.chosen - self.largest - self.sum.log(), self.sum.log() - self.sum_logits / self.sum, log_sum

    def expectations(self) -> list[torch.Tensor]:
        """sum_a pi(a|s) Q(s, a) for each critic, [N]."""
        return [
            (sum(torch.linalg.vecdot(h, r) for h, r in zip(critic.hidden, rows, strict=True)) / len(rows) + bias) / self.sum
            for critic, rows, bias in zip(self.work.critics, self.rows, self.biases, strict=True)
        ]  # fmt: skip

    def mean_head_row(self) -> torch.Tensor:
        """sum_j pi_j d logit_j / d state, [N, d]."""
        return self.head_rows / self.sum[:, None]


def _later_gradient(ctx, grad_logp: torch.Tensor, grad_v: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Gradients by states, weight and bias: a second pass, over rows with a gradient alone."""
    states, weight, bias, actions, log_sum, _, _, expectation = ctx.saved_tensors
    work, head = ctx.work, LanguageHead(weight, bias, ctx.work.scale, ctx.work.softcap)
    needed = grad_logp != 0 if grad_v is None else (grad_logp != 0) | (grad_v != 0)
    where = needed.nonzero()[:, 0]
    rows = RowsWithGradient(states[where], actions[where], log_sum[where], grad_logp[where])
    if grad_v is not None:
        critic = work.critics[0]
        critic = CriticHead(critic.hidden[:, where], critic.weight, critic.bias)
        rows = replace(rows, grad_v=grad_v[where], v=expectation[where], critic=critic)
    kept, gradient_by_logits = rows.states, _logit_gradient if work.kernels is None else work.kernels.logit_gradient
    grad_kept = torch.zeros_like(kept, dtype=log_sum.dtype)
    grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
    grad_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
    for start in range(0, len(weight), work.tile):
        stop = min(start + work.tile, len(weight))
        d = gradient_by_logits(rows, head, work.valid, start, stop)
        grad_kept += d @ weight[start:stop].to(kept.dtype)
        if grad_weight is not None:
            part = grad_weight[start:stop]
            torch.mm(d.mT, kept, out=part) if part.dtype == d.dtype else part.copy_(d.mT @ kept)
        if grad_bias is not None:
            grad_bias[start:stop] = d.sum(0)
    grad_states = torch.zeros_like(states).index_copy_(0, where, grad_kept.to(states.dtype))
    return grad_states, grad_weight, grad_bias


def _logit_gradient(
    rows: RowsWithGradient, head: LanguageHead, valid: torch.Tensor | None, start: int, stop: int
) -> torch.Tensor:
    """Gradient by `weight @ state` of the tokens `start` to `stop`, [rows, tokens] in the states' dtype."""
    logits = _tile_of_logits(rows.states, head, valid, start, stop)
    p = (logits - rows.log_sum[:, None]).exp_()
    factor = -rows.grad_logp[:, None]
    if rows.grad_v is not None:
        factor = factor + rows.grad_v[:, None] * (rows.critic.tile(start, stop) - rows.v[:, None])
    here = ((rows.actions >= start) & (rows.actions < stop)).nonzero()[:, 0]
    d = p * factor
    d[here, rows.actions[here] - start] += rows.grad_logp[here]
    return head.times_slope(d, logits).to(rows.states.dtype)


def _tile_of_logits(
    states: torch.Tensor, head: LanguageHead, valid: torch.Tensor | None, start: int, stop: int
) -> torch.Tensor:
    """Logits of the tokens `start` to `stop`; that of a token that is no action leaves it nothing."""
    logits = head.logits(states, start, stop)
    if valid is None or (valid.device.type == "cpu" and valid[start:stop].all()):
        return logits
    return logits.masked_fill_(~valid[start:stop], _NEVER)

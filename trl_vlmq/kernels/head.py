# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The streamed head on a GPU: a tile of logits, and of Q, lives and dies in the registers of one program.

Forward, each program takes some states and a range of the vocabulary and leaves a running softmax's statistics of that
range; torch puts the ranges together. Backward, programs write the gradient by the logits for as many tokens at a time
as the caller asks for; the products with weights and states are torch's, which keeps them deterministic.

Two things differ from the torch way. Logits are summed and kept in float32 for 16-bit states too, where a matrix product of
torch rounds them. And Q of a token is computed where V is, instead of the critic's mean output row: as many operations.
"""

import torch
import triton
import triton.language as tl

from ..backbones import LanguageHead
from ..critic import CriticHead
from . import RowsWithGradient


# A finite stand-in for the logit of a token that is no action, as in fused.py.
_NEVER = tl.constexpr(-1e30)
# States and tokens of a tile, and numbers of each that are multiplied at a time.
_STATES, _TOKENS, _DEPTH = tl.constexpr(32), tl.constexpr(64), tl.constexpr(32)
# The interpreter multiplies the bits of bfloat16; float32 holds the same products exactly.
_WIDEN = tl.constexpr(triton.knobs.runtime.interpret)
# Programs that keep a large GPU busy: the vocabulary is cut into ranges until there are about as many.
_PROGRAMS = 512


def head_statistics(
    states: torch.Tensor,
    head: LanguageHead,
    actions: torch.Tensor,
    critics: list[CriticHead],
    valid: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """
    Log pi(a|s), entropy, the logarithm of the softmax's denominator, and the expectation of each critic: float32 [N] each.

    Args:
        states (`torch.Tensor`):
            [N, d].
        head ([`LanguageHead`]):
            The actor.
        actions (`torch.Tensor`):
            Tokens, int64 [N].
        critics (`list[CriticHead]`):
            At most two, of one size.
        valid (`torch.Tensor`, *optional*):
            True for tokens that an action may consist of, bool [V].
    """
    assert len(critics) <= 2 and len({critic.hidden.shape for critic in critics}) <= 1
    states = states.contiguous()
    (n, width), vocabulary = states.shape, len(head.weight)
    blocks, tiles = triton.cdiv(n, _STATES.value), triton.cdiv(vocabulary, _TOKENS.value)
    tokens = triton.cdiv(tiles, min(tiles, triton.cdiv(_PROGRAMS, max(1, blocks)))) * _TOKENS.value
    ranges = triton.cdiv(vocabulary, tokens)
    parts = states.new_empty(4 + len(critics), ranges, n, dtype=torch.float32)
    first, second = ([*critics] + [None, None])[:2]
    if n:
        _statistics[blocks, ranges](
            parts, states, *_head(head, valid, states), actions, *_critic(first, states), *_critic(second, states),
            n, vocabulary, tokens, EXPECTATIONS=len(critics), **_sizes(head, valid, width, first),
        )  # fmt: skip
    return _together(parts)


def _together(parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Statistics of ranges of the vocabulary -> those of all of it."""
    largest, sums, sum_logits, chosen, *expectations = parts
    top = largest.amax(0)
    fall = largest - top
    shrink = fall.exp()
    total = (sums * shrink).sum(0)
    sum_logits = ((sum_logits + sums * fall) * shrink).sum(0)
    log_total = total.log()
    means = [(expectation * shrink).sum(0) / total for expectation in expectations]
    return chosen.sum(0) - top - log_total, log_total - sum_logits / total, top + log_total, means


def logit_gradient(
    rows: RowsWithGradient, head: LanguageHead, valid: torch.Tensor | None, start: int, stop: int
) -> torch.Tensor:
    """Gradient by `weight @ state` of the tokens `start` to `stop`, [rows, tokens] in the states' dtype."""
    states, n = rows.states.contiguous(), len(rows.states)
    gradient = states.new_empty(n, stop - start)
    grid = (triton.cdiv(n, _STATES.value), triton.cdiv(stop - start, _TOKENS.value))
    grad_logp = rows.grad_logp.contiguous()
    grad_v, v = (rows.log_sum,) * 2 if rows.grad_v is None else (rows.grad_v.contiguous(), rows.v)
    if n:
        _logit_gradient[grid](
            gradient, states, *_head(head, valid, states), rows.actions, *_critic(rows.critic, states),
            rows.log_sum, grad_logp, grad_v, v, n, start, stop, len(head.weight),
            POLICY_GRADIENT=rows.grad_v is not None, **_sizes(head, valid, states.shape[1], rows.critic),
        )  # fmt: skip
    return gradient


def _head(head: LanguageHead, valid: torch.Tensor | None, unused: torch.Tensor) -> tuple:
    """What a kernel is told of a head; `unused` stands where there is nothing."""
    bias = unused if head.bias is None else head.bias
    return (
        head.weight, *head.weight.stride(), bias, unused if valid is None else valid.view(torch.uint8),
        float(head.scale), float(head.softcap or 0.0),
    )  # fmt: skip


def _critic(critic: CriticHead | None, unused: torch.Tensor) -> tuple[torch.Tensor, ...]:
    parts = (unused,) * 3 if critic is None else (critic.hidden, critic.weight, critic.bias)
    return tuple(part.contiguous() for part in parts)


def _sizes(head: LanguageHead, valid: torch.Tensor | None, width: int, critic: CriticHead | None) -> dict:
    """What a kernel is compiled for."""
    heads, _, hidden_width = (1, 0, 1) if critic is None else critic.hidden.shape
    return {
        "WIDTH": width, "HIDDEN": hidden_width, "HEADS": heads, "HAS_BIAS": head.bias is not None,
        "HAS_VALID": valid is not None, "HAS_SOFTCAP": head.softcap is not None,
    }  # fmt: skip


@triton.jit
def _product(
    total, left, right, right_stride, right_column_stride, rows, tokens, in_rows, in_tokens, WIDTH: tl.constexpr
):  # fmt: skip
    """`total` + left[rows] @ right[tokens].T, float32, of matrices in memory; it multiplies in the dtype of `left`."""
    for begin in range(0, WIDTH, _DEPTH):
        columns = begin + tl.arange(0, _DEPTH)
        inside = columns < WIDTH
        a = tl.load(left + rows[:, None] * WIDTH + columns[None, :], in_rows[:, None] & inside[None, :], other=0.0)
        where = right + tokens[:, None] * right_stride + columns[None, :] * right_column_stride
        b = tl.load(where, in_tokens[:, None] & inside[None, :], other=0.0).to(a.dtype)
        if _WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")  # not TF32
    return total


@triton.jit
def _logits(
    states, weight, weight_stride, weight_column_stride, bias, valid, scale, softcap, rows, tokens, in_rows, in_tokens,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_VALID: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    x = tl.zeros((_STATES, _TOKENS), dtype=tl.float32)
    x = _product(x, states, weight, weight_stride, weight_column_stride, rows, tokens, in_rows, in_tokens, WIDTH)
    if HAS_BIAS:
        x += tl.load(bias + tokens, in_tokens, other=0.0).to(tl.float32)[None, :]
    x *= scale
    if HAS_SOFTCAP:  # softcap * tanh(x / softcap)
        e = tl.exp(-2 * tl.abs(x) / softcap)
        bounded = softcap * (1 - e) / (1 + e)
        x = tl.where(x < 0, -bounded, bounded)
    allowed = in_tokens
    if HAS_VALID:
        allowed = tl.load(valid + tokens, in_tokens, other=0) != 0
    return tl.where(allowed[None, :], x, _NEVER)


@triton.jit
def _q(
    hidden, weight, bias, rows, tokens, in_rows, in_tokens, n, vocabulary, HIDDEN: tl.constexpr, HEADS: tl.constexpr
):  # fmt: skip
    """Mean over critics of Q, float32."""
    q = tl.zeros((_STATES, _TOKENS), dtype=tl.float32)
    for c in range(HEADS):
        own = tokens + c * vocabulary
        q = _product(q, hidden, weight, HIDDEN, 1, rows + c * n, own, in_rows, in_tokens, HIDDEN)
        q += tl.load(bias + own, in_tokens, other=0.0)[None, :]
    return q / HEADS


@triton.jit
def _statistics(
    parts, states, weight, weight_stride, weight_column_stride, bias, valid, scale, softcap, actions,
    hidden_0, rows_0, bias_0, hidden_1, rows_1, bias_1, n, vocabulary, range_tokens,
    EXPECTATIONS: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, HEADS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_VALID: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Largest logit, sums of exp and of exp times logit relative to it, the action's logit, and expectations times the sum."""
    rows = (tl.program_id(0) * _STATES + tl.arange(0, _STATES)).to(tl.int64)
    in_rows = rows < n
    action = tl.load(actions + rows, in_rows, other=-1)
    largest = tl.full((_STATES,), _NEVER, dtype=tl.float32)
    sums = tl.zeros((_STATES,), dtype=tl.float32)
    sum_logits = tl.zeros((_STATES,), dtype=tl.float32)
    chosen = tl.zeros((_STATES,), dtype=tl.float32)
    v_0 = tl.zeros((_STATES,), dtype=tl.float32)
    v_1 = tl.zeros((_STATES,), dtype=tl.float32)
    first = tl.program_id(1) * range_tokens
    last = tl.minimum(first + range_tokens, vocabulary)
    for begin in range(first, last, _TOKENS):
        tokens = (begin + tl.arange(0, _TOKENS)).to(tl.int64)
        in_tokens = tokens < last
        logits = _logits(
            states, weight, weight_stride, weight_column_stride, bias, valid, scale, softcap, rows, tokens, in_rows,
            in_tokens, WIDTH, HAS_BIAS, HAS_VALID, HAS_SOFTCAP,
        )  # fmt: skip
        chosen += tl.sum(tl.where(tokens[None, :] == action[:, None], logits, 0.0), 1)
        larger = tl.maximum(largest, tl.max(logits, 1))
        fall = largest - larger
        shrink = tl.exp(fall)
        relative = logits - larger[:, None]
        p = tl.exp(relative)
        sum_logits = (sum_logits + sums * fall) * shrink + tl.sum(p * relative, 1)
        sums = sums * shrink + tl.sum(p, 1)
        largest = larger
        if EXPECTATIONS > 0:
            q = _q(hidden_0, rows_0, bias_0, rows, tokens, in_rows, in_tokens, n, vocabulary, HIDDEN, HEADS)
            v_0 = v_0 * shrink + tl.sum(p * q, 1)
        if EXPECTATIONS > 1:
            q = _q(hidden_1, rows_1, bias_1, rows, tokens, in_rows, in_tokens, n, vocabulary, HIDDEN, HEADS)
            v_1 = v_1 * shrink + tl.sum(p * q, 1)
    place = parts + tl.program_id(1).to(tl.int64) * n + rows
    statistic = tl.num_programs(1).to(tl.int64) * n  # entries of one
    tl.store(place, largest, in_rows)
    tl.store(place + statistic, sums, in_rows)
    tl.store(place + 2 * statistic, sum_logits, in_rows)
    tl.store(place + 3 * statistic, chosen, in_rows)
    if EXPECTATIONS > 0:
        tl.store(place + 4 * statistic, v_0, in_rows)
    if EXPECTATIONS > 1:
        tl.store(place + 5 * statistic, v_1, in_rows)


@triton.jit
def _logit_gradient(
    gradient, states, weight, weight_stride, weight_column_stride, bias, valid, scale, softcap, actions,
    hidden, critic_rows, critic_bias, log_sum, grad_logp, grad_v, v, n, start, stop, vocabulary,
    POLICY_GRADIENT: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, HEADS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_VALID: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) * _STATES + tl.arange(0, _STATES)).to(tl.int64)
    in_rows = rows < n
    tokens = (start + tl.program_id(1) * _TOKENS + tl.arange(0, _TOKENS)).to(tl.int64)
    in_tokens = tokens < stop
    logits = _logits(
        states, weight, weight_stride, weight_column_stride, bias, valid, scale, softcap, rows, tokens, in_rows,
        in_tokens, WIDTH, HAS_BIAS, HAS_VALID, HAS_SOFTCAP,
    )  # fmt: skip
    p = tl.exp(logits - tl.load(log_sum + rows, in_rows, other=1e30)[:, None])
    g = tl.load(grad_logp + rows, in_rows, other=0.0)
    action = tl.load(actions + rows, in_rows, other=-1)
    d = tl.where(tokens[None, :] == action[:, None], g[:, None], 0.0) - p * g[:, None]
    if POLICY_GRADIENT:  # grad_v * pi * (Q - V)
        q = _q(hidden, critic_rows, critic_bias, rows, tokens, in_rows, in_tokens, n, vocabulary, HIDDEN, HEADS)
        pull = tl.load(grad_v + rows, in_rows, other=0.0)[:, None]
        d += pull * p * (q - tl.load(v + rows, in_rows, other=0.0)[:, None])
    if HAS_SOFTCAP:
        bounded = tl.maximum(logits / softcap, -1.0)
        d *= 1 - bounded * bounded
    d *= scale
    place = gradient + rows[:, None] * (stop - start) + (tokens - start)[None, :]
    tl.store(place, d, in_rows[:, None] & in_tokens[None, :])

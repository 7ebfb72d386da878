# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The streamed head gives the numbers of the formulas, whatever the head, and never holds a value for every token."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trl_vlmq.backbones import LanguageHead
from trl_vlmq.critic import CriticHead
from trl_vlmq.fused import streamed_values


N, VOCABULARY, WIDTH, HIDDEN = 37, 301, 24, 20


class Problem:
    """States, actions, a head and two critics, drawn in float64 and rounded to `dtype`; the same for every dtype."""

    def __init__(
        self, dtype: torch.dtype, *, bias=True, scale=1.0, softcap=None, masked=True, critics=2, trained=True
    ):
        self.generator = torch.Generator().manual_seed(0)
        self.dtype, self.trained = dtype, trained
        self.states = self.draw(N, WIDTH)
        self.weight, self.bias = self.draw(VOCABULARY, WIDTH), self.draw(VOCABULARY) if bias else None
        self.formula = {"scale": scale, "softcap": softcap}
        self.valid = torch.arange(VOCABULARY) % 7 != 3 if masked else None
        self.actions = torch.randint(0, VOCABULARY // 7, (N,), generator=self.generator) * 7
        parts = ((critics, N, HIDDEN), (critics, VOCABULARY, HIDDEN), (critics, VOCABULARY))
        value = torch.promote_types(dtype, torch.float32)
        self.critics = [CriticHead(*(self.draw(*shape).to(value) for shape in parts)) for _ in range(2)]
        self.pull = self.draw(N).to(value) * (
            torch.rand(N, generator=self.generator) < 0.4
        )  # the filter drops the rest
        self.push = self.draw(N).to(value)

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator).to(self.dtype)

    def as_float64(self) -> "Problem":
        """The same rounded numbers, so that only the arithmetic differs."""
        exact = object.__new__(Problem)
        exact.__dict__ = self.__dict__ | {
            name: value.double()
            for name, value in self.__dict__.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point()
        }
        exact.critics = [CriticHead(c.hidden.double(), c.weight.double(), c.bias.double()) for c in self.critics]
        return exact

    def solve(self, streamed: bool, policy_gradient: bool, **kwargs) -> dict[str, torch.Tensor]:
        """Values, and gradients of a loss over log pi(a|s) and (`policy_gradient`) the first expectation."""
        states, weight = self.states.clone().requires_grad_(), self.weight.clone().requires_grad_(self.trained)
        bias = None if self.bias is None else self.bias.clone().requires_grad_(self.trained)
        head = LanguageHead(weight, bias, **self.formula)
        if streamed:
            values = streamed_values(
                states, self.actions, head, self.critics, valid=self.valid, policy_gradient=policy_gradient, **kwargs
            )
            logp, entropy, (v, v_target) = values.logp, values.entropy, values.expectations
        else:
            logp_all = self.naive_logits(states, weight, bias).log_softmax(-1)
            logp = logp_all[torch.arange(N), self.actions]
            entropy = torch.distributions.Categorical(logits=logp_all.detach()).entropy()
            every_q = [torch.einsum("cnh,cvh->cnv", c.hidden, c.weight) + c.bias[:, None] for c in self.critics]
            v, v_target = ((logp_all.exp() * q.mean(0)).sum(-1) for q in every_q)
        loss = (self.pull * logp).sum() + ((self.push * v).sum() if policy_gradient else 0)
        loss.backward()
        found = {"logp": logp, "entropy": entropy, "v": v, "v_target": v_target, "states.grad": states.grad}
        if self.trained:
            found |= {"weight.grad": weight.grad} | ({} if bias is None else {"bias.grad": bias.grad})
        return {name: tensor.detach().double() for name, tensor in found.items()}

    def naive_logits(self, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        logits = torch.einsum("nd,vd->nv", states, weight) + (0 if bias is None else bias)
        logits = self.formula["scale"] * logits
        if self.formula["softcap"] is not None:
            logits = self.formula["softcap"] * torch.tanh(logits / self.formula["softcap"])
        return logits if self.valid is None else logits.masked_fill(~self.valid, -torch.inf)


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        error = (found[name] - tensor).norm() / tensor.norm()
        assert error < tolerance, (name, error.item())


@pytest.mark.parametrize("policy_gradient", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("early_gradient", [False, True])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(
    "kwargs", [{}, {"bias": False, "scale": 0.3}, {"masked": False, "critics": 1}, {"critics": 3, "scale": 2.0}]
)
def test_values_and_gradients_are_those_of_the_formulas(kwargs, softcap, early_gradient, trained, policy_gradient):
    problem = Problem(torch.float64, softcap=softcap, trained=trained, **kwargs)
    streamed = problem.solve(True, policy_gradient, early_gradient=early_gradient, tile=64)
    assert_close(streamed, problem.solve(False, policy_gradient), 1e-12)


def test_a_bias_that_is_trained_over_a_frozen_weight_gets_its_gradient():
    problem = Problem(torch.float64)
    gradients = []
    for early in (False, True):
        bias = problem.bias.clone().requires_grad_()
        states = problem.states.clone().requires_grad_()
        values = streamed_values(states, problem.actions, LanguageHead(problem.weight, bias), early_gradient=early)
        gradients.append(torch.autograd.grad((problem.pull * values.logp).sum(), bias)[0])
    assert gradients[0].abs().max() > 0.1
    assert torch.equal(*gradients)


@pytest.mark.parametrize("early_gradient", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_rounding_stays_where_the_dtype_puts_it(dtype, tolerance, early_gradient):
    # In bfloat16 the logits themselves are rounded, as the model's own: large ones would drown what is compared here.
    problem = Problem(dtype, trained=not early_gradient, scale=1.0 if dtype == torch.float32 else 0.1)
    streamed = problem.solve(True, False, early_gradient=early_gradient, tile=64)
    assert_close(streamed, problem.as_float64().solve(False, False), tolerance)


@pytest.mark.parametrize("tile", [1, 7, 300, 301, 5000])
def test_the_size_of_a_tile_changes_nothing(tile):
    problem = Problem(torch.float64)
    assert_close(problem.solve(True, True, tile=tile), problem.solve(False, True), 1e-12)


def test_a_vocabulary_that_begins_with_forbidden_tokens_leaves_no_trace_of_them():
    problem = Problem(torch.float64)
    problem.valid = torch.arange(VOCABULARY) >= 150
    problem.actions = problem.actions % 100 + 150
    assert_close(problem.solve(True, True, tile=32), problem.solve(False, True), 1e-12)


def test_logits_too_large_for_exp_are_no_trouble():
    problem = Problem(torch.float32, scale=300.0, trained=False)
    streamed, exact = problem.solve(True, False, tile=64), problem.as_float64().solve(False, False)
    assert exact["logp"].min() < -1000
    torch.testing.assert_close(streamed.pop("entropy"), exact.pop("entropy"), rtol=1e-3, atol=1e-3)
    assert_close(streamed, exact, 1e-4)


def test_the_filter_decides_as_it_would_with_all_logits():
    problem = Problem(torch.float32, critics=1)
    for dtype_problem in (problem, problem.as_float64()):
        q = dtype_problem.critics[0].of_actions(dtype_problem.actions).mean(0).double()
        streamed = dtype_problem is problem
        dtype_problem.A = q - dtype_problem.solve(streamed, False)["v"]
        exact, largest = dtype_problem.A, dtype_problem.critics[0].values().abs().max().item()
    clear = exact.abs() > 1e-5 * largest
    assert clear.sum() > 30
    assert torch.equal((problem.A > 0)[clear], (exact > 0)[clear])


class LargestTensor(TorchDispatchMode):
    """Entries of the largest tensor that any operation makes, those as large as a weight aside."""

    def __init__(self, allowed: set[torch.Size]):
        super().__init__()
        self.allowed, self.largest = allowed, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        known = {x.untyped_storage().data_ptr() for x in tensors}
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in known:
                self.largest = max(self.largest, 0 if made.shape in self.allowed else made.numel())
        return result


@pytest.mark.parametrize("early_gradient", [False, True])
def test_no_tensor_has_a_value_for_every_token_of_every_state(early_gradient):
    problem = Problem(torch.float32, trained=not early_gradient, critics=1)
    weights = {problem.weight.shape, problem.critics[0].weight.shape}
    with LargestTensor(weights) as streamed:
        problem.solve(True, False, early_gradient=early_gradient, tile=16)
    with LargestTensor(weights) as naive:
        problem.solve(False, False)
    assert naive.largest == N * VOCABULARY
    assert streamed.largest <= N * WIDTH


def test_rows_that_the_filter_drops_cost_nothing_afterwards():
    problem = Problem(torch.float64)
    problem.pull = torch.zeros(N, dtype=torch.float64)
    problem.pull[3] = 1.0
    states = problem.states.clone().requires_grad_()
    head = LanguageHead(problem.weight.requires_grad_(), problem.bias)
    loss = (problem.pull * streamed_values(states, problem.actions, head, tile=16).logp).sum()
    with LargestTensor({problem.weight.shape, problem.states.shape}) as backward:
        loss.backward()
    assert backward.largest <= VOCABULARY  # the gradient of the bias; a tile has one row

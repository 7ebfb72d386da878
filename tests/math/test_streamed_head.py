# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The streamed head gives the numbers of the formulas, whatever the head, and never holds a value for every token.

Triton's kernels run on the GPU where there is one, and through Triton's interpreter elsewhere.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trl_vlmq
from trl_vlmq.backbones import LanguageHead
from trl_vlmq.critic import CriticHead
from trl_vlmq.fused import streamed_values
from trl_vlmq.kernels import head_kernels


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(trl_vlmq.__file__).parents[1])}
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
        return self.changed(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def to(self, device: str) -> "Problem":
        return self.changed(lambda tensor: tensor.to(device))

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Problem":
        other = object.__new__(Problem)
        tensors = {name: value for name, value in self.__dict__.items() if isinstance(value, torch.Tensor)}
        other.__dict__ = self.__dict__ | {name: change(tensor) for name, tensor in tensors.items()}
        other.critics = [CriticHead(change(c.hidden), change(c.weight), change(c.bias)) for c in self.critics]
        return other

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
        return {name: tensor.detach().cpu().double() for name, tensor in found.items()}

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


# ---- Triton ----


@pytest.fixture
def kernels(monkeypatch):
    """Triton's kernels take the tiles, on a CPU too."""
    pytest.importorskip("triton", reason="there is no triton for this system")
    from trl_vlmq.kernels import head

    monkeypatch.setattr("trl_vlmq.fused.head_kernels", lambda states: head)
    monkeypatch.setattr(head, "_PROGRAMS", 4)  # so that a program has several tiles, and several have a range each
    return head


@pytest.mark.parametrize("policy_gradient", [False, True])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"bias": False, "scale": 0.3, "softcap": 5.0, "critics": 3},
        {"masked": False, "critics": 1, "trained": False},
        {"scale": 2.0, "softcap": 30.0, "masked": False},
    ],
)
def test_kernels_give_values_and_gradients_of_the_formulas(kernels, kwargs, policy_gradient):
    problem = Problem(torch.float32, **kwargs)
    streamed = problem.to(DEVICE).solve(True, policy_gradient, tile=128)
    assert_close(streamed, problem.as_float64().solve(False, policy_gradient), 1e-6)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_kernels_round_as_bfloat16_does_and_no_more(kernels, softcap):
    problem = Problem(torch.bfloat16, softcap=softcap)
    streamed, exact = problem.to(DEVICE).solve(True, True), problem.as_float64().solve(False, True)
    assert_close(streamed, exact, 1e-2)
    values = ("logp", "entropy", "v", "v_target")
    assert_close({name: streamed[name] for name in values}, {name: exact[name] for name in values}, 2e-6)


@pytest.mark.parametrize("programs", [1, 4, 512])
def test_how_kernels_divide_the_vocabulary_changes_nothing(kernels, monkeypatch, programs):
    monkeypatch.setattr(kernels, "_PROGRAMS", programs)
    problem = Problem(torch.float32)
    problem.valid = torch.arange(VOCABULARY) >= 150  # the first ranges hold no action at all
    problem.actions = problem.actions % 100 + 150
    assert_close(problem.to(DEVICE).solve(True, True), problem.as_float64().solve(False, True), 1e-6)


def test_kernels_bear_logits_too_large_for_exp(kernels):
    problem = Problem(torch.float32, scale=300.0, trained=False)
    streamed, exact = problem.to(DEVICE).solve(True, False), problem.as_float64().solve(False, False)
    torch.testing.assert_close(streamed.pop("entropy"), exact.pop("entropy"), rtol=1e-3, atol=1e-3)
    assert_close(streamed, exact, 1e-4)


def test_kernels_take_weights_in_float32_under_bfloat16_states(kernels):
    """Autocast: the head's weights are rounded on the way, and their gradients are not."""
    problem = Problem(torch.float32, trained=True)
    rounded = problem.changed(lambda t: t.bfloat16().to(t) if t.dtype == torch.float32 else t)
    rounded.critics, rounded.pull, rounded.push = problem.critics, problem.pull, problem.push
    exact = rounded.as_float64().solve(False, False)
    rounded.states = rounded.states.bfloat16()
    streamed = rounded.to(DEVICE).solve(True, False)
    assert_close(streamed, exact, 1e-2)
    assert_close({"logp": streamed["logp"]}, {"logp": exact["logp"]}, 2e-6)


def test_a_batch_of_no_tokens_passes_through_the_kernels(kernels):
    problem = Problem(torch.float32).to(DEVICE)
    head, critics = (
        LanguageHead(problem.weight, problem.bias),
        [CriticHead(c.hidden[:, :0], c.weight, c.bias) for c in problem.critics],
    )
    states = problem.states[:0].requires_grad_()
    values = streamed_values(states, problem.actions[:0], head, critics)
    values.logp.sum().backward()
    assert states.grad.shape == (0, WIDTH) and [len(v) for v in values.expectations] == [0, 0]


def test_without_triton_a_gpu_takes_the_torch_way(monkeypatch):
    monkeypatch.setattr("trl_vlmq.kernels.find_spec", lambda name: None)
    assert head_kernels(SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)) is None


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), ("cpu", torch.bfloat16), ("cuda", torch.float64)]
)
def test_kernels_are_left_alone_where_torch_does_the_work(device, dtype, monkeypatch):
    monkeypatch.setattr("trl_vlmq.kernels.importlib.import_module", None)
    assert head_kernels(SimpleNamespace(device=torch.device(device), dtype=dtype)) is None


def test_importing_the_package_imports_no_kernel():
    code = "import sys, trl_vlmq.trainer; assert 'trl_vlmq.kernels' in sys.modules; assert 'trl_vlmq.kernels.head' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200, env=ENVIRONMENT)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_on_a_gpu_kernels_are_chosen_and_agree(dtype, tolerance):
    from trl_vlmq.kernels import head

    problem = Problem(dtype)
    assert head_kernels(problem.to(DEVICE).states) is head
    assert_close(problem.to(DEVICE).solve(True, True), problem.as_float64().solve(False, True), tolerance)


# Where there is no GPU, the compiler is at least asked to make code for one.
COMPILING = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from trl_vlmq.kernels import head

kinds = dict.fromkeys(("scale", "softcap"), "fp32") | {"valid": "*u8", "actions": "*i64"}
kinds |= dict.fromkeys(("n", "start", "stop", "vocabulary", "range_tokens", "weight_stride", "weight_column_stride"), "i32")
sizes = {"WIDTH": 576, "HIDDEN": 400, "HEADS": 2, "HAS_BIAS": True, "HAS_VALID": True, "HAS_SOFTCAP": True}
for kernel, extra in ((head._statistics, {"EXPECTATIONS": 2}), (head._logit_gradient, {"POLICY_GRADIENT": True})):
    for dtype in ("fp32", "bf16"):
        of_states = dict.fromkeys(("states", "weight", "bias", "gradient"), f"*{dtype}")
        constants = sizes | extra
        signature = {name: "constexpr" if name in constants else (kinds | of_states).get(name, "*fp32") for name in kernel.arg_names}
        ptx = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32)).asm["ptx"]
        assert "tf32" not in ptx, "float32 would be rounded to ten bits"
        assert ("mma" in ptx) == (dtype == "bf16"), "16-bit products belong on tensor cores"
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path):
    pytest.importorskip("triton", reason="there is no triton for this system")
    settings = ENVIRONMENT | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = tmp_path / "compiling.py"  # the compiler reads source files
    script.write_text(COMPILING)
    subprocess.run([sys.executable, str(script)], check=True, timeout=300, env=settings)


# ---- Tiles ----


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


def advantages(problem: Problem, streamed: bool) -> torch.Tensor:
    q = problem.critics[0].of_actions(problem.actions).mean(0).cpu().double()
    return q - problem.solve(streamed, False)["v"]


@pytest.mark.parametrize("way", ["torch", "kernels"])
def test_the_filter_decides_as_it_would_with_all_logits(way, request):
    problem = Problem(torch.float32, critics=1)
    exact = advantages(problem.as_float64(), streamed=False)
    clear = exact.abs() > 1e-5 * problem.critics[0].values().abs().max()
    assert clear.sum() > 30
    if way == "kernels":
        request.getfixturevalue("kernels")
        problem = problem.to(DEVICE)
    assert torch.equal((advantages(problem, streamed=True) > 0)[clear], (exact > 0)[clear])


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

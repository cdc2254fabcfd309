"""Tests that need a CUDA device: streams, a second device, CUDA graphs, sizes beyond 2³¹, compute-sanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from oracles import error
from torch import Tensor

from igan_fast import ops
from igan_fast.reference import ops as reference

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["native", "triton"])
def impl(request: pytest.FixtureRequest) -> str:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    status = ops.backends()["native-cuda" if request.param == "native" else "triton"]
    if status != "available":
        pytest.skip(status)
    return request.param


@pytest.fixture(autouse=True)
def deterministic_cudnn() -> Iterator[None]:
    """So that two runs of a convolution have the same bits."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


#: The operators that ``step`` calls.
operators = pytest.mark.parametrize("operator", ["norm_act", "norm_act, film", "conv_norm_act, film"])


def inputs(
    operator: str, device: str, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor, Tensor]]:
    """The arguments of the operator that require gradients, a target for its result, and its running statistics."""

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device)

    leaves = {"x": leaf(8, 64, 16, 16).to(dtype, memory_format=torch.channels_last), "weight": leaf(64).abs()}
    if "conv" in operator:
        leaves["conv_weight"] = (leaf(64, 64, 3, 3) * 0.05).to(dtype)
    if "film" in operator:
        leaves["film"] = leaf(8, 131)[:, 2:130]  # columns of a wider matrix
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in leaves.items()}
    kept = torch.zeros(64, device=device), torch.ones(64, device=device)
    return leaves, torch.randn_like(leaves["x"]), kept


def step(
    operator: str,
    leaves: dict[str, Tensor],
    target: Tensor,
    kept: tuple[Tensor, Tensor],
    *,
    module: Any = ops,
    **options: Any,
) -> tuple[Tensor, ...]:
    """The operator and a loss, its gradients, and the derivatives of the gradients' squares."""
    x, weight, film = leaves["x"], leaves["weight"], leaves.get("film")
    if "conv" in operator:
        how = {"stride": 1, "padding": 1, "film": film, **options}
        y = module.conv_norm_act(x, leaves["conv_weight"], weight, None, *kept, **how)
    else:
        y = module.norm_act(x, weight, None, *kept, film=film, **options)
    loss = module.feature_l1([y, x], [target, target * 2], **options)
    inputs = list(leaves.values())
    gradients = torch.autograd.grad(loss, inputs, create_graph=True)
    squares = torch.stack([gradient.float().square().sum() for gradient in gradients]).sum()
    return (loss.detach(), *(t.detach() for t in gradients), *torch.autograd.grad(squares, inputs))


@operators
def test_runs_on_the_current_stream(impl, operator):
    """After a slow kernel on the stream: on another stream the inputs would still be zero."""
    stream = torch.cuda.Stream()
    leaves, target, kept = inputs(operator, "cuda")
    expected = step(operator, leaves, target, kept, impl=impl)
    late = {name: torch.zeros_like(t).requires_grad_() for name, t in leaves.items()}
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        with torch.no_grad():
            for name, tensor in leaves.items():
                late[name].copy_(tensor)
        actual = step(operator, late, target, kept, impl=impl)
    stream.synchronize()
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@operators
def test_equals_the_reference(impl, operator):
    """The first and second derivatives of float64 inputs; the tests of each operator have other dtypes and shapes."""
    leaves, target, kept = inputs(operator, "cuda", torch.float64)
    leaves = {name: tensor.detach().double().requires_grad_() for name, tensor in leaves.items()}
    kept = kept[0].double(), kept[1].double()
    theirs = tuple(t.clone() for t in kept)
    actual = step(operator, leaves, target, kept, impl=impl)
    expected = step(operator, leaves, target, theirs, module=reference)
    for index, (a, e) in enumerate(zip([*actual, *kept], [*expected, *theirs], strict=True)):
        assert error(a, e) < 1e-9, index


@operators
def test_runs_on_the_tensors_device(impl, operator):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    leaves, target, kept = inputs(operator, "cuda:1")
    with torch.cuda.device(0):
        actual = step(operator, leaves, target, kept, impl=impl)
    assert all(t.device == torch.device("cuda:1") for t in actual)
    assert error(actual[0], step(operator, leaves, target, kept, module=reference)[0]) < 1e-5


@operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_replays_it(impl, operator, dtype):
    leaves, target, kept = inputs(operator, "cuda", dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(operator, leaves, target, kept, impl=impl)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(operator, leaves, target, kept, impl=impl)
    for _ in range(3):
        with torch.no_grad():
            for name in ("x", "film") if "film" in leaves else ("x",):
                leaves[name].copy_(torch.randn_like(leaves[name]))
            kept[0].zero_(), kept[1].fill_(1)
        graph.replay()
        replayed = [t.clone() for t in captured], kept[0].clone()
        kept[0].zero_(), kept[1].fill_(1)
        expected = step(operator, leaves, target, kept, impl=impl)
        assert all(torch.equal(a, e) for a, e in zip(replayed[0], expected, strict=True))
        assert torch.equal(replayed[1], kept[0])


@operators
def test_nothing_waits_for_the_device(impl, operator):
    leaves, target, kept = inputs(operator, "cuda")
    step(operator, leaves, target, kept, impl=impl)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(operator, leaves, target, kept, impl=impl)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_more_than_two_to_the_31_elements(impl):
    numel = 2**31 + 8 * 1024
    free, _ = torch.cuda.mem_get_info()
    if free < 5 * 2 * numel:
        pytest.skip(f"needs {5 * 2 * numel / 1e9:.0f} GB of GPU memory; {free / 1e9:.0f} are free")
    x = torch.zeros(numel, dtype=torch.bfloat16, device="cuda")
    x[-1], x[2**31 + 1] = 3, -1
    x.requires_grad_()
    target = torch.zeros(1, dtype=torch.bfloat16, device="cuda").expand(numel)
    loss = ops.feature_l1([x], [target], impl=impl)
    assert abs(loss.item() * numel - 4) < 1e-3
    (gradient,) = torch.autograd.grad(loss * numel, x)
    assert gradient[-1] == 1
    assert gradient[2**31 + 1] == -1
    assert gradient.count_nonzero() == 2
    del gradient
    with torch.no_grad():
        wide = x.detach().view(-1, 64, 32, 4)
        y = ops.norm_act(wide, None, None, impl=impl)
        tail = reference.norm_act(wide[-1:].float(), None, None, *_statistics(wide), training=False)
        assert error(y[-1:].float(), tail) < 1e-2


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    channels = [x[:, c].float() for c in range(x.shape[1])]
    return torch.stack([c.mean() for c in channels]), torch.stack([c.var(unbiased=False) for c in channels])


@pytest.mark.slow
def test_compute_sanitizer_finds_nothing(impl):
    checker = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if checker is None:
        pytest.skip("compute-sanitizer is not installed")
    code = f"""
import torch
from igan_fast import ops
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    for shape in ((3, 5, 7, 9), (2, 64, 8, 8), (33, 17), (2, 8, 2, 2), (1, 3, 130)):
        x = torch.randn(shape, device="cuda", dtype=dtype).requires_grad_()
        last = x.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
        film = torch.randn(shape[0], 2 * shape[1] + 3, device="cuda")
        film = film.double() if dtype == torch.float64 else film
        for side in (x, last):
            for scaled in (None, film[:, 1:-2].detach().requires_grad_()):
                y = ops.norm_act(side, None, None, film=scaled, impl="{impl}")
                loss = ops.feature_l1([y, side], [x.detach(), torch.ones_like(x)], impl="{impl}")
                loss.backward()
torch.cuda.synchronize()
"""
    command = [checker, "--error-exitcode", "9", "--tool", "memcheck", sys.executable, "-c", code]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]

"""Tests that need a CUDA device: streams, a second device, CUDA graphs, sizes beyond 2³¹, compute-sanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys

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


def step(x: Tensor, target: Tensor, weight: Tensor, kept: tuple[Tensor, Tensor], impl: str) -> tuple[Tensor, ...]:
    """Normalisation and loss, with gradients."""
    y = ops.norm_act(x, weight, None, *kept, impl=impl)
    loss = ops.feature_l1([y, x], [target, target * 2], impl=impl)
    return (loss.detach(), *torch.autograd.grad(loss, (x, weight)))


def inputs(device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    x = torch.randn(8, 64, 16, 16, device=device).to(dtype, memory_format=torch.channels_last).requires_grad_()
    weight = torch.rand(64, device=device, requires_grad=True)
    kept = torch.zeros(64, device=device), torch.ones(64, device=device)
    return x, torch.randn_like(x), weight, kept


def test_runs_on_the_current_stream(impl):
    """After a slow kernel on the stream: on another stream the inputs would still be zero."""
    stream = torch.cuda.Stream()
    x, target, weight, kept = inputs("cuda")
    expected = step(x, target, weight, kept, impl)
    late = torch.zeros_like(x).requires_grad_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        with torch.no_grad():
            late.copy_(x)
        actual = step(late, target, weight, kept, impl)
    stream.synchronize()
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_runs_on_the_tensors_device(impl):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    x, target, weight, kept = inputs("cuda:1")
    with torch.cuda.device(0):
        actual = step(x, target, weight, kept, impl)
    assert all(t.device == torch.device("cuda:1") for t in actual)
    assert error(actual[0], reference.feature_l1([reference.norm_act(x, weight, None), x], [target, target * 2])) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_replays_it(impl, dtype):
    x, target, weight, kept = inputs("cuda", dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(x, target, weight, kept, impl)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(x, target, weight, kept, impl)
    for _ in range(3):
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
            kept[0].zero_(), kept[1].fill_(1)
        graph.replay()
        replayed = [t.clone() for t in captured], kept[0].clone()
        kept[0].zero_(), kept[1].fill_(1)
        expected = step(x, target, weight, kept, impl)
        assert all(torch.equal(a, e) for a, e in zip(replayed[0], expected, strict=True))
        assert torch.equal(replayed[1], kept[0])


def test_nothing_waits_for_the_device(impl):
    x, target, weight, kept = inputs("cuda")
    step(x, target, weight, kept, impl)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, target, weight, kept, impl)
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
        for side in (x, last):
            y = ops.norm_act(side, None, None, impl="{impl}")
            loss = ops.feature_l1([y, side], [x.detach(), torch.ones_like(x)], impl="{impl}")
            loss.backward()
torch.cuda.synchronize()
"""
    command = [checker, "--error-exitcode", "9", "--tool", "memcheck", sys.executable, "-c", code]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]

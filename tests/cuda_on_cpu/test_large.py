"""Offsets beyond 2³¹. The tensors have so many elements, but memory only where the test or a block touches them: one
block of each launch runs, the one with the largest offsets."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from igan_fast.ops import backend

LIMIT = 2**31
PERTURB = -6  # M_PERTURB of mallopt, which tests/unwritten.py sets: it would touch all of the memory


@pytest.fixture(autouse=True)
def untouched_memory() -> Iterator[None]:
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(PERTURB, 0)
    yield
    libc.mallopt(PERTURB, 256)


def half(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float16)


def flat(x: Tensor) -> Tensor:
    """The elements in the order of the memory."""
    return torch.as_strided(x, (x.numel(),), (1,))


#: x, and which block has its largest offsets: in apply and gradient the first one is at the end of a channel.
NORMS = {
    "contiguous": lambda: (half(1, 9, 2**28 + 8), -1, 8 * (2**28 + 8)),
    "channels_last": lambda: (half(2**28 + 64, 8).t()[None], 1, LIMIT + 512 - 800),
    "channels_last, no vectors": lambda: (half(2**28, 9).t()[None], 1, 9 * 2**28 - 900),
}


@pytest.mark.parametrize("case", NORMS)
def test_norm_act(runtime: ctypes.CDLL, case: str) -> None:
    x, blocks, first = NORMS[case]()
    channels, count = x.shape[1], 800
    where = torch.arange(first, first + count)
    assert LIMIT - 400 < first < x.numel() - count + 1
    channel = where // x.shape[2] if x.is_contiguous() else where % channels
    grad = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    values, upstream = torch.randn(2, count).to(x.dtype)
    flat(x)[where], flat(grad)[where] = values, upstream
    weight, bias, mean = torch.randn(3, channels)
    var = torch.rand(channels) + 0.5
    runtime.cuda_on_cpu_set_blocks(blocks)
    ops = getattr(torch.ops, backend.NATIVE)

    y = ops.norm_act_inference(x, weight, bias, mean, var, 1e-5, 0.2)
    scale = weight * (var + 1e-5).rsqrt()
    z = (values.float() - mean[channel]) * scale[channel] + bias[channel]
    assert (flat(y)[where] - nn.functional.leaky_relu(z, 0.2)).abs().max() < 1e-2
    del y
    dx, *_ = ops.norm_act_backward(grad, x, weight, bias, mean[None], var[None], 1e-5, 0.2, False)
    expected = upstream.float() * torch.where(z > 0, 1.0, 0.2) * scale[channel]
    assert (flat(dx)[where] - expected).abs().max() < 1e-2


@pytest.mark.parametrize("layout", ["both alike", "one transposed"])
def test_feature_l1(runtime: ctypes.CDLL, layout: str) -> None:
    rows, columns = (1, LIMIT + 2077) if layout == "both alike" else (2, 2**30 + 1077)
    fake = half(rows, columns)
    real = half(rows, columns) if layout == "both alike" else half(columns, rows).t()
    count = 600  # of the last elements of the last row
    fakes, reals = torch.randint(3, (2, count)).to(torch.float16)
    fake[-1, -count:], real[-1, -count:] = fakes, reals
    runtime.cuda_on_cpu_set_blocks(-1)
    ops = getattr(torch.ops, backend.NATIVE)
    _, signs = ops.feature_l1([fake], [real], [1.0], True)
    del fake, real
    (gradient,) = ops.feature_l1_backward(torch.ones(()), signs, [rows * columns], [0], [0.5], torch.float16)
    assert torch.equal(gradient[-count:], 0.5 * (fakes - reals).sign())

"""No result depends on the order of the threads between two barriers, nor on that of the blocks: there is no race."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from oracles import LAYOUTS
from torch import Tensor

from igan_fast.ops import backend

ORDERS = (1, 7, 99)

#: Both layouts with and without whole vectors, one and several segments, a group and several.
SHAPES = [((4, 8, 5, 8), 1), ((6, 5, 7, 9), 3), ((2, 40, 30, 30), 2), ((2, 3, 90, 90), 1), ((30, 33), 1)]


def norm_act(x: Tensor, groups: int, film: Tensor | None) -> Iterator[Tensor]:
    channels = x.shape[1]
    weight, bias = torch.randn(2, channels, generator=torch.Generator().manual_seed(1))
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x.dtype)
    grad = torch.empty_like(x).copy_(grad)
    ops = getattr(torch.ops, backend.NATIVE)
    y, mean, var = ops.norm_act(x, weight, bias, 1e-5, 0.2, groups, film)
    running = torch.zeros(channels), torch.ones(channels)
    ops.norm_act_update(*running, mean, var, 10, 0.1)
    yield from (y, mean, var, *running)
    for batch_statistics in (True, False):
        yield from ops.norm_act_backward(grad, x, weight, bias, mean, var, 1e-5, 0.2, batch_statistics, film)


@pytest.mark.parametrize("filmed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
def test_norm_act(
    runtime: ctypes.CDLL, shape: tuple[int, ...], groups: int, layout: str, dtype: torch.dtype, filmed: bool
) -> None:
    torch.manual_seed(0)
    x = LAYOUTS[layout](torch.randn(shape).to(dtype))
    film = torch.randn(shape[0], 2 * shape[1]) if filmed else None
    first = [*norm_act(x, groups, film)]
    for order in ORDERS:
        runtime.cuda_on_cpu_set_order(order)
        assert all(torch.equal(a, b) for a, b in zip(first, norm_act(x, groups, film), strict=True)), order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_feature_l1(runtime: ctypes.CDLL, layout: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ops = getattr(torch.ops, backend.NATIVE)
    shapes = [(3, 7, 50, 41), (400_000,), (5,)]  # the second has a block for the threads of more than one warp
    fakes, reals = zip(*((torch.randn(s).to(dtype), torch.randn(s).to(dtype)) for s in shapes), strict=True)
    reals = (LAYOUTS[layout](reals[0]), *reals[1:])
    numels = [fake.numel() for fake in fakes]
    offsets = [sum((n + 63) // 64 * 16 for n in numels[:i]) for i in range(len(numels))]

    def results() -> list[Tensor]:
        loss, signs = ops.feature_l1([*fakes], [*reals], [1.0, 0.5, 2.0], True)
        return [loss, *ops.feature_l1_backward(torch.ones(()), signs, numels, offsets, [0.1] * len(shapes), dtype)]

    first = results()
    for order in ORDERS:
        runtime.cuda_on_cpu_set_order(order)
        assert all(torch.equal(a, b) for a, b in zip(first, results(), strict=True)), order

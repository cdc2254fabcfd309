"""Sums of the parts' gradients in one process. ``test_step`` compares several processes with one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from igan_fast.distributed.gradients import OrderedSum, OverlappedSum
from igan_fast.distributed.process import Process

KINDS = (OverlappedSum, OrderedSum)


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, 3))
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def parts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bucket_bytes", [1, 500, 2**20])
def test_the_gradients_of_all_parts_are_added(kind: type, bucket_bytes: int) -> None:
    net = network()
    sums = kind(net.parameters(), Process(), bucket_bytes)
    for _ in range(2):  # what an earlier sum has left does not count
        sums.begin(passes=3)
        for x in parts():
            net(x).square().sum().backward()
            sums.end_part()
        sums.finish()
    expected = network()
    sum(expected(x).square().sum() for x in parts()).backward()
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
        assert ours.grad.stride() == ours.stride()


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_without_a_gradient_has_the_sum_zero(kind: type) -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    sums = kind([used, unused], Process())
    sums.begin(passes=1)
    used.sum().backward()
    sums.end_part()
    sums.finish()
    assert used.grad.tolist() == [1, 1]
    assert unused.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_several_dtypes_are_summed(kind: type) -> None:
    single, double = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).double())
    sums = kind([single, double, nn.Parameter(torch.ones(1))], Process())
    sums.begin(passes=1)
    (single.sum() + double.sum()).backward()
    sums.end_part()
    sums.finish()
    assert (single.grad.dtype, double.grad.dtype) == (torch.float32, torch.float64)


def test_no_parameters_are_no_error() -> None:
    for kind in KINDS:
        sums = kind([], Process())
        sums.begin(passes=1)
        sums.end_part()
        sums.finish()


def test_outside_of_a_sum_gradients_are_as_usual() -> None:
    parameter = nn.Parameter(torch.ones(2))
    OverlappedSum([parameter], Process())
    parameter.sum().backward()
    assert parameter.grad.tolist() == [1, 1]


def test_the_order_of_a_sum_is_that_of_the_parts() -> None:
    """1e8 + 1 − 1e8 is 0 in float32, and 1 in another order."""
    parameter = nn.Parameter(torch.zeros(1))
    sums = OrderedSum([parameter], Process())
    for order, expected in (((1e8, 1.0, -1e8), 0.0), ((1e8, -1e8, 1.0), 1.0)):
        sums.begin(passes=3)
        for value in order:
            (parameter * value).sum().backward()
            sums.end_part()
        sums.finish()
        assert parameter.grad.tolist() == [expected]

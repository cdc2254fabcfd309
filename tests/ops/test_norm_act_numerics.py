"""norm_act's statistics for data that loses digits or is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from norm_act_cases import arguments, run
from oracles import LAYOUTS, TWO_LAYOUTS, error
from torch import Tensor, nn

from igan_fast import ops
from igan_fast.reference import ops as reference


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mean", [1e4, -1e4])
def test_data_far_from_zero(place, layout, mean):
    """Mean 1e4 and std 1, for which E[x²] − E[x]² in float32 has no correct digit."""
    shape = (4, 3, 16, 16) if place.interpreted else (16, 3, 64, 64)
    x = LAYOUTS[layout]((torch.randn(shape) + mean).to(place.device))
    _, means, variances = place.ops.norm_act(dense(x), None, None, 1e-5, 1.0, 1)
    exact = x.double()
    assert error(means[0], exact.mean((0, 2, 3))) < 1e-7
    assert error(variances[0], exact.var((0, 2, 3), unbiased=False)) < 1e-5


def dense(x: Tensor) -> Tensor:
    from igan_fast.ops.norm_act import dense as as_the_kernels_take_it

    return as_the_kernels_take_it(x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_an_outlier_among_many(place, layout):
    """The statistics are not shifted by a single value, such as the first one."""
    x = torch.randn(2, 3, 40, 40, device=place.device)
    x[0, :, 0, 0] = 1e6
    x[1, 1] += 500
    x = LAYOUTS[layout](x)
    _, means, variances = place.ops.norm_act(x, None, None, 1e-5, 1.0, 1)
    exact = x.double()
    allowed = 1e-4 if place.interpreted else 1e-5  # the interpreter adds a thousand numbers one after the other
    assert error(means[0], exact.mean((0, 2, 3))) < 1e-6
    assert error(variances[0], exact.var((0, 2, 3), unbiased=False)) < allowed


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_drift_through_the_batch(native, layout):
    """The mean of each block is far from that of the one before."""
    x = torch.randn(64, 32, 16, 16, device=native.device) + 100 * torch.arange(64, device=native.device).view(
        64, 1, 1, 1
    )
    x = LAYOUTS[layout](x)
    _, means, variances = native.ops.norm_act(x, None, None, 1e-5, 1.0, 64)
    exact = x.double()
    assert error(means, exact.mean((2, 3))) < 1e-6
    assert error(variances, exact.var((2, 3), unbiased=False)) < 1e-4
    _, means, variances = native.ops.norm_act(x, None, None, 1e-5, 1.0, 1)
    assert error(variances[0], exact.var((0, 2, 3), unbiased=False)) < 1e-6


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_constant_channels(place, layout):
    x = LAYOUTS[layout](torch.full((4, 5, 6, 6), 0.1, device=place.device)).requires_grad_()
    weight, bias = torch.ones(5, device=place.device), torch.arange(5.0, device=place.device) - 2
    y = ops.norm_act(x, weight, bias, impl=place.impl)
    expected = nn.functional.leaky_relu(bias, 0.2).view(1, 5, 1, 1).expand_as(x)
    assert (y - expected).abs().max() < 1e-4  # the computed mean of a constant may differ in its last two bits


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layout", TWO_LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_nan_and_infinity_travel(place, bad, layout, training):
    """They spread to the result, the gradient and the running statistics of their own channel only."""
    x, weight, bias, grad = arguments((3, 4, 5, 5), torch.float32, place)
    with torch.no_grad():
        x[1, 2, 3, 3] = bad
    x = LAYOUTS[layout](x.detach()).requires_grad_()
    options = {"statistics": True, "training": training}
    actual = run(ops.norm_act, x, weight, bias, grad, impl=place.impl, **options)
    # On the CPU: PyTorch's batch norm for GPUs treats infinities differently.
    on_cpu = [t.detach().cpu().requires_grad_(t.requires_grad) for t in (x, weight, bias, grad)]
    expected = run(reference.norm_act, *on_cpu, **options)
    for a, e in zip(actual, expected, strict=True):
        assert error(a, e) < 1e-5

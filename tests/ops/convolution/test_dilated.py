"""Dilated convolutions as convolutions of interleaved images, and their gradients, against PyTorch in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch import Tensor
from winograd_runs import take_winograd

from igan_fast.ops import backend
from igan_fast.ops.convolution import (
    ConvSettings,
    InputSpec,
    choice,
    convolve,
    dispatch,
    gradients,
    plan_of,
)

pytestmark = pytest.mark.skipif(not backend.has_native_cpu(), reason="only the extension has these kernels")

#: Batch, input channels, height, width, output channels, dilation, padding.
SHAPES = [
    (2, 128, 20, 23, 128, 2, 2),
    (1, 128, 22, 22, 160, 2, 0),
    (1, 130, 31, 20, 128, 3, 3),
    (2, 128, 17, 16, 128, 2, 4),
    (1, 128, 5, 6, 128, 2, 0),
    (1, 128, 4, 9, 128, 4, 4),
]


@pytest.fixture(autouse=True)
def our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    take_winograd(monkeypatch)


def given(shape) -> tuple[Tensor, Tensor, ConvSettings]:
    batch, c_in, height, width, c_out, dilation, padding = shape
    settings = ConvSettings.cached(2, padding=padding, dilation=dilation)
    return torch.randn(batch, c_in, height, width), torch.randn(c_out, c_in, 3, 3) * 0.1, settings


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_torch_in_float64(shape, layout):
    x, weight, settings = given(shape)
    x, bias = x.contiguous(memory_format=layout), torch.randn(weight.shape[0])
    assert plan_of(x, weight, bias, settings, 0.2).implementation.name == "dilated"
    plain = F.conv2d(x.double(), weight.double(), bias.double(), 1, settings.padding, settings.dilation)
    for slope in (0.2, 0.0, 1.0):
        y = convolve(x, weight, bias, settings, slope)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert error(y, F.leaky_relu(plain, slope)) < 1e-5
    grad = torch.randn(plain.shape).contiguous(memory_format=layout)
    with torch.no_grad():
        problem = dispatch.problem_of(x, weight, None, settings)
        assert {each.name for each in choice.gradient_plan_for(problem)[2:]} == {"dilated"}
        found = gradients(grad, x, weight, settings, InputSpec.of(x), needs_input=True, needs_weight=True)
    expected = torch.ops.aten.convolution_backward(
        grad.double(), x.double(), weight.double(), None, *settings.arguments, (True, True, False)
    )
    for a, e in zip(found, expected[:2], strict=True):
        assert error(a, e) < 1e-5
    assert found[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_stays_in_its_image_and_reaches_all_that_it_should(bad):
    x, weight, settings = given((2, 128, 24, 24, 128, 2, 2))
    x[1, 3, 5, 6] = bad
    y, expected = (f(x, weight, None) for f in (lambda *a: convolve(*a, settings), lambda *a: F.conv2d(*a, 1, 2, 2)))
    assert not y[~expected.isfinite()].isfinite().any()
    assert y[0].isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        {"dilation": 1, "padding": 1},
        {"dilation": (2, 1)},
        {"padding": 1},
        {"stride": 2},
        {"groups": 2},
        {"native": False},
        {"padding": 6},  # more than the filter reaches
    ],
    ids=str,
)
def test_where_it_does_not_apply(change: dict[str, Any]):
    x, weight, _ = given((1, 256, 12, 12, 128, 2, 2))
    settings = ConvSettings(2, **{"padding": 2, "dilation": 2, **change})
    weight = weight[:, : 256 // settings.groups]
    plan = plan_of(x, weight, None, settings)
    assert plan.implementation.name != "dilated"
    found = plan.run(x, weight, None, 1.0)
    assert error(found, torch.ops.aten.convolution(x.double(), weight.double(), None, *settings.arguments)) < 1e-5


def test_few_channels_are_left_to_pytorch():
    x, weight, settings = given((1, 64, 24, 24, 128, 2, 2))
    assert plan_of(x, weight, None, settings).implementation.name == "pytorch"


def test_a_dilated_transposed_convolution_is_pytorchs():
    x, weight, _ = given((1, 128, 12, 12, 128, 2, 2))
    settings = ConvSettings.cached(2, padding=2, dilation=2, transposed=True)
    assert plan_of(x, weight, None, settings).implementation.name == "pytorch"

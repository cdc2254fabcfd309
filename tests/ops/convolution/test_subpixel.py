"""The sub-pixel form of transposed convolutions, and of the input gradients of convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import error

from igan_fast.ops.convolution import ConvSettings, InputSpec, convolve, gradients, plan_of

#: Kernel, stride, padding, output padding, and whether there is a sub-pixel form.
FORMS = [
    (5, 2, 2, 1, True),
    (4, 2, 1, 0, True),
    (3, 1, 1, 0, True),
    (6, 2, 2, 0, True),
    (9, 3, 3, 0, True),
    (3, 2, 1, 1, False),
    (5, 2, 1, 0, False),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "output_padding", "has_form"), FORMS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_equals_the_transposed_convolution(kernel, stride, padding, output_padding, has_form, channels):
    """Values and gradients, in float64; also where another implementation is taken."""
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(channels, dtype=torch.float64, requires_grad=True)
    settings = ConvSettings(2, transposed=True, stride=stride, padding=padding, output_padding=output_padding)
    for shift in (None, bias):
        plan = plan_of(x, weight, shift, settings, differentiable=True)
        assert (plan.implementation.name == "subpixel") == (has_form and channels <= 4)
        actual = convolve(x, weight, shift, settings, differentiable=True)
        expected = F.conv_transpose2d(x, weight, shift, stride, padding, output_padding)
        assert error(actual, expected) < 1e-12
        grad = torch.randn_like(expected)
        leaves = (x, weight) if shift is None else (x, weight, bias)
        for a, e in zip(*(torch.autograd.grad(y, leaves, grad) for y in (actual, expected)), strict=True):
            assert error(a, e) < 1e-12


@pytest.mark.parametrize(("kernel", "stride", "padding", "_output_padding", "_has_form"), FORMS)
@pytest.mark.parametrize("size", [(9, 12), (10, 12), (9, 13), (10, 10)])
@pytest.mark.parametrize("needs_weight", [False, True])
def test_equals_the_input_gradient(kernel, stride, padding, _output_padding, _has_form, size, needs_weight):
    """Where the convolution leaves rows and columns out, and where it leaves as many or not as many of both."""
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight, None, stride, padding)
    grad = torch.randn_like(y)
    settings = ConvSettings(2, stride=stride, padding=padding)
    found = gradients(
        grad,
        x if needs_weight else None,
        weight,
        settings,
        InputSpec.of(x),
        needs_input=True,
        needs_weight=needs_weight,
    )
    expected = torch.autograd.grad(y, (x, weight), grad)
    assert error(found[0], expected[0]) < 1e-12
    if needs_weight:
        assert error(found[1], expected[1]) < 1e-12
    else:
        assert found[1] is None

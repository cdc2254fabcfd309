"""Which implementation computes a convolution, and the gradients where some are not needed."""

from __future__ import annotations

import pytest
import torch
from oracles import error

from igan_fast.ops import backend, conv_norm_act
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, InputSpec, gradients, plan_of

OPERATORS = {
    "conv_act": lambda x, weight: conv_act(x, weight, None),
    "conv_norm_act": lambda x, weight: conv_norm_act(x, weight, None, None),
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_frozen_weights_change_neither_the_gradient_nor_its_layout(operator, dtype, layout):
    x = torch.randn(4, 8, 12, 10, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(9, 8, 5, 5, dtype=dtype, requires_grad=True)
    learning, frozen = (torch.autograd.grad(operator(x, w).pow(2).sum(), x)[0] for w in (weight, weight.detach()))
    assert learning.is_contiguous(memory_format=layout)
    assert frozen.stride() == learning.stride()
    assert error(frozen, learning) < 1e-6


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("frozen", [False, True])
def test_our_own_convolution_gives_the_gradient_in_the_layout_of_x(operator, layout, frozen):
    x = torch.randn(4, 32, 16, 16).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(32, 32, 5, 5, requires_grad=not frozen)
    plan = plan_of(x, weight, None, ConvSettings(2, stride=2, padding=2))
    assert plan.implementation.own_kernels == backend.has_native_cpu()
    (gradient,) = torch.autograd.grad(operator(x, weight).pow(2).sum(), x)
    assert gradient.stride() == x.stride()


def test_a_gradient_that_is_not_needed_is_not_computed(monkeypatch):
    settings = ConvSettings(2, stride=2, padding=2)
    grad, x, weight = torch.randn(2, 9, 6, 6), torch.randn(2, 8, 12, 12), torch.randn(9, 8, 5, 5)

    def never(*arguments):
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", never)
    found = gradients(grad, x, weight, settings, InputSpec.of(x), needs_input=False, needs_weight=False)
    assert found == (None, None)

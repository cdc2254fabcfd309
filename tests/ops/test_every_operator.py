"""What holds for every operator: an operator in ``operator_samples.CALLS`` is tested here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operator_samples import CALLS, tensors
from oracles import DTYPES, assert_as_good, error, in_float64
from torch import Tensor
from torch.autograd import forward_ad

from igan_fast import ops
from igan_fast.ops.conv_act import conv_act
from igan_fast.reference import ops as reference

TURNED = (torch.channels_last, torch.float32)
#: Memory formats and dtypes. A native operator may turn float32 in channels_last, whichever implementation computes:
#: that runs with and without the native extension.
FORMS = [
    pytest.param(form, dtype, marks=[pytest.mark.every_build] if (form, dtype) == TURNED else [])
    for form in (torch.contiguous_format, torch.channels_last)
    for dtype in DTYPES
]


def with_gradients(module: Any, name: str, *given: Tensor, **options: Any) -> list[Tensor]:
    """The result, and the gradients of x, w and b: zeros where one has none."""
    y = CALLS[name](module, *given, **options)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y)
    gradients = torch.autograd.grad(y, given, upstream, allow_unused=True, materialize_grads=True)
    return [y, *gradients]


@pytest.mark.parametrize(("form", "dtype"), FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_equals_the_reference(place, name, form, dtype):
    # Contiguous tensors take the interpreter a time for each channel.
    few = {"channels": 5} if place.interpreted and form is torch.contiguous_format else {}
    x, w, b = tensors(place.device, dtype, **few)
    given = [t.requires_grad_() for t in (x.contiguous(memory_format=form), w, b)]
    actual = with_gradients(ops, name, *given, impl=place.impl)
    plain = with_gradients(reference, name, *given)
    exact = in_float64(lambda *t: with_gradients(reference, name, *t), *given)
    assert_as_good(actual, plain, exact, dtype)


@pytest.mark.every_build
@pytest.mark.parametrize("name", CALLS)
def test_same_bits_every_time(place, name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    if place.interpreted:
        pytest.skip("the interpreter runs the parts of a kernel in one order; the tests of norm_act call it twice")
    given = [t.requires_grad_() for t in tensors(place.device)]
    first, again = (with_gradients(ops, name, *given, impl=place.impl) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_compiles_without_a_break(native, name):
    torch._dynamo.reset()
    compiled = torch.compile(lambda *t: CALLS[name](ops, *t, impl="native"), fullgraph=True, backend="aot_eager")
    given = tensors(native.device)
    assert error(compiled(*given), CALLS[name](reference, *given)) < 1e-5
    given = [t.requires_grad_() for t in given]
    assert error(compiled(*given), CALLS[name](reference, *given)) < 1e-5


def convolution_and_activation(module: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    if module is ops:
        return conv_act(x, w, None)
    return torch.nn.functional.leaky_relu(torch.nn.functional.conv2d(x, w, None, 2, 2), 0.2)


@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("name", [*CALLS, "conv_act"])
def test_forward_mode_derivatives_are_the_references(name, needs_gradient):
    """The dispatcher drops tangents silently where no gradient is needed."""
    call = (CALLS | {"conv_act": convolution_and_activation})[name]
    (x, w, b), tangent = tensors(), torch.randn(4, 16, 8, 8)
    x.requires_grad_(needs_gradient)
    found = []
    for module in (ops, reference):
        with forward_ad.dual_level():
            found.append(forward_ad.unpack_dual(call(module, forward_ad.make_dual(x, tangent), w, b)).tangent)
    assert error(*found) < 1e-5
    assert found[1].any()
    assert error(torch.func.jvp(lambda x: call(ops, x, w, b), (x.detach(),), (tangent,))[1], found[1]) < 1e-5

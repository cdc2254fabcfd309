"""conv_norm_act with film, a scale and a shift for each image and channel, against the reference."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from oracles import HALF, assert_as_good, error, in_float64
from torch import Tensor
from winograd_runs import count_winograd

from igan_fast import ops
from igan_fast.reference import ops as reference

# transposed, channels, output channels, size, kernel, stride, padding, output_padding
LAYERS = {
    "D's layer": (False, 5, 6, 8, 5, 2, 2, 0),
    "G's layer": (True, 5, 6, 4, 5, 2, 2, 1),
    "G's layer, wide": (True, 20, 24, 8, 5, 2, 2, 1),  # by our own convolution
    "to few channels": (True, 5, 3, 4, 5, 2, 2, 1),  # by several of PyTorch's operators
    "stride 1": (False, 5, 4, 6, 3, 1, 1, 0),
}


def arguments(layer, dtype, place) -> tuple[list[Tensor], dict]:
    """x, conv_weight, weight, bias and film, which is a part of a wider matrix."""
    transposed, c_in, c_out, size, kernel, stride, padding, output_padding = LAYERS[layer]
    shape = (c_in, c_out) if transposed else (c_out, c_in)
    parameter_dtype = torch.float32 if dtype in HALF else dtype
    x = torch.randn(4, c_in, size, size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    conv_weight = torch.randn(*shape, kernel, kernel, dtype=torch.float64) * 0.1
    weight, bias = torch.randn(2, c_out, dtype=torch.float64)
    tensors = [x.to(place.device, dtype), conv_weight.to(place.device, dtype)]
    tensors += [t.to(place.device, parameter_dtype) for t in (weight, bias)]
    tensors.append(torch.randn(4, 2 * c_out + 3, dtype=torch.float64).to(place.device, parameter_dtype)[:, 1:-2])
    options = {"transposed": transposed, "stride": stride, "padding": padding, "output_padding": output_padding}
    return [t.detach().requires_grad_() for t in tensors], options


def run(function, *tensors: Tensor, gradients: bool = True, **options) -> list[Tensor]:
    """The output, the gradients of what requires one, and the running statistics."""
    x, conv_weight, weight, bias, film = tensors
    generator = torch.Generator().manual_seed(2)
    kept = torch.rand(2, len(weight), generator=generator, dtype=torch.float64).to(weight.device, weight.dtype) + 0.5
    y = function(x, conv_weight, weight, bias, *kept, film=film, **options)
    if not gradients:
        return [y, *kept]
    grad = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype)
    return [y, *torch.autograd.grad(y, [t for t in tensors if t.requires_grad], grad), *kept]


@pytest.mark.parametrize("mode", ["training", "eval", "eval without gradient"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_the_reference(place, layer, mode, groups):
    tensors, options = arguments(layer, torch.float64, place)
    if place.interpreted and (groups == 4 or layer == "G's layer, wide"):
        pytest.skip("slow, and tested with norm_act")
    options |= {"groups": groups, "training": mode == "training"}
    gradients = mode != "eval without gradient"
    with nullcontext() if gradients else torch.no_grad():
        actual = run(ops.conv_norm_act, *tensors, gradients=gradients, impl=place.impl, **options)
        exact = run(reference.conv_norm_act, *tensors, gradients=gradients, **options)
    assert_as_good(actual, exact, exact, torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_float32(native, layer, training):
    """With a LeakyReLU of slope 1: rounding in the convolution does not decide any sign."""
    tensors, options = arguments(layer, torch.float32, native)
    options |= {"training": training, "negative_slope": 1.0}
    actual = run(ops.conv_norm_act, *tensors, impl="native", **options)
    exact = in_float64(lambda *t: run(reference.conv_norm_act, *t, **options), *tensors)
    for index, (a, e) in enumerate(zip(actual, exact, strict=True)):
        assert error(a, e) < 1e-5, index


@pytest.mark.parametrize("layer", ["G's layer", "to few channels"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("film_dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(place, layer, training, film_dtype):
    """As in a network: the convolution runs in bfloat16, and a linear layer returns film in bfloat16."""
    tensors, options = arguments(layer, torch.float32, place)
    tensors[-1] = tensors[-1].detach().to(film_dtype).requires_grad_()
    options |= {"training": training, "negative_slope": 1.0}
    exact = in_float64(lambda *t: run(reference.conv_norm_act, *t, **options), *tensors)
    with torch.autocast(place.device.type, torch.bfloat16):
        actual = run(ops.conv_norm_act, *tensors, impl=place.impl, **options)
        plain = run(reference.conv_norm_act, *tensors, **options)
    for a, p, e in zip(actual, plain, exact, strict=True):
        assert a.dtype == p.dtype
        assert error(a, e) <= max(3 * error(p, e), 0.02)


@pytest.mark.parametrize("frozen", ["all but film", "film", "the convolution"])
@pytest.mark.parametrize("training", [True, False])
def test_frozen_arguments(native, frozen, training):
    tensors, options = arguments("G's layer, wide", torch.float64, native)
    keep = {"all but film": {4}, "film": {0, 1, 2, 3}, "the convolution": {0, 2, 3, 4}}[frozen]
    tensors = [t.detach().requires_grad_(k in keep) for k, t in enumerate(tensors)]
    options |= {"training": training}
    actual = run(ops.conv_norm_act, *tensors, impl="native", **options)
    exact = run(reference.conv_norm_act, *tensors, **options)
    assert_as_good(actual, exact, exact, torch.float64)


@pytest.mark.parametrize("layer", ["D's layer", "G's layer", "to few channels"])
@pytest.mark.parametrize("training", [True, False])
def test_first_and_second_derivatives(native, layer, training):
    """In a random direction each, which is enough to show a wrong derivative."""
    tensors, options = arguments(layer, torch.float64, native)
    x, conv_weight, weight, bias, film = tensors
    tensors = [x[:2, :2, :4, :4], conv_weight[:2, :2], weight[:2], bias[:2], film[:2, :4]]
    tensors = [t.detach().contiguous().requires_grad_() for t in tensors]
    kept = () if training else (torch.rand(2).to(x), torch.rand(2).to(x) + 0.5)

    def function(x, conv_weight, weight, bias, film) -> Tensor:
        affine = weight, bias, *kept
        return ops.conv_norm_act(x, conv_weight, *affine, film=film, training=training, impl="native", **options)

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_is_one_operation_on_our_own_convolution(native, monkeypatch):
    """In training one node computes all. In eval mode without gradients the normalisation is folded into the weight."""
    if native.device.type != "cpu":
        pytest.skip("our own convolution runs on the CPU")
    calls = count_winograd(monkeypatch)
    (x, conv_weight, weight, bias, film), options = arguments("G's layer, wide", torch.float32, native)
    film = film.detach().contiguous().requires_grad_()
    y = ops.conv_norm_act(x, conv_weight, weight, bias, film=film, impl="native", **options)
    assert {type(f).__name__ for f, _ in y.grad_fn.next_functions if f is not None} == {"AccumulateGrad"}
    y.sum().backward()
    assert sorted(calls) == ["convolve", "input_gradient", "weight_gradient"]
    calls.clear()
    kept = torch.rand(24), torch.rand(24) + 0.5
    with torch.no_grad():
        ops.conv_norm_act(x, conv_weight, weight, bias, *kept, film=film, training=False, impl="native", **options)
    assert calls == ["convolve"]


def test_an_empty_batch(place):
    x, conv_weight = torch.randn(0, 2, 4, 4, device=place.device), torch.randn(3, 2, 5, 5, device=place.device)
    kept = torch.zeros(3, device=place.device), torch.ones(3, device=place.device)
    film = torch.ones(0, 6, device=place.device)
    y = ops.conv_norm_act(x, conv_weight, None, None, *kept, film=film, training=False, impl=place.impl)
    assert y.shape == (0, 3, 2, 2)

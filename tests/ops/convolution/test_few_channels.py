"""Convolutions from and to few channels as dense ones, which GPUs take: computed on the CPU, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_as_good, error, in_float64

from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, InputSpec, few_channels, plan_of
from igan_fast.ops.convolution.few_channels import FewChannels
from igan_fast.ops.convolution.plan import Problem

#: Kernel, padding, stride: with an odd number of blocks around the middle one.
FORMS = [(5, 2, 2), (4, 1, 2), (6, 2, 2), (3, 1, 2), (9, 3, 3), (7, 2, 3), (8, 2, 4), (4, 0, 4)]


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(few_channels, "MIN_VALUES", 1)


def problem_of(x, weight, settings, **changes) -> Problem:
    """As of a half-precision convolution on a GPU."""
    given = {
        "settings": settings,
        "native": False,
        "input_shape": x.shape,
        "weight_shape": weight.shape,
        "input_dtype": torch.bfloat16,
        "weight_dtype": torch.bfloat16,
        "device": "cuda",
        "weight_contiguous": True,
        "bias": True,
        "activation": True,
        "differentiable": False,
    }
    return Problem(**(given | changes))


def given_for(form, channels, transposed):
    kernel, padding, stride = form
    output_padding = stride + 2 * padding - kernel if transposed else 0
    if not 0 <= output_padding < stride:
        pytest.skip("no transposed convolution gives a multiple of the size")
    shape = (2, 5, 3, 4) if transposed else (2, channels, 3 * stride, 4 * stride)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(channels if transposed else 5, dtype=torch.float64, requires_grad=True)
    settings = ConvSettings(2, transposed=transposed, stride=stride, padding=padding, output_padding=output_padding)
    if transposed:
        return x, weight, bias, settings, F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    return x, weight, bias, settings, F.conv2d(x, weight, bias, stride, padding)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_equals_the_convolution(form, channels, transposed):
    """Values and gradients, by autograd and by the implementation's own functions."""
    x, weight, bias, settings, expected = given_for(form, channels, transposed)
    implementation, problem = FewChannels(), problem_of(x, weight, settings)
    y = implementation.convolve(problem)(x, weight, bias, 1.0)
    assert error(y, expected) < 1e-12
    assert error(implementation.convolve(problem)(x, weight, None, 1.0), expected - bias.view(-1, 1, 1)) < 1e-12
    assert error(implementation.convolve(problem)(x, weight, bias, 0.2), F.leaky_relu(expected, 0.2)) < 1e-12
    grad = torch.randn_like(expected)
    exact = torch.autograd.grad(expected, (x, weight, bias), grad)
    own = (
        implementation.input_gradient(problem)(grad, weight, InputSpec.of(x)),
        implementation.weight_gradient(problem)(grad, x),
    )
    for found, wanted in zip(
        (*torch.autograd.grad(y, (x, weight, bias), grad), *own), (*exact, *exact[:2]), strict=True
    ):
        assert found.shape == wanted.shape
        assert error(found, wanted) < 1e-12


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_input_gradient_has_the_memory_format_of_x(layout, transposed):
    x, weight, _, settings, y = given_for((5, 2, 2), 3, transposed)
    x = x.detach().contiguous(memory_format=layout)
    gradient = FewChannels().input_gradient(problem_of(x, weight, settings))(
        torch.randn_like(y), weight, InputSpec.of(x)
    )
    assert gradient.stride() == x.stride()


REFUSED = {
    "on the CPU": {"device": "cpu"},
    "float32": {"input_dtype": torch.float32},
    "five channels": {"input_shape": torch.Size((2, 5, 8, 8)), "weight_shape": torch.Size((8, 5, 5, 5))},
    "few on both sides": {"weight_shape": torch.Size((4, 3, 5, 5))},
    "an odd side": {"input_shape": torch.Size((2, 3, 9, 8))},
    "a kernel that is not square": {"weight_shape": torch.Size((8, 3, 5, 4))},
    "one-dimensional": {"input_shape": torch.Size((2, 3, 8)), "weight_shape": torch.Size((8, 3, 5))},
    "stride 1": {"settings": ConvSettings(2, padding=2)},
    "dilation": {"settings": ConvSettings(2, stride=2, padding=4, dilation=2)},
    "two strides": {"settings": ConvSettings(2, stride=(2, 1), padding=2)},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED.keys())
def test_what_it_does_not_take(changes):
    x, weight = torch.empty(2, 3, 8, 8), torch.empty(8, 3, 5, 5)
    taken = problem_of(x, weight, ConvSettings(2, stride=2, padding=2))
    methods = [getattr(FewChannels(), name) for name in ("convolve", "input_gradient", "weight_gradient")]
    assert all(method(taken) is not None for method in methods)
    assert all(method(taken._replace(**changes)) is None for method in methods)


def test_small_problems_are_left_to_cudnn(monkeypatch):
    """Half of D's first layer at 128², with batches of 64 and of 16."""
    monkeypatch.undo()
    settings, weight = ConvSettings(2, stride=2, padding=2), torch.empty(64, 3, 5, 5)
    large, small = (problem_of(torch.empty(n, 3, 128, 128, device="meta"), weight, settings) for n in (64, 16))
    assert FewChannels().convolve(large) is not None
    assert FewChannels().convolve(small) is None


def test_second_derivatives():
    """As a gradient penalty on photos needs them: the input's gradient, differentiated by the weight."""
    x, weight, bias, settings, expected = given_for((5, 2, 2), 3, False)
    run = FewChannels().convolve(problem_of(x, weight, settings))

    def penalty(y):
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, weight, bias))

    for found, wanted in zip(penalty(run(x, weight, bias, 1.0)), penalty(expected), strict=True):
        assert error(found, wanted) < 1e-12


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_on_a_gpu(dtype, transposed):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    options = {"transposed": True, "output_padding": 1} if transposed else {}
    shapes = ((4, 16, 12, 20), (16, 3, 5, 5), (3,)) if transposed else ((4, 3, 24, 40), (16, 3, 5, 5), (16,))
    given = [torch.randn(shape, device="cuda").to(dtype).requires_grad_() for shape in shapes]
    settings = ConvSettings.cached(2, stride=2, padding=2, **options)
    assert plan_of(given[0], given[1], given[2], settings).implementation.name == "few channels"

    def plain(x, weight, bias):
        if transposed:
            return F.leaky_relu(F.conv_transpose2d(x, weight, bias, 2, 2, 1), 0.2)
        return F.leaky_relu(F.conv2d(x, weight, bias, 2, 2), 0.2)

    def with_gradients(function, *tensors):
        y = function(*tensors)
        return [y, *torch.autograd.grad(y, tensors, torch.ones_like(y))]

    ours = with_gradients(lambda *t: conv_act(*t, **options), *given)
    exact = in_float64(lambda *t: with_gradients(plain, *t), *given)
    assert_as_good(ours, with_gradients(plain, *given), exact, dtype)

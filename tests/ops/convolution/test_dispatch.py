"""Which implementation computes a convolution, and the gradients where some are not needed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from winograd_runs import count_winograd

from igan_fast.ops import backend, conv_norm_act
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, InputSpec, choice, convolve, gradients, plan_of, pytorch
from igan_fast.ops.convolution.plan import Implementation

OPERATORS = {
    "conv_act": lambda x, weight: conv_act(x, weight, None),
    "conv_norm_act": lambda x, weight: conv_norm_act(x, weight, None, None),
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_frozen_weights_change_neither_the_gradient_nor_its_memory_format(operator, dtype, layout):
    x = torch.randn(4, 8, 12, 10, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(9, 8, 5, 5, dtype=dtype, requires_grad=True)
    learning, frozen = (torch.autograd.grad(operator(x, w).pow(2).sum(), x)[0] for w in (weight, weight.detach()))
    assert learning.is_contiguous(memory_format=layout)
    assert frozen.stride() == learning.stride()
    assert error(frozen, learning) < 1e-6


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_gradient_of_our_own_convolution_has_the_memory_format_of_x(operator, layout, frozen):
    x = torch.randn(4, 32, 16, 16).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(32, 32, 5, 5, requires_grad=not frozen)
    plan = plan_of(x, weight, None, ConvSettings(2, stride=2, padding=2))
    assert plan.implementation.own_kernels == backend.has_native_cpu()
    (gradient,) = torch.autograd.grad(operator(x, weight).pow(2).sum(), x)
    assert gradient.stride() == x.stride()


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
def test_the_gradient_of_an_image_has_the_sub_pixel_form(operator, monkeypatch):
    x, weight = torch.randn(4, 3, 12, 12, requires_grad=True), torch.randn(9, 3, 5, 5)
    y = operator(x, weight)

    def never(*arguments):
        raise AssertionError("PyTorch's function was called")

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", never)
    y.sum().backward()


def test_a_gradient_that_is_not_needed_is_not_computed(monkeypatch):
    settings = ConvSettings(2, stride=2, padding=2)
    grad, x, weight = torch.randn(2, 9, 6, 6), torch.randn(2, 8, 12, 12), torch.randn(9, 8, 5, 5)

    def never(*arguments):
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", never)
    found = gradients(grad, x, weight, settings, InputSpec.of(x), needs_input=False, needs_weight=False)
    assert found == (None, None)


SETTINGS = {
    "Winograd": ConvSettings.cached(2, stride=2, padding=2),
    "to few channels": ConvSettings.cached(2, transposed=True, stride=2, padding=2, output_padding=1),
}


def name_of_plan(x, weight, bias=None, settings=SETTINGS["Winograd"], negative_slope=1.0, **options) -> str:
    return plan_of(x, weight, bias, settings, negative_slope, **options).implementation.name


def test_settings_of_the_same_arguments_are_the_same_object():
    first = ConvSettings.cached(2, stride=[2, 2], padding=2)
    assert ConvSettings.cached(2, stride=(2, 2), padding=2) is first
    assert ConvSettings.cached(2, stride=(2, 1), padding=2) is not first
    assert ConvSettings.cached(2, stride=2, padding=2, native=False) is not first
    for _ in range(2):
        with pytest.raises(ValueError, match="expected 0 unless transposed"):
            ConvSettings.cached(2, output_padding=1)


def test_a_plan_is_kept():
    x, weight = torch.randn(8, 16, 16, 16), torch.randn(16, 16, 5, 5)
    first = plan_of(x, weight, None, SETTINGS["Winograd"])
    assert plan_of(x.clone(), weight.clone(), None, SETTINGS["Winograd"]) is first
    assert plan_of(x[:4], weight, None, SETTINGS["Winograd"]) is not first
    for kept in (choice._kept, choice._kept_gradients):
        assert kept.cache_info().maxsize


@pytest.mark.skipif(not backend.has_native_cpu(), reason="there are no kernels to choose")
def test_what_differs_from_call_to_call_is_asked_at_each_call(monkeypatch):
    """The same tensors and settings every time, which have a plan already."""
    x, weight = torch.randn(8, 64, 16, 16), torch.randn(64, 64, 5, 5)
    seen = []

    def look(x):
        seen.append(name_of_plan(x, weight))
        return x

    assert name_of_plan(x, weight) == "winograd"
    assert name_of_plan(x, weight, differentiable=True) == "pytorch"
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_DEFAULT", "reference")  # IGAN_FAST_IMPL
        assert name_of_plan(x, weight) == "pytorch"
    with monkeypatch.context() as patch:
        patch.setattr(backend, "has_native_cpu", lambda: False)
        assert name_of_plan(x, weight) == "pytorch"
    torch.vmap(look)(x[None])
    torch.func.grad(lambda x: look(x).sum())(x)
    with FlopCounterMode(display=False):
        look(x)
    with torch.autograd.forward_ad.dual_level():
        look(x)
    with FakeTensorMode(allow_non_fake_inputs=True):
        look(torch.empty(8, 64, 16, 16))
    torch.jit.trace(look, x, check_trace=False)
    look(x.as_subclass(type("Named", (torch.Tensor,), {})))
    look(x.to_sparse())
    assert seen == ["pytorch"] * 8
    assert name_of_plan(x, weight) == "winograd"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert name_of_plan(x, weight) == "winograd"
    torch.set_num_threads(threads)


def test_a_compiler_is_given_pytorchs_functions_alone():
    torch._dynamo.reset()
    image, weight = torch.randn(2, 8, 4, 4), torch.randn(8, 3, 5, 5)
    few = SETTINGS["to few channels"]
    compiled = torch.compile(
        lambda x: convolve(x, weight, None, few) * len(name_of_plan(x, weight, settings=few)),
        backend="aot_eager",
        fullgraph=True,
    )
    assert error(compiled(image), convolve(image, weight, None, few) * len("subpixel")) < 1e-6
    assert name_of_plan(image, weight, settings=few) == "subpixel"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_where_onednn_applies_the_activation(layout):
    """Where there is an activation after many outputs, and not transposed with a contiguous weight."""
    x, bias = torch.randn(2, 8, 256, 256).contiguous(memory_format=layout), torch.randn(9)
    weight = torch.randn(9, 8, 3, 3).contiguous(memory_format=layout)
    settings = ConvSettings.cached(2, padding=1)
    transposed = ConvSettings.cached(2, transposed=True, padding=1)
    assert name_of_plan(x, weight, bias, settings) == "pytorch"
    assert name_of_plan(x, weight, None, settings, 0.2) == "onednn"
    assert name_of_plan(x[:, :, :16], weight, None, settings, 0.2) == "pytorch"
    assert name_of_plan(x, weight, bias, settings, 0.0, differentiable=True) == "pytorch"
    assert name_of_plan(x.double(), weight.double(), bias.double(), settings, 0.2) == "pytorch"
    expected = "pytorch" if layout == torch.contiguous_format else "onednn"
    assert name_of_plan(x, weight[:, :, :1, :1].contiguous(memory_format=layout), bias, settings, 0.2) == expected
    assert name_of_plan(x, weight[:8], bias[:8], transposed, 0.2) == expected
    for slope in (0.2, 0.0, 1.0):
        found = convolve(x, weight, bias, settings, slope)
        assert error(found, F.leaky_relu(F.conv2d(x, weight, bias, 1, 1), slope)) < 1e-5


def test_gradients_in_grad_mode_are_differentiable(monkeypatch):
    runs = count_winograd(monkeypatch)
    settings = SETTINGS["Winograd"]
    x, weight = torch.randn(8, 16, 16, 16, requires_grad=True), torch.randn(16, 16, 5, 5, requires_grad=True)
    grad = torch.randn(8, 16, 8, 8, requires_grad=True)
    arguments = (grad, x, weight, settings, InputSpec.of(x))
    found = gradients(*arguments, needs_input=True, needs_weight=True)
    assert all(t.requires_grad for t in found)
    assert runs == []
    with torch.no_grad():
        again = gradients(*arguments, needs_input=True, needs_weight=True)
    assert runs == (["input_gradient", "weight_gradient"] if backend.has_native_cpu() else [])
    for a, e in zip(again, found, strict=True):
        assert error(a, e) < 1e-5


@pytest.mark.skipif(not backend.has_native_cpu(), reason="conv_norm_act is the reference's")
def test_a_new_implementation_is_one_entry(monkeypatch):
    """Every caller uses it, except where autograd has to record the computation."""
    solved = []

    class Toy(Implementation):
        name = "toy"

        def convolve(self, problem):
            def run(x, weight, bias, negative_slope):
                solved.append(problem.settings.transposed)
                return pytorch.convolve(problem.settings, x, weight, bias, negative_slope)

            return run

    monkeypatch.setattr(choice, "IMPLEMENTATIONS", (Toy(), *choice.IMPLEMENTATIONS))
    monkeypatch.setattr(choice, "_kept", choice._choose)
    x, weight = torch.randn(4, 8, 12, 10, requires_grad=True), torch.randn(9, 8, 5, 5, requires_grad=True)
    for function in OPERATORS.values():
        function(x, weight).pow(2).sum().backward()
    assert solved == [False, False]
    with torch.no_grad():
        folded = conv_norm_act(x, weight, None, None, torch.zeros(9), torch.ones(9), training=False)
    assert solved == [False, False, False]
    expected = F.leaky_relu(F.conv2d(x, weight, None, 2, 2) / (1 + 1e-5) ** 0.5, 0.2)
    assert error(folded, expected) < 1e-5
    convolve(x, weight, None, SETTINGS["Winograd"], differentiable=True)
    assert len(solved) == 3

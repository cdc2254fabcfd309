"""The operators under torch.compile without a graph break, and PyTorch's checks of the dispatcher's operators."""

from __future__ import annotations

import pytest
import torch
from operator_samples import dispatched
from oracles import error
from torch import Tensor

from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.reference import ops as reference

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def leaf(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(shape, device=device).requires_grad_()


def feature_matching(module, x: Tensor, y: Tensor, **options) -> Tensor:
    return module.feature_l1([x * 2, [x.square(), x[:, :2]]], [y, [y, y[:, :2]]], [1, 2, 3], **options)


def block(module, x: Tensor, y: Tensor, **options) -> Tensor:
    """Normalisation in training, in groups and in eval mode; the running statistics are updated in place."""
    mean, var = torch.zeros(x.shape[1], device=x.device), torch.ones(x.shape[1], device=x.device)
    weight, bias = y.mean((0, 2, 3)), y.amax((0, 2, 3))
    h = module.norm_act(x, weight, bias, mean, var, **options)
    h = module.norm_act(h, weight, None, groups=2, **options)
    h = module.norm_act(h, weight, bias, mean, var, training=False, **options)
    return (h * mean.view(1, -1, 1, 1) * var.view(1, -1, 1, 1)).square().sum()


def convolution(module, x: Tensor, y: Tensor, **options) -> Tensor:
    conv_weight = y[:3].flatten()[:75].view(1, 3, 5, 5)
    conv_weight = torch.cat([conv_weight, conv_weight * 2])
    mean, var = torch.zeros(2, device=x.device), torch.ones(2, device=x.device)
    h = module.conv_norm_act(x, conv_weight, None, None, mean, var, **options)
    h = module.conv_norm_act(h, conv_weight, None, None, transposed=True, output_padding=1, **options)
    h = module.conv_norm_act(h, conv_weight, None, None, mean, var, training=False, **options)
    return (h * var.view(1, -1, 1, 1)).square().sum()


@pytest.mark.parametrize("function", [feature_matching, block, convolution])
@pytest.mark.parametrize(("compiler", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_compiles_without_a_break(native, function, compiler, dynamic):
    def ours(x: Tensor, y: Tensor) -> Tensor:
        return function(ops, x, y, impl="native")

    compiled = torch.compile(ours, fullgraph=True, backend=compiler, dynamic=dynamic)
    for batch in (4, 6, 10) if dynamic else (4,):
        x, y = leaf(batch, 3, 8, 8, device=native.device), leaf(batch, 3, 8, 8, device=native.device)
        actual, expected = compiled(x, y), function(reference, x, y)
        assert error(actual, expected) < 1e-5
        for a, e in zip(*(torch.autograd.grad(out, (x, y)) for out in (actual, expected)), strict=True):
            assert error(a, e) < 1e-4


def test_compiles_with_automatic_choice_and_autocast(native):
    def ours(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return convolution(ops, x, y) + feature_matching(ops, x, y)

    x, y = leaf(4, 3, 8, 8, device=native.device), leaf(4, 3, 8, 8, device=native.device)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert error(compiled(x, y), ours(x, y)) < 1e-2


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_a_folded_transposed_convolution_compiles(native, compiler):
    """With more output than input channels: the compiler must not take the one number for the other."""
    x, conv_weight = torch.randn(4, 3, 8, 8, device=native.device), torch.randn(3, 7, 5, 5, device=native.device)
    kept = torch.rand(2, 7, device=native.device)

    def function(module, *tensors: Tensor) -> Tensor:
        options = {"transposed": True, "output_padding": 1, "training": False}
        return module.conv_norm_act(*tensors, None, None, *kept, **options) * 2

    with torch.no_grad():
        compiled = torch.compile(lambda *t: function(ops, *t), fullgraph=True, backend=compiler)
        assert error(compiled(x, conv_weight), function(reference, x, conv_weight)) < 1e-5


def test_compiles_for_inference(native):
    x, y = leaf(4, 3, 8, 8, device=native.device), leaf(4, 3, 8, 8, device=native.device)
    for function in (block, convolution, feature_matching):
        with torch.no_grad():
            compiled = torch.compile(lambda *t, f=function: f(ops, *t), fullgraph=True)
            assert error(compiled(x, y), function(reference, x, y)) < 1e-5


@pytest.mark.parametrize("operator", dispatched(CPU))
def test_opcheck(native, operator):
    if not hasattr(native.ops, operator):
        pytest.skip(f"{operator} has no native kernels")
    for arguments in dispatched(native.device)[operator]:
        torch.library.opcheck(getattr(native.ops, operator).default, arguments)


def test_both_namespaces_have_the_same_schemas():
    """Triton's operators are defined in Python, the native ones in C++."""
    if backend.backends()["native-cpu"] != backend.AVAILABLE or not backend._triton_can_load():
        pytest.skip("only one of the two is loaded")
    namespaces = torch.ops.igan_fast, torch.ops.igan_fast_triton
    compared = 0
    for operator in dispatched(CPU):
        if all(hasattr(namespace, operator) for namespace in namespaces):
            native, triton = (str(getattr(namespace, operator).default._schema) for namespace in namespaces)
            assert triton == native.replace("igan_fast::", "igan_fast_triton::")
            compared += 1
    assert compared >= 6


def test_every_operator_in_triton_has_samples():
    common = pytest.importorskip("igan_fast.ops.triton.common", reason="Triton is not installed")
    assert set(common.OPERATORS) == set(dispatched(CPU))

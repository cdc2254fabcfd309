"""Linear layers by oneDNN or MKL, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_as_good, error

from igan_fast import layers
from igan_fast.ops import linear as module
from igan_fast.ops import linear_limits
from igan_fast.ops.linear import linear
from igan_fast.ops.linear_limits import Limits

needs_onednn = pytest.mark.skipif(not linear_limits.IS_AVAILABLE, reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def always_pays(monkeypatch):
    """oneDNN takes layers of any size."""
    monkeypatch.setattr(module, "limits_of", lambda _: Limits(1, 1, 1, 1))
    monkeypatch.setattr(module, "gains", lambda *_: True)


@pytest.fixture
def products(monkeypatch):
    """The shapes of oneDNN's products."""
    shapes, product = [], module.product

    def recorded(x, weight, bias=None):
        shapes.append((*x.shape, weight.shape[0]))
        return product(x, weight, bias)

    monkeypatch.setattr(module, "product", recorded)
    return shapes


def leaves(shape=(5, 7), outputs=6, dtype=torch.float32, bias=True):
    tensors = torch.randn(shape), torch.randn(outputs, shape[-1]), torch.randn(outputs) if bias else None
    return [None if t is None else t.to(dtype).requires_grad_() for t in tensors]


def results(function, tensors):
    y = function(*tensors)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, wanted, upstream)]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (33, 130), (1, 64), (2, 3, 7), (2, 3, 1, 9)], ids=str)
def test_equals_torch(shape, bias, products):
    tensors = leaves(shape, bias=bias)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    assert_as_good(results(linear, tensors), results(F.linear, tensors), results(F.linear, exact), torch.float32)
    assert len(products) == 3  # forward and both gradients


@needs_onednn
@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_only_what_is_needed_is_computed(frozen, products):
    tensors = [t.requires_grad_(index not in frozen) for index, t in enumerate(leaves())]
    for a, e in zip(results(linear, tensors), results(F.linear, tensors), strict=True):
        assert error(a, e) < 1e-5
    assert len(products) == 1 + (0 not in frozen) + (1 not in frozen)


@needs_onednn
def test_strided_tensors():
    x = torch.randn(7, 10)[:, ::2].t()
    weight, bias = torch.randn(7, 12).t()[::2], torch.randn(12)[::2]
    tensors = [t.detach().requires_grad_() for t in (x, weight, bias)]
    for a, e in zip(results(linear, tensors), results(F.linear, tensors), strict=True):
        assert error(a, e) < 1e-5


def test_float64_and_half_types_are_pytorchs(products):
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        tensors = leaves(dtype=dtype)
        for a, e in zip(results(linear, tensors), results(F.linear, tensors), strict=True):
            assert torch.equal(a, e)
    with torch.autocast("cpu", torch.bfloat16):
        tensors = leaves()
        assert torch.equal(linear(*tensors), F.linear(*tensors))
    assert not products


@needs_onednn
def test_second_derivatives():
    def gradient(function, tensors):
        (first,) = torch.autograd.grad(function(*tensors).sin().sum(), tensors[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), tensors)

    tensors = leaves()
    for a, e in zip(gradient(linear, tensors), gradient(F.linear, tensors), strict=True):
        assert error(a, e) < 1e-5


@needs_onednn
def test_batched_gradients_and_transforms():
    x, weight, bias = leaves()
    upstream = torch.randn(3, 5, 6)
    actual = torch.autograd.grad(linear(x, weight, bias), (x, weight, bias), upstream, is_grads_batched=True)
    expected = torch.autograd.grad(F.linear(x, weight, bias), (x, weight, bias), upstream, is_grads_batched=True)
    for a, e in zip(actual, expected, strict=True):
        assert error(a, e) < 1e-5
    given = [t.detach() for t in (x, weight, bias)]
    for a, e in zip(
        torch.func.vjp(linear, *given)[1](upstream[0]), torch.func.vjp(F.linear, *given)[1](upstream[0]), strict=True
    ):
        assert torch.equal(a, e)


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_and_exported_it_is_pytorchs(monkeypatch):
    """Nothing is decided by sizes, which are unknown there: the results hold for other batches."""
    monkeypatch.undo()  # with the measured limits
    layer, x = layers.Linear(140, 32768, bias=False), torch.randn(2, 140)
    traced = torch.jit.trace(layer, x)
    assert "aten::linear" in str(traced.inlined_graph)
    batch = {"input": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(layer, (x,), dynamic_shapes=batch)
    assert "aten.linear" in str(exported.graph)
    for run in (traced, exported.module()):
        more = torch.randn(5, 140)
        assert torch.equal(run(more), F.linear(more, layer.weight))


@needs_onednn
def test_nan_and_inf_are_where_torch_has_them():
    x, weight, bias = (t.detach() for t in leaves((4, 40), 30))
    x[1, 3], x[2, 5], weight[7, 9] = float("nan"), float("inf"), float("-inf")
    expected = F.linear(x, weight, bias)
    actual = linear(x, weight, bias)
    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.isposinf(), expected.isposinf())
    assert torch.equal(actual.isneginf(), expected.isneginf())


@pytest.mark.parametrize("wrong", [((5, 8), (6, 7), 6), ((5, 7), (6, 7), 5), ((5, 7), (6, 7, 1), 6)], ids=str)
def test_errors_are_pytorchs(wrong):
    x, weight, bias = torch.randn(wrong[0]), torch.randn(wrong[1]), torch.randn(wrong[2])
    with pytest.raises(RuntimeError) as expected:
        F.linear(x, weight, bias)
    with pytest.raises(RuntimeError) as actual:
        linear(x, weight, bias)
    assert str(actual.value) == str(expected.value)


def test_empty_and_single():
    for shape in ((0, 7), (2, 0, 7), (7,)):
        tensors = leaves(shape)
        for a, e in zip(results(linear, tensors), results(F.linear, tensors), strict=True):
            assert torch.equal(a, e)


@needs_onednn
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_module_and_its_state(context, products):
    torch.manual_seed(0)
    ours = layers.Linear(7, 6)
    torch.manual_seed(0)
    plain = torch.nn.Linear(7, 6)
    ours.load_state_dict(plain.state_dict(), strict=True)
    with context():
        x = torch.randn(5, 7)
        assert error(ours(x), plain(x)) < 1e-5
    assert len(products) == 1


@needs_onednn
def test_the_result_may_be_changed_in_place():
    tensors = leaves((2, 3, 7))
    for a, e in zip(
        results(lambda *t: linear(*t).relu_(), tensors), results(lambda *t: F.linear(*t).relu_(), tensors), strict=True
    ):
        assert error(a, e) < 1e-5


@needs_onednn
def test_the_same_bits_each_time():
    tensors = leaves((16, 300), 70)
    first = results(linear, tensors)
    assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, results(linear, tensors), strict=True))


def test_switched_off(monkeypatch, products):
    monkeypatch.setattr(module.backend, "_DEFAULT", "reference")
    tensors = leaves()
    for a, e in zip(results(linear, tensors), results(F.linear, tensors), strict=True):
        assert torch.equal(a, e)
    assert not products


@needs_onednn
@pytest.mark.parametrize("gradients", [True, False], ids=["training", "evaluation"])
def test_the_choice_depends_on_the_sizes_and_on_the_computation(gradients, monkeypatch, products):
    """The limits of each computation decide on it alone. An evaluation has one."""
    limits = {
        "forward": Limits(4, 60, 5, 70),
        "input_gradient": Limits(2, 1, 1, 1 << 62),
        "weight_gradient": linear_limits.NEVER,
    }
    monkeypatch.setattr(module, "limits_of", limits.get)
    forward = {(4, 12, 5): True, (4, 5, 12): True, (3, 12, 5): False, (4, 15, 4): False, (1, 7, 10): True}
    forward |= {(1, 10, 7): False, (1, 5, 12): False}
    for (batch, inputs, outputs), is_ours in forward.items():
        products.clear()
        tensors = leaves((batch, inputs), outputs)
        if gradients:
            results(linear, tensors)
        else:
            with torch.no_grad():
                linear(*tensors)
        expected = [(batch, inputs, outputs)] * is_ours + [(batch, outputs, inputs)] * (gradients and batch >= 2)
        assert products == expected

"""Linear layers with few rows, against PyTorch's in the same dtype and in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_as_good, error

import igan_fast
from igan_fast import layers
from igan_fast.ops import backend, few_rows
from igan_fast.ops.linear import linear

pytestmark = pytest.mark.skipif(not few_rows.gains(1 << 20), reason="only with the extension, on AVX2 or AVX-512")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((1, 140), (2, 64), (3, 515), (4, 1500), (1, 4100), (140,), (2, 2, 70), (1, 1, 1, 64))


@pytest.fixture
def calls(monkeypatch):
    """The dtypes of the layers that the kernel computed."""
    found, multiply = [], few_rows.multiply

    def recorded(x, weight, bias, dtype):
        found.append(dtype)
        return multiply(x, weight, bias, dtype)

    monkeypatch.setattr(few_rows, "multiply", recorded)
    return found


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(few_rows, "MIN_WEIGHTS", 1)
    monkeypatch.setattr(few_rows, "MIN_INPUTS_OF_HALF_TYPES", 1)


def tensors(shape, outputs=70, dtype=torch.float32, bias=True):
    made = torch.randn(shape), torch.randn(outputs, shape[-1]) / shape[-1] ** 0.5, torch.randn(outputs)
    return [t.to(dtype) for t in made[: 3 if bias else 2]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_torch(shape, bias, dtype, calls):
    given = tensors(shape, dtype=dtype, bias=bias)
    exact = F.linear(*(t.double() for t in given))
    assert_as_good([linear(*given)], [F.linear(*given)], [exact], dtype)
    assert calls == [dtype]


@pytest.mark.parametrize("outputs", [1, 2, 3, 5])
@pytest.mark.parametrize("inputs", [1, 2, 15, 17, 1025])
def test_odd_sizes(inputs, outputs, calls):
    given = tensors((2, inputs), outputs)
    exact = F.linear(*(t.double() for t in given))
    assert_as_good([linear(*given)], [F.linear(*given)], [exact], torch.float32)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("frozen", [False, True])
def test_autocast(dtype, frozen, calls):
    given = tensors((2, 300))
    if frozen:
        layer = torch.nn.Linear(300, 70)
        igan_fast.freeze(layer)
        given = [given[0], layer.weight, layer.bias]
    halves = dtype if dtype is not torch.float32 else torch.bfloat16
    with torch.autocast("cpu", halves, enabled=dtype is not torch.float32), torch.no_grad():
        y, expected = linear(*given), F.linear(*given)
    assert y.dtype == expected.dtype == dtype
    exact = F.linear(*(t.detach().to(dtype).double() for t in given))
    assert_as_good([y], [expected], [exact], dtype)
    assert calls == [dtype]


def test_strided_tensors(calls):
    x, weight, bias = torch.randn(90, 3)[::2].t(), torch.randn(60, 45), torch.randn(120)[::2]
    assert error(linear(x, weight, bias), F.linear(x, weight, bias)) < 1e-6
    assert len(calls) == 1
    weight = torch.randn(45, 60).t()
    assert error(linear(x, weight, bias), F.linear(x, weight, bias)) < 1e-6
    assert len(calls) == 1  # PyTorch's


def test_nan_and_inf_are_where_torch_has_them(calls):
    x, weight, bias = tensors((4, 40), 30)
    x[1, 3], x[2, 5], weight[7, 9], weight[8, 39], bias[11] = map(float, ("nan", "inf", "-inf", "nan", "inf"))
    expected, actual = F.linear(x, weight, bias), linear(x, weight, bias)
    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.isposinf(), expected.isposinf())
    assert torch.equal(actual.isneginf(), expected.isneginf())
    assert len(calls) == 1


@pytest.mark.parametrize("leaf", [0, 1, 2])
def test_gradients_are_those_of_torch(leaf, calls):
    given = tensors((2, 64))
    given[leaf].requires_grad_()
    assert torch.equal(*(torch.autograd.grad(f(*given).sum(), given[leaf])[0] for f in (linear, F.linear)))
    assert not calls
    with torch.no_grad():
        assert not linear(*given).requires_grad
    assert len(calls) == 1


def test_rows_and_types_for_others(calls, monkeypatch):
    for x in (torch.randn(5, 64), torch.randn(0, 64), torch.randn(2, 64).double()):
        weight = torch.randn(70, 64, dtype=x.dtype)
        assert error(linear(x, weight), F.linear(x, weight)) < 1e-6
    x, weight = torch.randn(2, 64), torch.randn(70, 64)
    assert torch.equal(torch.func.vmap(linear, (0, None))(x, weight), torch.func.vmap(F.linear, (0, None))(x, weight))
    monkeypatch.setattr(backend, "_DEFAULT", "reference")
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert not calls
    with pytest.raises(RuntimeError, match="same dtype"):
        linear(x, weight.bfloat16())


def test_half_types_of_short_rows_are_pytorchs(monkeypatch):
    monkeypatch.undo()
    x, weight = torch.randn(3, 140).bfloat16(), torch.randn(3000, 140).bfloat16()
    found = []
    monkeypatch.setattr(few_rows, "multiply", lambda *_: found.append(1))
    linear(x, weight)
    assert not found
    linear(x[:2], weight), linear(x.float(), weight.float())
    assert len(found) == 2


def test_the_same_bits_on_any_number_of_threads():
    x, weight, bias = tensors((3, 700), 900)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(linear(x, weight, bias))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_an_image_alone_is_rebuilt_as_in_a_batch(calls):
    torch.manual_seed(0)
    model = igan_fast.IterativeGAN(image_size=32, width=8).eval()
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        together = model.rebuild(images)
        assert not calls
        assert error(model.rebuild(images[:1]), together[:1]) < 1e-5
    assert len(calls) >= 4  # D's source and shared layers, C's, and G's first


def test_compiled_it_is_pytorchs(calls):
    torch._dynamo.reset()
    layer = layers.Linear(64, 70).requires_grad_(False)
    compiled, x = torch.compile(layer, fullgraph=True, backend="aot_eager"), torch.randn(2, 64)
    assert torch.equal(compiled(x), F.linear(x, layer.weight, layer.bias))
    assert not calls


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x, w, b: (x.double(), w.double(), b), "x: expected float32, bfloat16 or float16"),
        (lambda x, w, b: (torch.randn(5, 64), w, b), "1 to 4 rows"),
        (lambda x, w, b: (x, torch.randn(70, 63), b), r"weight: expected \(out, 64\)"),
        (lambda x, w, b: (x, w, b[:3]), r"bias: expected \(70,\)"),
        (lambda x, w, b: (x, w.bfloat16(), b), "one dtype"),
    ],
)
def test_the_operator_checks_its_arguments(wrong, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.igan_fast.linear_few_rows(*wrong(*tensors((2, 64))))


def test_the_fake_operator_has_the_same_output():
    torch.library.opcheck(torch.ops.igan_fast.linear_few_rows, (*tensors((2, 64)),), test_utils="test_faketensor")

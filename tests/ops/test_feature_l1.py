"""feature_l1 against the reference, and against results computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from feature_l1_cases import check, pair, run
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DTYPES, HALF, LAYOUTS, error, in_float64
from torch import Tensor

from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.reference import ops as reference

SHAPES = [(1,), (7,), (64,), (65,), (3, 5), (2, 3, 5, 7), (1, 1, 1, 1), (2, 16, 8, 8), (2, 3, 3, 2, 5), (2, 4095)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(place, shape, dtype):
    fake, real = pair(shape, dtype, place)
    check(place, [fake], [real], [0.7], dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_layouts(place, layout, other, dtype):
    fake, real = pair((2, 3, 5, 4), dtype, place, layout, other)
    check(place, [fake], [real], None, dtype)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("other", ["contiguous", "channels_last"])
def test_large_layouts(native, layout, other):
    """Several blocks per tensor, whose ends lie inside rows."""
    fake, real = pair((3, 65, 33, 17), torch.float32, native, layout, other)
    check(native, [fake], [real], None, torch.float32)


@pytest.mark.every_build
def test_expanded_inputs(place):
    fake = torch.randn(1, 4, 1, device=place.device).requires_grad_()
    real = torch.randn(3, 4, 5, device=place.device)
    actual, expected = (f([fake.expand(3, 4, 5)], [real]) for f in (ops.feature_l1, reference.feature_l1))
    assert error(actual, expected) < 1e-6
    assert error(*(torch.autograd.grad(loss, fake)[0] for loss in (actual, expected))) < 1e-6


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
def test_mixed_dtypes(place, first, second):
    """In one pair and in several: the loss is float64 where one tensor is."""
    fake = torch.randn(40, dtype=torch.float64).to(place.device, first).requires_grad_()
    real = torch.randn(40, dtype=torch.float64).to(place.device, second).requires_grad_()
    other = torch.randn(5, device=place.device).requires_grad_()
    actual = run(ops.feature_l1, [fake, other], [real, other * 2], impl=place.impl)[:3]
    expected = run(reference.feature_l1, [fake, other], [real, other * 2])[:3]
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert error(a, e) <= (1e-6 if a.dtype not in HALF else torch.finfo(a.dtype).eps)


def test_many_pairs_of_different_kinds(place):
    kinds = [((2, 3, 4, 4), torch.float32), ((5,), torch.bfloat16), ((1,), torch.float32), ((2, 70), torch.float16)] * 9
    fakes, reals = zip(*(pair(shape, dtype, place) for shape, dtype in kinds), strict=True)
    weights = [0.5 + 0.1 * i for i in range(len(kinds))]
    actual = run(ops.feature_l1, fakes, reals, weights, impl=place.impl)
    expected = run(reference.feature_l1, fakes, reals, weights)
    for a, e in zip(actual, expected, strict=True):
        assert error(a, e) <= (1e-6 if a.dtype not in HALF else torch.finfo(a.dtype).eps)


def test_nested_sequences(place):
    scales = [
        [torch.randn(2, 3, device=place.device), torch.randn(4, device=place.device)],
        (torch.randn(2, 2, device=place.device),),
    ]
    targets = (
        [torch.randn(2, 3, device=place.device), torch.randn(4, device=place.device)],
        [torch.randn(2, 2, device=place.device)],
    )
    expected = 1 * (scales[0][0] - targets[0][0]).abs().mean() + 2 * (scales[0][1] - targets[0][1]).abs().mean()
    expected = expected + 3 * (scales[1][0] - targets[1][0]).abs().mean()
    assert error(ops.feature_l1(scales, targets, (1, 2, 3), impl=place.impl), expected) < 1e-6
    assert (
        error(ops.feature_l1(scales[0][0], targets[0][0], impl=place.impl), (scales[0][0] - targets[0][0]).abs().mean())
        < 1e-6
    )


def test_one_million_and_three_elements(place):
    fake, real = pair((1_000_003,), torch.float32, place)
    actual = run(ops.feature_l1, [fake], [real], impl=place.impl)
    exact = in_float64(lambda f, r: run(reference.feature_l1, [f], [r]), fake, real)
    assert max(error(a, e) for a, e in zip(actual, exact, strict=True)) < 1e-6


def test_an_empty_pair_is_nan_and_leaves_the_others_gradients(place):
    empty = torch.empty(0, 3, device=place.device, requires_grad=True)
    fake, real = pair((4,), torch.float32, place)
    loss = ops.feature_l1([empty, fake], [torch.empty(0, 3, device=place.device), real], impl=place.impl)
    assert math.isnan(loss.item())
    gradients = torch.autograd.grad(loss, [empty, fake])
    assert gradients[0].shape == (0, 3)
    assert torch.equal(gradients[1], torch.sign(fake - real).detach() / 4)


@pytest.mark.parametrize(
    "values", [(math.nan, 1.0), (math.inf, 1.0), (math.inf, math.inf), (-math.inf, math.inf)], ids=str
)
def test_nan_and_infinity_travel(place, values):
    fake = torch.tensor([values[0], 2.0, 3.0], device=place.device, requires_grad=True)
    real = torch.tensor([values[1], 3.0, 3.0], device=place.device, requires_grad=True)
    actual = run(ops.feature_l1, [fake], [real], impl=place.impl)
    expected = run(reference.feature_l1, [fake], [real])
    assert max(error(a, e) for a, e in zip(actual, expected, strict=True)) < 1e-6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_and_stride(data):
    """Dimensions of any size, in any order in memory, with and without gaps, on either side."""
    if backend.backends()["native-cpu"] != backend.AVAILABLE:
        pytest.skip(backend.backends()["native-cpu"])
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=0, max_size=6))

    def draw_side() -> Tensor:
        order = data.draw(st.permutations(range(len(sizes))))
        steps = [data.draw(st.integers(1, 2)) for _ in sizes]
        wide = torch.randn([sizes[d] * steps[d] for d in order])
        for position, d in enumerate(order):
            wide = wide[(slice(None),) * position + (slice(None, None, steps[d]),)]
        return wide.permute([list(order).index(d) for d in range(len(sizes))]).requires_grad_()

    fake, real = draw_side(), draw_side()
    actual = run(ops.feature_l1, [fake], [real], impl="native")
    expected = run(reference.feature_l1, [fake], [real])
    assert max(error(a, e) for a, e in zip(actual, expected, strict=True)) < 1e-5


@pytest.mark.every_build
def test_nine_dimensions(place):
    fake, real = (torch.randn(1, 2, 1, 2, 2, 1, 2, 2, 2, device=place.device).transpose(1, 4) for _ in range(2))
    real = real.transpose(3, 8)
    fake.requires_grad_()
    actual, expected = (f([fake], [real]) for f in (ops.feature_l1, reference.feature_l1))
    assert error(actual, expected) < 1e-6
    assert error(*(torch.autograd.grad(loss, fake)[0] for loss in (actual, expected))) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast(place, dtype):
    fake, real = pair((4, 9), dtype, place)
    with torch.autocast(place.device.type, torch.bfloat16):
        actual = ops.feature_l1([fake], [real], impl=place.impl)
        assert actual.dtype == torch.float32
    assert error(actual, reference.feature_l1([fake], [real])) < 1e-6


@pytest.mark.parametrize(
    ("fake", "real", "weights", "kind", "message"),
    [
        ([], [], None, ValueError, "hold no tensor"),
        ([1], [2], [1.0, 2.0], ValueError, "weights has 2 numbers for 1 pairs"),
        ([1], [2, 3], None, ValueError, "fake has 1 entries, its real counterpart 2"),
        ([[1, 2]], [[1]], None, ValueError, r"fake\[0\] has 2 entries, its real counterpart 1"),
        ([1], [[1]], None, ValueError, r"fake\[0\] is a tensor on one side"),
        (["x"], [1], None, ValueError, r"fake\[0\] is a tensor on one side"),
        (["x"], [["y"]], None, TypeError, r"fake\[0\] is a str; expected a tensor or a sequence"),
        ([None], [None], None, TypeError, r"fake\[0\] is a NoneType; expected a tensor or a sequence"),
    ],
)
def test_what_does_not_fit_is_refused(place, fake, real, weights, kind, message):
    def fill(entry):
        if isinstance(entry, list):
            return [fill(e) for e in entry]
        return torch.randn(3, device=place.device) if isinstance(entry, int) else entry

    with pytest.raises(kind, match=message):
        ops.feature_l1(fill(fake), fill(real), weights, impl=place.impl)


def test_shapes_and_devices_must_agree(place):
    with pytest.raises(ValueError, match=r"fake\[1\] has shape \(2, 3\), its real counterpart \(3, 2\)"):
        ops.feature_l1([torch.ones(1), torch.ones(2, 3)], [torch.ones(1), torch.ones(3, 2)], impl=place.impl)
    with pytest.raises(ValueError, match="real has a tensor on meta; expected"):
        ops.feature_l1([torch.ones(1, device=place.device)], [torch.ones(1, device="meta")], impl=place.impl)


def test_a_dtype_that_the_kernels_lack(place):
    fake, real = torch.arange(4, device=place.device), torch.zeros(4, dtype=torch.int64, device=place.device)
    assert ops.feature_l1([fake], [real]).item() == 1.5  # auto: the reference
    with pytest.raises(RuntimeError, match=r"impl='\w+' cannot run torch.int64; expected float16"):
        ops.feature_l1([fake], [real], impl=place.impl)

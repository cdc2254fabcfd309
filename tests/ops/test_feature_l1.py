"""feature_l1 against the reference, and against results computed by hand."""

from __future__ import annotations

import math
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DTYPES, HALF, LAYOUTS, assert_as_good, error, in_float64
from torch import Tensor

from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.ops.sign_mask import sign_mask_bytes
from igan_fast.reference import ops as reference

SHAPES = [(1,), (7,), (64,), (65,), (3, 5), (2, 3, 5, 7), (1, 1, 1, 1), (2, 16, 8, 8), (2, 3, 3, 2, 5), (2, 4095)]


def pair(shape, dtype, place, layout="contiguous", other_layout=None):
    sides = []
    for arrange in (layout, other_layout or layout):
        side = torch.randn(shape, dtype=torch.float64).to(place.device, dtype)
        sides.append(LAYOUTS[arrange](side).requires_grad_())
    return sides


def run(function, fakes, reals, weights=None, **options):
    """The loss and the gradient of every side."""
    loss = function(fakes, reals, weights, **options)
    return [loss, *torch.autograd.grad(loss * 3, [*fakes, *reals])]


def check(place, fakes, reals, weights, dtype):
    actual = run(ops.feature_l1, fakes, reals, weights, impl=place.impl)
    plain = run(reference.feature_l1, fakes, reals, weights)
    count = len(fakes)
    exact = in_float64(lambda *t: run(reference.feature_l1, t[:count], t[count:], weights), *fakes, *reals)
    assert_as_good(actual, plain, exact, dtype)


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_have_no_gradient(place, dtype):
    fake = torch.tensor([1.0, -2.0, -0.0, 3.0], dtype=dtype, device=place.device, requires_grad=True)
    real = torch.tensor([1.0, -2.0, 0.0, 2.0], dtype=dtype, device=place.device)
    (gradient,) = torch.autograd.grad(ops.feature_l1([fake], [real], impl=place.impl), fake)
    expected = torch.tensor([0, 0, 0, 0.25], dtype=dtype, device=place.device)
    assert torch.equal(gradient, expected)


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


@pytest.mark.every_build
@pytest.mark.parametrize("upstream", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_travels(place, upstream):
    """At a tie the gradient is ∞ · 0 = NaN, as in PyTorch."""
    fake = torch.tensor([1.0, 2.0], device=place.device, requires_grad=True)
    real = torch.tensor([1.0, 3.0], device=place.device)
    gradients = [
        torch.autograd.grad(f([fake], [real]) * upstream, fake)[0] for f in (ops.feature_l1, reference.feature_l1)
    ]
    assert error(*gradients) < 1e-6


def test_gradients_of_one_side_or_some_pairs(place):
    (f1, r1), (f2, r2) = (pair((3, 4), torch.float32, place) for _ in range(2))
    loss = ops.feature_l1([f1.detach(), f2], [r1, r2.detach()], impl=place.impl)
    gradients = torch.autograd.grad(loss, [r1, f2])
    assert error(gradients[0], -torch.sign(f1 - r1) / 12) < 1e-6
    assert error(gradients[1], torch.sign(f2 - r2) / 12) < 1e-6
    assert not ops.feature_l1([f1.detach()], [r1.detach()], impl=place.impl).requires_grad
    with torch.no_grad():
        assert not ops.feature_l1([f1], [r1], impl=place.impl).requires_grad
    with torch.inference_mode():
        assert error(ops.feature_l1([f1], [r1], impl=place.impl), (f1 - r1).abs().mean()) < 1e-6


def test_the_same_tensor_on_both_sides(place):
    x = torch.randn(5, device=place.device, requires_grad=True)
    loss = ops.feature_l1([x, x], [x, 2 * x.detach()], impl=place.impl)
    (gradient,) = torch.autograd.grad(loss, x)
    assert error(gradient, -torch.sign(x) / 5) < 1e-6


def test_backward_twice_over_a_kept_graph(place):
    fake, real = pair((3, 70), torch.float32, place)
    loss = ops.feature_l1([fake], [real], impl=place.impl)
    first = torch.autograd.grad(loss, [fake, real], retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, [fake, real]), strict=True))


def test_gradient_has_the_memory_format_of_the_fake_side(place):
    fake, real = pair((2, 8, 4, 4), torch.float32, place, "channels_last", "contiguous")
    (gradient,) = torch.autograd.grad(ops.feature_l1([fake], [real], impl=place.impl), fake)
    assert gradient.stride() == fake.stride()


def test_first_and_second_derivatives(place):
    fake = torch.randn(2, 3, 2, dtype=torch.float64, device=place.device, requires_grad=True)
    real = torch.randn(2, 3, 2, dtype=torch.float64, device=place.device, requires_grad=True)

    def squared(f: Tensor, r: Tensor) -> Tensor:
        return ops.feature_l1([f, f * 2], [r, r * r], [1.0, 0.5], impl=place.impl).square()

    assert torch.autograd.gradcheck(squared, (fake, real))
    assert torch.autograd.gradgradcheck(squared, (fake, real))


def test_the_graph_holds_neither_inputs_nor_differences(place):
    """The graph holds the sign mask, two bits per element."""
    fake, real = pair((64, 64), torch.float32, place)
    features = fake * 1
    storage = weakref.ref(features.untyped_storage())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = ops.feature_l1([features], [real], impl=place.impl)
    assert sum(t.numel() * t.element_size() for t in kept) == 64 * 64 // 4
    del features
    assert place.interpreted or storage() is None  # Triton's interpreter itself keeps a reference
    loss.backward()
    assert fake.grad is not None


def test_the_example_of_a_sign_mask(place):
    """The one that igan_fast/ops/sign_mask.py explains."""
    fake, real = (torch.tensor(values, device=place.device) for values in ([5.0, 1.0, 2.0], [3.0, 4.0, 2.0]))
    _, mask = place.ops.feature_l1([fake], [real], [1.0], True)
    assert mask.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    assert mask.numel() == sign_mask_bytes(3)
    for scale, expected in ((1 / 3, [1 / 3, -1 / 3, 0]), (-1 / 3, [-1 / 3, 1 / 3, 0])):
        grad = torch.ones((), device=place.device)
        (gradient,) = place.ops.feature_l1_backward(grad, mask, [3], [0], [scale], torch.float32)
        assert error(gradient, torch.tensor(expected)) < 1e-6


def test_inputs_are_not_changed(place):
    fake, real = pair((3, 100), torch.float32, place)
    before = fake.clone(), real.clone()
    run(ops.feature_l1, [fake], [real], impl=place.impl)
    assert torch.equal(fake, before[0])
    assert torch.equal(real, before[1])


def test_same_bits_every_time(place):
    fakes, reals = zip(*(pair((2, 37, 31), torch.float32, place) for _ in range(3)), strict=True)
    first = run(ops.feature_l1, fakes, reals, impl=place.impl)
    for _ in range(3 if place.interpreted else 20):
        again = run(ops.feature_l1, fakes, reals, impl=place.impl)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_same_bits_on_any_number_of_threads(native, threads):
    fake, real = pair((4, 33, 65, 17), torch.float32, native)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run(ops.feature_l1, [fake], [real]))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_two_threads_at_once(native):
    inputs = [pair((50_000,), torch.float32, native) for _ in range(2)]
    expected = [run(ops.feature_l1, [f], [r]) for f, r in inputs]
    wrong = []

    def work(index: int) -> None:
        for _ in range(20):
            f, r = inputs[index]
            if not all(torch.equal(a, b) for a, b in zip(run(ops.feature_l1, [f], [r]), expected[index], strict=True)):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


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

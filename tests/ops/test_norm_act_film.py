"""norm_act with film, a scale and a shift for each image and channel, against the reference and float64."""

from __future__ import annotations

import math

import pytest
import torch
from norm_act_cases import LAYOUTS_AND_DTYPES, arguments, check, film_for, run, running
from oracles import DTYPES, HALF, LAYOUTS, TWO_LAYOUTS, error, in_float64
from torch import Tensor

from igan_fast import ops
from igan_fast.ops.norm_act import launchable
from igan_fast.reference import ops as reference

SHAPES = [
    (4, 1),
    (5, 3),
    (4, 7, 9),
    (4, 3, 5, 7),
    (3, 17, 1, 1),
    (4, 8, 8, 8),
    (9, 5, 2, 2),
    (2, 4, 3, 2, 5),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(place, shape, dtype, training):
    if place.interpreted and dtype in (torch.float64, torch.float16):
        pytest.skip("takes the interpreter long; test_every_operator has all dtypes")
    given = arguments(shape, dtype, place)
    check(place, *given, dtype, film=film_for(given[0]), statistics=True, training=training)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("layout", "dtype"), LAYOUTS_AND_DTYPES)
def test_any_layout_and_groups(place, layout, groups, dtype):
    if place.interpreted and (groups == 6 or dtype != torch.float32):
        pytest.skip("takes the interpreter long")
    given = arguments((6, 5, 4, 3), dtype, place, layout)
    check(place, *given, dtype, film=film_for(given[0]), statistics=True, groups=groups)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "shape",
    [
        (4, 65, 33, 17),
        (4, 600, 9, 9),
        (2, 2, 200, 190),  # a channel of an image takes several blocks
        (40, 96, 3, 3),
        (34, 513),
        (4, 32, 65, 65),
        (2, 1, 300, 401),
        (128, 3, 5, 1),
        (16, 33, 2, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2])
def test_sizes_of_many_blocks(native, shape, layout, groups):
    """Shapes that blocks, segments and tasks of the kernels do not divide."""
    given = arguments(shape, torch.float32, native, layout)
    check(native, *given, torch.float32, film=film_for(given[0]), groups=groups)


def test_many_groups_of_many_rows(native):
    given = arguments((20, 24, 30, 30), torch.float32, native, "channels_last")
    check(native, *given, torch.float32, film=film_for(given[0]), groups=20)


def test_more_segments_than_are_combined_at_once(place, monkeypatch):
    """As for a large input, but with small tiles."""
    if place.impl != "triton":
        pytest.skip("is about Triton's kernels")
    from igan_fast.ops.triton import norm_act_launches as kernels

    monkeypatch.setattr(kernels, "_TILE", 64)
    monkeypatch.setattr(kernels, "_COMBINE_SEGMENTS", 4)
    given = arguments((2, 3, 10, 13), torch.float32, place, "channels_last")
    assert kernels._tiling(given[0], 2).segments > 4
    check(place, *given, torch.float32, film=film_for(given[0]), groups=1)


@pytest.mark.parametrize("slope", [0.0, 1.0, -0.5, 2.0])
@pytest.mark.parametrize("training", [True, False])
def test_any_slope(place, slope, training):
    given = arguments((4, 3, 5), torch.float32, place)
    check(
        place,
        *given,
        torch.float32,
        film=film_for(given[0]),
        negative_slope=slope,
        training=training,
        statistics=True,
    )


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_ties_at_zero(place, slope, layout):
    """All inputs of the LeakyReLU are 0 in the first channel; in the second every third, because its mean is 0."""
    x, weight, bias, grad = arguments((4, 3, 4, 4), torch.float32, place, layout)
    with torch.no_grad():
        weight[:1], bias[:2] = 0, 0
        x[:2, 1] = torch.arange(32, device=x.device).view(2, 4, 4) % 3 - 1.0
        x[2:, 1] = -x[:2, 1]
    for training in (True, False):
        check(
            place,
            x,
            weight,
            bias,
            grad,
            torch.float32,
            film=film_for(x),
            negative_slope=slope,
            statistics=True,
            training=training,
        )


STRIDES = {
    "contiguous": lambda film: film.contiguous(),
    "transposed": lambda film: film.t().contiguous().t(),
    "every second column": lambda film: torch.stack([film, film + 1], 2).flatten(1)[:, ::2],
    "one row for all images": lambda film: film[:1].expand_as(film),
    "backwards in memory": lambda film: film.flip(0).contiguous().flip(0),
}


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("layout", TWO_LAYOUTS)
def test_film_with_any_strides(place, strides, layout):
    given = arguments((4, 5, 3, 3), torch.float32, place, layout)
    film = STRIDES[strides](film_for(given[0]).detach()).requires_grad_()
    check(place, *given, torch.float32, film=film)


def test_a_row_of_one_matrix_for_several_calls(place):
    """As a linear layer returns the film of all layers at once."""
    (x, *_), (later, *_) = (arguments((4, channels, 3, 3), torch.float64, place) for channels in (5, 3))
    everything = torch.randn(4, 16, dtype=torch.float64, device=place.device, requires_grad=True)

    def gradients(module, **options) -> tuple[Tensor, ...]:
        first, second = everything.split([10, 6], 1)
        y = module.norm_act(x, None, None, film=first, **options).square().sum()
        z = module.norm_act(later, None, None, film=second, **options).pow(3).sum()
        return torch.autograd.grad(y + z, (x, later, everything))

    for a, e in zip(gradients(ops, impl=place.impl), gradients(reference), strict=True):
        assert error(a, e) < 1e-10


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("film_dtype", ["of x", "float32"])
def test_half_types(place, dtype, film_dtype):
    given = arguments((4, 6, 5, 5), dtype, place, "channels_last")
    film = film_for(given[0], dtype if film_dtype == "of x" else torch.float32)
    check(place, *given, dtype, film=film)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_film_may_be_of_a_half_type(place, dtype):
    """As a linear layer returns it."""
    x, weight, bias, grad = arguments((4, 3, 5), dtype, place)
    film = film_for(x, torch.bfloat16)
    with torch.autocast(place.device.type, torch.bfloat16):
        actual = run(ops.norm_act, x, weight, bias, grad, film, impl=place.impl)
        expected = run(reference.norm_act, x, weight, bias, grad, film)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert error(a, e) < (2e-2 if torch.bfloat16 in (dtype, a.dtype) else 1e-5)


@pytest.mark.parametrize("layout", TWO_LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_film_of_zeros_changes_no_bit_of_the_result(place, layout, training):
    x, weight, bias, grad = arguments((6, 5, 9, 7), torch.float32, place, layout)
    options = {"statistics": True, "training": training, "impl": place.impl}
    without = run(ops.norm_act, x, weight, bias, grad, **options)
    (y, dx, dweight, dbias, *kept) = without
    film = torch.zeros(6, 10, device=place.device)
    found = run(ops.norm_act, x, weight, bias, grad, film, **options)
    for a, e in zip([found[0], *found[4:]], [y, *kept], strict=True):
        assert torch.equal(a, e)
    for a, e in zip(found[1:4], (dx, dweight, dbias), strict=True):
        assert error(a, e) < 1e-5


@pytest.mark.parametrize("frozen", ["all but film", "film", "weight and bias"])
def test_frozen_arguments(place, frozen):
    if place.interpreted:
        pytest.skip("takes the interpreter long, and is about Python code that both implementations share")
    x, weight, bias, grad = arguments((4, 3, 5), torch.float32, place)
    film = film_for(x)
    if frozen == "film":
        film = film.detach()
    else:
        weight, bias = weight.detach(), bias.detach()
        x = x.detach() if frozen == "all but film" else x
    for training in (True, False):
        check(place, x, weight, bias, grad, torch.float32, film=film, statistics=True, training=training)
    check(place, x, None, None, grad, torch.float32, film=film)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("slope", [0.2, 0.0])
def test_first_and_second_derivatives(place, training, groups, slope):
    if place.interpreted and (groups == 2 or slope == 0):
        pytest.skip("takes the interpreter long; the other case has the same kernels")
    fast = place.interpreted  # checks one random direction, which is enough to show a wrong derivative
    x, weight, bias, _ = arguments((4, 2, 3), torch.float64, place)
    film, kept = film_for(x), (None, None) if training else running(x)

    def function(x: Tensor, film: Tensor, *affine: Tensor) -> Tensor:
        options = {"training": training, "groups": groups, "negative_slope": slope, "impl": place.impl}
        return ops.norm_act(x, *(affine or (None, None)), *kept, film=film, **options)

    assert torch.autograd.gradcheck(function, (x, film, weight, bias), fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, (x, film, weight, bias), fast_mode=fast)
    if not place.interpreted:
        assert torch.autograd.gradgradcheck(function, (x.detach(), film))
        assert torch.autograd.gradgradcheck(function, (x, film.detach()))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["x", "film", "grad"])
@pytest.mark.parametrize("layout", TWO_LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("slope", [0.2, 0.0])
def test_nan_and_infinity_travel(place, bad, where, layout, training, slope):
    """They spread as in the reference: in eval mode, to the values and sums that they are a part of."""
    if place.interpreted and (slope == 0 or bad == -math.inf):
        pytest.skip("takes the interpreter long")
    x, weight, bias, grad = arguments((3, 4, 5, 5), torch.float32, place)
    film = film_for(x).detach().contiguous()
    with torch.no_grad():
        if where == "film":
            film[1, 2], film[2, 7] = bad, bad
        else:
            {"x": x, "grad": grad}[where][1, 2, 3, 3] = bad
    x, film = LAYOUTS[layout](x.detach()).requires_grad_(), film.requires_grad_()
    options = {"statistics": True, "training": training, "negative_slope": slope}
    actual = run(ops.norm_act, x, weight, bias, grad, film, impl=place.impl, **options)
    # On the CPU: PyTorch's batch norm for GPUs treats infinities differently.
    on_cpu = [t.detach().cpu().requires_grad_(t.requires_grad) for t in (x, weight, bias, grad, film)]
    expected = run(reference.norm_act, *on_cpu, **options)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert error(a, e) < 1e-5, index


@pytest.mark.parametrize("layout", TWO_LAYOUTS)
@pytest.mark.parametrize("spatial", [(5, 5), (1, 1), (4, 4), (3, 11)])
def test_sums_of_infinities_of_one_sign_stay_infinite(place, layout, spatial):
    """Values beside the image, with which a vector is filled up, are no part of its sums."""
    if place.interpreted and spatial != (5, 5):
        pytest.skip("takes the interpreter long")
    x, weight, bias, grad = arguments((3, 4, *spatial), torch.float32, place)
    film = film_for(x).detach().contiguous()
    with torch.no_grad():
        film[1, 2] = math.inf
        grad.abs_()
        weight.fill_(0.01)
        bias.fill_(5.0)  # every value is activated
    x, film = LAYOUTS[layout](x.detach()).requires_grad_(), film.requires_grad_()
    options = {"statistics": True, "training": False, "negative_slope": 0.2}
    actual = run(ops.norm_act, x, weight, bias, grad, film, impl=place.impl, **options)
    on_cpu = [t.detach().cpu().requires_grad_(t.requires_grad) for t in (x, weight, bias, grad, film)]
    expected = run(reference.norm_act, *on_cpu, **options)
    assert any(e.isinf().any() for e in expected[1:])
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert error(a, e) < 1e-5, index


@pytest.mark.parametrize("layout", TWO_LAYOUTS)
def test_same_bits_every_time(place, layout):
    given = arguments((3, 5, 9, 7) if place.interpreted else (6, 5, 21, 17), torch.float32, place, layout)
    film = film_for(given[0])
    first = run(ops.norm_act, *given, film, statistics=True, impl=place.impl)
    for _ in range(2 if place.interpreted else 20):
        again = run(ops.norm_act, *given, film, statistics=True, impl=place.impl)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(8, 48, 33, 33), (2, 3, 200, 100), (256, 64), (64, 32, 4, 4)], ids=str)
def test_same_bits_on_any_number_of_threads(native, threads, layout, shape):
    given = arguments(shape, torch.float32, native, layout)
    film = film_for(given[0])
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run(ops.norm_act, *given, film, statistics=True))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_is_one_operation_that_saves_its_input_once(place, training):
    x, weight, bias, _ = arguments((8, 4, 10), torch.float32, place)
    film = film_for(x).detach().contiguous().requires_grad_()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        y = ops.norm_act(x, weight, bias, *running(x), film=film, training=training, impl=place.impl)
    assert sum(t.numel() for t in kept.values()) == 8 * 4 * 10 + 4 * 4 + 8 * 8  # x; weight, bias, mean, var; film
    inputs = {type(function).__name__ for function, _ in y.grad_fn.next_functions if function is not None}
    assert inputs == {"AccumulateGrad"}


def test_without_film_the_backward_returns_an_empty_gradient_of_it(place):
    x, weight, _, grad = arguments((4, 3, 5), torch.float32, place)
    mean, var = (torch.ones(1, 3, device=place.device) for _ in range(2))
    found = place.ops.norm_act_backward(grad, x.detach(), weight.detach(), None, mean, var, 1e-5, 0.2, False)
    assert [tuple(t.shape) for t in found] == [(4, 3, 5), (3,), (3,), (0,)]


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)])
def test_empty_inputs_do_as_the_reference_does(place, shape):
    x = torch.empty(shape, device=place.device)
    film = torch.ones(shape[0], 6, device=place.device)
    found = [
        function(x, None, None, *running(x), training=False, film=film, **options).shape
        for function, options in ((ops.norm_act, {"impl": place.impl}), (reference.norm_act, {}))
    ]
    assert found == [shape, shape]


@pytest.mark.parametrize(
    ("film", "message"),
    [
        (torch.ones(4, 3), r"film has shape \(4, 3\); expected \(4, 6\), γ and β of each image"),
        (torch.ones(1, 6), r"film has shape \(1, 6\); expected \(4, 6\)"),
        (torch.ones(6), r"film has shape \(6,\); expected \(4, 6\)"),
        (torch.ones(4, 6, dtype=torch.float64), "film is torch.float64 for an x of torch.float32"),
        (torch.ones(4, 6, dtype=torch.bfloat16), "film is torch.bfloat16 for an x of torch.float32"),
        (torch.ones(4, 6, dtype=torch.int64), "film is torch.int64 for an x of torch.float32"),
        (torch.ones(4, 6, device="meta"), "film is on meta; expected"),
    ],
)
def test_what_does_not_fit_is_refused(place, film, message):
    film = film.to(place.device) if film.device.type == "cpu" else film
    x = torch.randn(4, 3, 5, device=place.device)
    with pytest.raises(ValueError, match=message):
        ops.norm_act(x, None, None, film=film, impl=place.impl)
    conv_weight = torch.randn(3, 3, 5, device=place.device)
    with pytest.raises(ValueError, match=message):
        ops.conv_norm_act(x, conv_weight, None, None, film=film, impl=place.impl)


def test_kernels_refuse_a_film_of_the_wrong_shape(native):
    x = torch.randn(4, 3, 5, device=native.device)
    with pytest.raises(RuntimeError, match=r"film: expected \(4, 6\)"):
        native.ops.norm_act(x, None, None, 1e-5, 0.2, 1, torch.ones(4, 5, device=native.device))


def test_a_gpu_treats_each_image_as_a_group():
    cuda = torch.device("cuda")
    shape = (70_000, 3, 4, 4)
    assert launchable("igan_fast", cuda, shape, 1, film=False)
    assert not launchable("igan_fast", cuda, shape, 1, film=True)
    assert launchable("igan_fast_triton", cuda, shape, 1, film=True)
    assert launchable("igan_fast", torch.device("cpu"), shape, 1, film=True)


def test_float64_is_exact_where_values_cancel(native):
    """γ = −1 in one image: its values are β, and its gradients 0."""
    x, weight, bias, grad = arguments((3, 4, 6, 6), torch.float64, native, "channels_last")
    film = film_for(x).detach().contiguous()
    film[1, :4] = -1
    film.requires_grad_()
    actual = run(ops.norm_act, x, weight, bias, grad, film, impl=native.impl)
    exact = in_float64(lambda *t: run(reference.norm_act, *t), x, weight, bias, grad, film)
    for a, e in zip(actual, exact, strict=True):
        assert error(a, e) < 1e-12
    assert torch.equal(actual[0][1], film[1, 4:].view(4, 1, 1).expand(4, 6, 6))

"""norm_act against the reference, PyTorch's modules, and float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_act_cases import LAYOUTS_AND_DTYPES, arguments, check, run, running
from oracles import DTYPES, LAYOUTS, error, in_float64
from torch import Tensor, nn

from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.reference import ops as reference

SHAPES = [
    (4, 1),
    (5, 3),
    (64, 40),
    (4, 3, 1),
    (4, 7, 9),
    (2, 1, 5, 5),
    (4, 3, 5, 7),
    (2, 17, 1, 1),
    (6, 16, 8, 8),
    (16, 33, 2, 2),
    (2, 4, 3, 2, 5),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(place, shape, dtype, training):
    check(place, *arguments(shape, dtype, place), dtype, statistics=True, training=training)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("layout", "dtype"), LAYOUTS_AND_DTYPES)
def test_any_layout_and_groups(place, layout, groups, dtype):
    if place.interpreted and dtype != torch.float32:
        pytest.skip("takes the interpreter long; test_every_operator has all dtypes")
    check(place, *arguments((6, 5, 4, 3), dtype, place, layout), dtype, statistics=True, groups=groups)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "shape", [(4, 65, 33, 17), (3, 600, 9, 9), (2, 2, 200, 190), (40, 96, 3, 3), (33, 513)], ids=str
)
@pytest.mark.parametrize("groups", [1, 2])
def test_sizes_of_many_blocks(native, shape, layout, groups):
    """Shapes that blocks, segments and tasks of the kernels do not divide."""
    if shape[0] % groups:
        shape = (shape[0] + 1, *shape[1:])
    check(native, *arguments(shape, torch.float32, native, layout), torch.float32, groups=groups)


def test_many_groups_of_many_rows(native):
    check(native, *arguments((20, 24, 30, 30), torch.float32, native, "channels_last"), torch.float32, groups=20)


@pytest.mark.parametrize("groups", [1, 2])
def test_more_segments_than_are_combined_at_once(place, groups, monkeypatch):
    """As for a large input, but with small tiles."""
    if place.impl != "triton":
        pytest.skip("is about Triton's kernels")
    from igan_fast.ops.triton import norm_act_launches as kernels

    monkeypatch.setattr(kernels, "_TILE", 64)
    monkeypatch.setattr(kernels, "_COMBINE_SEGMENTS", 8)
    x, weight, bias, grad = arguments((2 * groups, 3, 10, 13), torch.float32, place, "channels_last")
    assert kernels._tiling(x, groups).segments > kernels._COMBINE_SEGMENTS
    with torch.no_grad():
        x += 1000 * torch.arange(2 * groups, device=place.device).view(
            -1, 1, 1, 1
        )  # so that the means of the segments differ widely
    check(place, x, weight, bias, grad, torch.float32, groups=groups, statistics=True)


@pytest.mark.parametrize("slope", [0.0, 1.0, -0.5, 2.0])
@pytest.mark.parametrize("training", [True, False])
def test_any_slope(place, slope, training):
    check(
        place,
        *arguments((4, 3, 5), torch.float32, place),
        torch.float32,
        negative_slope=slope,
        training=training,
        statistics=True,
    )


@pytest.mark.parametrize("missing", [(1,), (2,), (1, 2)])
def test_missing_parameters(place, missing):
    given_ = list(arguments((4, 3, 5), torch.float32, place))
    for index in missing:
        given_[index] = None
    check(place, *given_, torch.float32)


def test_frozen_parameters(place):
    x, weight, bias, grad = arguments((4, 3, 5), torch.float32, place)
    check(place, x, weight.detach(), bias.detach(), grad, torch.float32)
    check(place, x.detach(), weight, bias, grad, torch.float32)
    check(place, x, weight.detach(), bias, grad, torch.float32)


def test_half_parameters_of_a_half_input(place):
    x, weight, bias, grad = arguments((4, 3, 5), torch.bfloat16, place)
    weight, bias = (t.detach().bfloat16().requires_grad_() for t in (weight, bias))
    check(place, x, weight, bias, grad, torch.bfloat16)


def test_eval_without_running_statistics_uses_the_batch(place):
    check(place, *arguments((4, 3, 5), torch.float32, place), torch.float32, training=False)


@pytest.mark.parametrize("groups", [1, 2])
def test_equals_torch_modules(place, groups):
    """Two calls of nn.BatchNorm2d and nn.LeakyReLU, each with half of the batch."""
    x = torch.randn(4, 6, 5, 5, device=place.device)
    norm, act = nn.BatchNorm2d(6, device=place.device), nn.LeakyReLU(0.2)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    expected = torch.cat([act(norm(part)) for part in x.chunk(groups)])
    actual = ops.norm_act(x, norm.weight, norm.bias, mean, var, groups=groups, impl=place.impl)
    assert error(actual, expected) < 1e-5
    assert error(mean, norm.running_mean) < 1e-5
    assert error(var, norm.running_var) < 1e-5
    norm.eval()
    assert (
        error(ops.norm_act(x, norm.weight, norm.bias, mean, var, training=False, impl=place.impl), act(norm(x))) < 1e-5
    )


def test_one_group_per_image_is_instance_norm(place):
    x = torch.randn(3, 4, 6, 6, device=place.device)
    expected = nn.functional.leaky_relu(nn.functional.instance_norm(x), 0.2)
    assert error(ops.norm_act(x, None, None, groups=3, impl=place.impl), expected) < 1e-5


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_empty_inputs_do_as_the_reference_does(place, shape, training):
    x = torch.empty(shape, device=place.device)

    def outcome(function, **options):
        kept = running(x)
        try:
            return function(x, None, None, *kept, training=training, **options).shape
        except (ValueError, RuntimeError) as failure:
            return type(failure)

    assert outcome(ops.norm_act, impl=place.impl) == outcome(reference.norm_act)


@pytest.mark.parametrize(("shape", "groups"), [((1, 3), 1), ((1, 3, 1, 1), 1), ((4, 3), 4), ((2, 3, 1), 2)])
def test_one_value_per_channel_raises_what_torch_raises(place, shape, groups):
    x = torch.randn(shape, device=place.device)
    with pytest.raises(ValueError) as expected:  # noqa: PT011
        reference.norm_act(x, None, None, groups=groups)
    with pytest.raises(ValueError) as actual:  # noqa: PT011
        ops.norm_act(x, None, None, groups=groups, impl=place.impl)
    assert str(actual.value) == str(expected.value)
    y = ops.norm_act(x, None, None, *running(x), training=False, impl=place.impl)
    assert error(y, reference.norm_act(x, None, None, *running(x), training=False)) < 1e-5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 6),
    groups=st.integers(1, 4),
    channels=st.integers(1, 70),
    spatial=st.lists(st.integers(1, 12), max_size=3),
    layout=st.sampled_from(sorted(LAYOUTS)),
    training=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_shape(batch, groups, channels, spatial, layout, training, dtype):
    if backend.backends()["native-cpu"] != backend.AVAILABLE:
        pytest.skip(backend.backends()["native-cpu"])
    if batch * math.prod(spatial) < 3:
        batch += 2
    x = torch.randn(batch * groups, channels, *spatial, dtype=dtype)
    x = LAYOUTS[layout](x).requires_grad_()
    weight, bias = (torch.randn(channels, dtype=dtype).requires_grad_() for _ in range(2))
    grad = torch.randn(x.shape, dtype=dtype)
    options = {"statistics": True, "training": training, "groups": groups}
    actual = run(ops.norm_act, x, weight, bias, grad, impl="native", **options)
    exact = in_float64(lambda *t: run(reference.norm_act, *t, **options), x, weight, bias, grad)
    for a, e in zip(actual, exact, strict=True):
        assert error(a, e) < (
            1e-10 if dtype == torch.float64 else 1e-4
        )  # there are few values, and a variance near 0 magnifies errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(4)}, r"weight has shape \(4,\); expected \(3,\)"),
        ({"bias": torch.ones(1, 3)}, r"bias has shape \(1, 3\); expected \(3,\)"),
        ({"running_mean": torch.ones(2)}, r"running_mean has shape \(2,\); expected \(3,\)"),
        ({"running_var": None}, "running_mean and running_var: one is None"),
        ({"groups": 3}, "groups is 3; expected a positive divisor of the batch size 4"),
        ({"groups": 0}, "groups is 0; expected a positive divisor"),
        ({"weight": torch.ones(3, dtype=torch.float64)}, "weight is torch.float64 for an x of torch.float32"),
        ({"bias": torch.ones(3, device="meta")}, "bias is on meta; expected"),
    ],
)
def test_what_does_not_fit_is_refused(place, change, message):
    given_ = {"weight": None, "bias": None, "running_mean": torch.zeros(3), "running_var": torch.ones(3)} | change
    given_ = {
        k: v.to(place.device) if isinstance(v, Tensor) and v.device.type == "cpu" else v for k, v in given_.items()
    }
    with pytest.raises(ValueError, match=message):
        ops.norm_act(torch.randn(4, 3, 5, device=place.device), **given_, impl=place.impl)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(place, dtype):
    x, weight, bias, _ = arguments((4, 3, 5), dtype, place)
    with torch.autocast(place.device.type, torch.bfloat16):
        actual = ops.norm_act(x, weight, bias, impl=place.impl)
        expected = reference.norm_act(x, weight, bias)
    assert actual.dtype == expected.dtype
    assert error(actual, expected) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_running_statistics_move_once_by_the_mean_of_the_groups(place, dtype):
    """As nn.InstanceNorm2d's do."""
    norm = torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True, momentum=0.3, dtype=dtype)
    norm = norm.to(place.device)
    with torch.no_grad():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(4, 3, 5, 2, device=place.device, dtype=dtype)
    expected = norm(x)
    options = {"momentum": 0.3, "negative_slope": 1.0, "groups": 4, "average_groups": True}
    twin = mean.clone(), var.clone()
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    fused = [ops.norm_act(x, norm.weight, norm.bias, mean, var, **options, impl=place.impl), mean, var]
    plain = [reference.norm_act(x, norm.weight, norm.bias, *twin, **options), *twin]
    for actual in (fused, plain):
        for a, e in zip(actual, (expected, norm.running_mean, norm.running_var), strict=True):
            assert error(a, e) < tolerance

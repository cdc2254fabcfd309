"""``block_features`` against the reference's blocks in float64 and their autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from convolution_cases import CASES
from oracles import DTYPES, HALF, error
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from block_networks import Layer, Results, assert_all_as_good, compare, seeds, three_blocks

from igan_fast.ops.blocks import RawMap, block_features
from igan_fast.reference import ops as reference

pytestmark = pytest.mark.usefixtures("asked")


def check(layers: list[Layer], x: Tensor, **options: Any) -> None:
    """One input, in float32 or in the dtype of ``options``."""
    assert_all_as_good([compare(layers, x, **options)], options.get("dtype", torch.float32))


@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case: str, transposed: bool) -> None:
    """In float64, so that each number is right to the last digits, whatever cancels."""
    check(three_blocks(CASES[case], transposed), torch.randn(4, 2, *CASES[case].size), groups=2, dtype=torch.float64)


@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
def test_many_parts(small_parts: None, transposed: bool) -> None:
    case = CASES["the paper's, odd size"]
    check(three_blocks(case, transposed), torch.randn(4, 2, *case.size), groups=2)


@pytest.mark.parametrize(("dtype", "groups"), [(torch.float32, 1), *((dtype, 2) for dtype in DTYPES)])
def test_dtypes(dtype: torch.dtype, groups: int) -> None:
    """D's layers, narrow: of 5×5 taps with stride 2."""
    compared = []
    for seed in seeds(dtype):
        torch.manual_seed(seed)
        layers = [Layer(ends, (5, 5), stride=2, padding=2) for ends in ((3, 4), (4, 5), (5, 3))]
        if dtype in HALF:
            layers = [layer.away_from_kinks() for layer in layers]
        compared.append(compare(layers, torch.randn(4, 3, 20, 14), groups=groups, dtype=dtype))
    assert_all_as_good(compared, dtype)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_slopes(slope: float) -> None:
    check(three_blocks(CASES["4×4"], False), torch.randn(2, 2, 4, 6), slope=slope, groups=2)


@pytest.mark.parametrize(("frozen", "distance"), [((), False), ((0,), True), ((1,), False), ((0, 1, 2), True)])
def test_what_needs_no_gradient(frozen: Sequence[int], distance: bool) -> None:
    check(three_blocks(CASES["stride 1"], False), torch.randn(2, 2, 5, 4), frozen=frozen, distance=distance)


def test_a_single_block_and_the_smallest_maps() -> None:
    check([Layer((2, 3), (3, 3), padding=1)], torch.randn(2, 2, 1, 1))
    check([Layer((1, 1), (1, 1))], torch.randn(1, 1, 2, 1))


def test_data_far_from_zero() -> None:
    check(three_blocks(CASES["stride 1"], False), torch.randn(4, 2, 5, 4) + 30, groups=2)


def test_nothing_before_the_first_weight_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With x and the first two blocks fixed, the backward pass ends at the third."""
    from igan_fast.ops.triton.common import OPERATORS

    layers = three_blocks(CASES["stride 1"], False)
    results = Results(torch.float32, torch.randn(2, 2, 5, 4), layers, frozen=(0, 1))
    results.x.requires_grad_(False)
    found = block_features(results.x, results.blocks(0.2, 1))
    called: list[str] = []
    node = found.last.grad_fn
    assert node is not None

    class Noted:
        def __getattr__(self, name: str) -> Any:
            called.append(name)
            return OPERATORS[name]

    node.plan = node.plan._replace(operators=Noted())  # type: ignore[attr-defined]
    found.last.sum().backward()
    assert called == ["norm_act_backward", "convolution_weight_gradient"]
    assert results.parameters[2][0].grad is not None


def test_the_gradient_of_the_distance_alone() -> None:
    """And of the result alone: each by itself is the gradient of a sum without the other."""
    layers, x = three_blocks(CASES["4×4"], True), torch.randn(2, 2, 4, 6)
    exact, ours = (Results(dtype, x, layers) for dtype in (torch.float64, torch.float32))
    shapes = [x.shape, *(layer_map.y.shape for layer_map in block_features(ours.x, ours.blocks(0.2, 1)).maps[1:])]
    targets = [torch.randn(shape) for shape in shapes]
    up = torch.zeros(shapes[-1])
    expected = exact.of_reference(0.2, 1, targets, up)
    found = block_features(ours.x, ours.blocks(0.2, 1), [RawMap(t) for t in targets])
    assert found.distance is not None
    gradients = torch.autograd.grad(7 * found.distance, ours.leaves, retain_graph=True)
    for actual, exact_gradient in zip(gradients, expected[-len(gradients) :], strict=True):
        assert error(actual, exact_gradient) < 2e-5
    exact = Results(torch.float64, x, layers)
    up = torch.randn(shapes[-1])
    expected = exact.of_reference(0.2, 1, None, up)
    gradients = torch.autograd.grad(found.last, ours.leaves, up)
    for actual, exact_gradient in zip(gradients, expected[-len(gradients) :], strict=True):
        assert error(actual, exact_gradient) < 2e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_maps_as_targets(groups: int) -> None:
    """The maps of other images, which were normalised in two groups, as the photos' are in an iteration."""
    layers = three_blocks(CASES["the paper's, odd size"], False)
    others, images = torch.randn(2 * groups, 2, 9, 7), torch.randn(groups, 2, 9, 7)
    if groups == 1:
        images = torch.cat([images, images + 1])
        others = torch.cat([others, others * 2])
    ours = Results(torch.float32, others, layers)
    maps = [each.first(len(images)) for each in block_features(ours.x, ours.blocks(0.2, 2)).maps]
    assert [each.affine is None for each in maps] == [True, False, False, False]
    assert [len(each.affine) for each in maps[1:] if each.affine is not None] == [1, 1, 1]
    exact = Results(torch.float64, others, layers)
    h, expected = exact.x, [exact.x]
    for layer, (weight, *norm) in zip(layers, exact.parameters, strict=True):
        h = reference.conv_norm_act(h, weight, *norm, **layer.arguments, groups=2)
        expected.append(h)
    for raw, full in zip(maps, expected, strict=True):
        assert error(raw.activation(), full[: len(images)]) < 1e-5
        assert not raw.y.requires_grad
    other = Results(torch.float32, images, layers)
    distance = block_features(other.x, other.blocks(0.2, 1), maps).distance
    plain = block_features(other.x, other.blocks(0.2, 1), [RawMap(each.activation()) for each in maps]).distance
    assert distance is not None
    assert torch.equal(distance, plain)
    assert distance > 0

"""The parts into which a product is divided, chosen by measurement with timers that are made up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measuring import measuring
from oracles import error

pytest.importorskip("triton", reason="Triton is not installed")

from igan_fast.ops import tuning
from igan_fast.ops.convolution.triton import operators
from igan_fast.ops.triton import common, convolution_weight
from igan_fast.ops.triton.convolution_launch import (
    FEW_COLUMNS,
    major_of,
    options_of,
    rows_of_parts,
    steps_of,
    sums_of_thread,
    tiles_of,
    with_registers,
)

if not common.INTERPRETED:
    pytest.skip("the choice is made here without a GPU, in Triton's interpreter", allow_module_level=True)


@pytest.fixture(autouse=True)
def tf32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Products of float32 are divided like those of half types. The interpreter does not round them."""
    import triton_interpreter

    triton_interpreter.speed_up()
    monkeypatch.setattr(convolution_weight, "_PROGRAMS", 2)
    torch.manual_seed(0)
    cudnn: Any = torch.backends.cudnn
    before, cudnn.conv.fp32_precision = cudnn.conv.fp32_precision, "tf32"
    yield
    cudnn.conv.fp32_precision = before


def as_they_are(options: dict[str, Any]) -> dict[str, Any]:
    return options


def test_the_tiles() -> None:
    options = options_of(torch.empty(1, dtype=torch.bfloat16), 128)
    smaller = ["128 x 128 x 32, 8 warps", "64 x 128 x 64, 4 warps", "128 x 64 x 64, 4 warps", "128 x 128 x 64, 8 warps"]
    assert list(tiles_of(options, as_they_are, 64)) == smaller
    hopper = tiles_of(options, as_they_are, 128)
    assert list(hopper) == ["256 x 128 x 64, 8 warps", "128 x 128 x 64, 4 warps", *smaller]
    assert list(hopper.values())[-1] == options
    few = tiles_of(options_of(torch.empty(1, dtype=torch.bfloat16), 3), as_they_are, 128)
    assert all(options["N"] == 16 for options in few.values())  # tensor cores take no fewer columns
    double = options_of(torch.empty(1, dtype=torch.float64), 128)
    assert list(tiles_of(double, as_they_are, 128).values()) == [double]


def test_a_tile_that_is_launched_like_another_is_not_measured() -> None:
    options = options_of(torch.empty(1, dtype=torch.bfloat16), 128)
    computed = tiles_of(options, lambda options: with_registers(options, FEW_COLUMNS), 128)
    assert list(computed) == ["128 x 64 x 32, 8 warps", "64 x 64 x 64, 8 warps", "128 x 64 x 64, 8 warps"]
    assert all("{M} x {N} x {K}, {num_warps} warps".format(**each) == name for name, each in computed.items())
    of_small_maps = tiles_of(options, lambda options: rows_of_parts(options, 16), 64)
    assert list(of_small_maps) == ["16 x 128 x 32, 1 warps", "16 x 64 x 64, 1 warps", "16 x 128 x 64, 1 warps"]


@pytest.mark.parametrize(("major", "sums"), [(0, 64), (8, 64), (9, 128), (10, 128), (12, 64)])
def test_a_thread_holds_more_sums_where_the_factors_are_in_shared_memory(major: int, sums: int) -> None:
    assert sums_of_thread(major) == sums


@pytest.mark.parametrize("number", range(6))
def test_every_tile_gives_the_same(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward with statistics, the normalisation and FiLM of what is read; both gradients."""
    x, weight = torch.randn(2, 16, 3, 4), torch.randn(72, 16, 3, 3)
    affine, film = torch.rand(2, 3, 16) + 0.5, torch.randn(2, 32) / 4

    def compute() -> list[torch.Tensor]:
        y, mean, var = operators().convolution_statistics(
            x, weight, [3, 4], [1, 1], [1, 1], False, 2, affine, 0.2, film
        )
        dx = operators().convolution(y, weight, None, [3, 4], [1, 1], [1, 1], True, 1.0)
        return [y, mean, var, dx, operators().convolution_weight_gradient(y, x, [3, 3], [1, 1], [1, 1], False)]

    plain, taken = compute(), []

    def pick(key: str, ways: dict[str, Any], device: str) -> str:
        taken.append(list(ways)[number % len(ways)])
        return taken[-1]

    with measuring(monkeypatch, lambda call: 1.0):
        monkeypatch.setattr(
            tuning, "fastest", lambda key, ways, device: taken.append(number) or list(ways)[number % len(ways)]
        )
        found = compute()
    assert len(taken) == 3
    for a, e in zip(found, plain, strict=True):
        assert error(a, e) < 1e-5
    x64, w64, y64 = x.double(), weight.double(), plain[0].double()
    assert error(found[3], F.conv_transpose2d(y64, w64, padding=1)) < 1e-5
    assert error(found[4], torch.nn.grad.conv2d_weight(x64, weight.shape, y64, padding=1)) < 1e-5


def test_a_product_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not while a CUDA graph is recorded."""
    x, weight = torch.randn(1, 16, 2, 2), torch.randn(16, 16, 1, 1)
    arguments = x, weight, None, [2, 2], [1, 1], [0, 0], False, 1.0
    plain, seconds = operators().convolution(*arguments), itertools.count(-1, -1)

    def timer(call: Any) -> float:
        call()
        return next(seconds)  # each is faster than the one before

    with measuring(monkeypatch, timer):
        with monkeypatch.context() as recording:
            recording.setattr(tuning, "may_measure", lambda device: False)
            assert torch.equal(operators().convolution(*arguments), plain)
            assert tuning.taken() == {}
        assert [torch.equal(operators().convolution(*arguments), plain) for _ in range(3)] == [True] * 3
        ((choice,),) = (choices.values() for choices in tuning.taken().values())
    tiles = tiles_of(options_of(x, 16), lambda options: steps_of(options, 1, 16), sums_of_thread(major_of(x.device)))
    assert choice == list(tiles)[-1]
    assert next(seconds) == -1 - len(tiles)

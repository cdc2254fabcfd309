"""What Triton's convolutions compute, read and write, counted by the interpreter: no product with a zero that padding
or stride puts between the inputs, and each output once."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_interpreter import count_calls

pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime.interpreter import InterpretedFunction

from igan_fast.ops.triton import (
    common,
    convolution,
    convolution_blocks,
    convolution_image,
    convolution_image_weight,
    convolution_launch,
    convolution_weight,
)

if not common.INTERPRETED:
    pytest.skip("Triton's kernels are compiled here", allow_module_level=True)

GEOMETRY = (2, 2), (2, 2)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Multiplications and additions of matrix products, and the numbers that are read and written."""
    found: Counter[str] = Counter()
    watch = functools.partial(count_calls, monkeypatch, found)
    watch("create_dot", lambda a, b, *_: {"operations": 2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1]})
    watch("create_masked_load", lambda pointers, mask, *_: {"read": int(mask.data.sum())})
    watch("create_masked_store", lambda pointers, value, mask, *_: {"written": int(mask.data.sum())})
    return found


def layer(batch: int, out: int) -> tuple[Tensor, Tensor, Tensor]:
    """A layer of D, small: the input, the weight, and the gradient of the output. Of float64, the parts of a matrix
    product have the same size with and without tf32."""
    x, weight, grad = torch.randn(batch, 64, 16, 16), torch.randn(out, 64, 5, 5), torch.randn(batch, out, 8, 8)
    return x.double(), weight.double(), grad.double()


def test_the_products_are_those_of_the_definition(counted: Counter[str]) -> None:
    """As a convolution, a transposed one would multiply three zeros for each number."""
    x, weight, grad = layer(1, 64)
    operations = 2 * grad.numel() * 25 * x.shape[1]
    convolution.convolution(x, weight, None, (8, 8), *GEOMETRY, False, 1.0)
    assert counted.pop("operations") == operations
    convolution.convolution(grad, weight, None, (16, 16), *GEOMETRY, True, 1.0)
    assert counted.pop("operations") == operations
    convolution_weight.convolution_weight_gradient(grad, x, (5, 5), *GEOMETRY, False)
    assert counted.pop("operations") == operations


def test_what_a_forward_pass_reads_and_writes(counted: Counter[str]) -> None:
    """Each block of channels reads the inputs under its taps, each tile the weight. The output is written once, and its
    statistics take three sums of each tile."""
    x, weight, grad = layer(2, 128)
    convolution.convolution(x, weight, None, (8, 8), *GEOMETRY, False, 1.0)
    blocks = tiles = 128 // convolution_launch._WIDE_SIDE  # of 128 channels, and of 2 · 8 · 8 positions
    inside = F.conv2d(torch.ones_like(x[:, :1]), torch.ones_like(weight[:1, :1]), None, *GEOMETRY).sum()
    plain = Counter(counted)
    assert plain["read"] == blocks * 64 * int(inside) + tiles * weight.numel()
    assert plain["written"] == grad.numel()
    counted.clear()
    convolution.convolution_statistics(x, weight, (8, 8), *GEOMETRY, False, 1)
    of_sums = tiles * 128
    assert counted["written"] == grad.numel() + 3 * of_sums + tiles + 2 * 128
    combining = 128 // convolution._COMBINE_CHANNELS
    # Both passes of each program read the numbers of values and what gives the means, the second one the squares too.
    assert counted["read"] == plain["read"] + combining * 2 * tiles + (2 + 3) * of_sums


def test_what_convolutions_of_an_image_read_and_write(counted: Counter[str]) -> None:
    """The features, which are 64 / 12 times as large as the image, are written once and read once; for an image four
    times, because a block of 4 × 4 pixels takes 4 × 4 of them. Their gradient before a LeakyReLU is never written."""
    image, features, weight = torch.randn(1, 3, 16, 16), torch.randn(1, 64, 8, 8), torch.randn(64, 3, 5, 5)
    image, features, weight = image.double(), features.double(), weight.double()
    terms = 25 * 3
    # A step takes 16 numbers of a row; the last fills it up, and is read where it is in the image's row.
    columns = sum(max(0, min(48, first + 16) - max(0, first)) for first in range(-6, 42, 6))
    rows = sum(min(16, first + 5) - max(0, first) for first in range(-2, 14, 2))

    convolution_image.convolution_from_image(image, weight, None, (8, 8), *GEOMETRY, 0.2)
    assert counted.pop("written") == features.numel()
    assert counted.pop("read") == rows * columns + weight.numel()
    assert counted.pop("operations") == 2 * 64 * 64 * 5 * 16  # of 75 terms 80

    gradient = convolution_image_weight.convolution_image_weight_gradient
    gradient(features, image, (5, 5), *GEOMETRY, True, features, 0.2)
    segments = 64 // 16
    partial = segments * (64 * terms + 64)
    parts = 128 // 64  # of the 5 · 16 columns; each reads the features, and of float64 has 64 columns
    assert counted.pop("read") == parts * 2 * features.numel() + rows * columns + partial
    assert counted.pop("written") == partial + weight.numel() + 64
    counted.clear()

    convolution_image.convolution_to_image(features, weight, None, (16, 16), *GEOMETRY, 1.0)
    packed = 16 * 64 * 48
    window = sum(min(8, first + 4) - max(0, first) for first in range(-1, 7, 2)) ** 2
    assert counted.pop("read") == 4 * weight.numel() + 64 * window + packed
    assert counted.pop("written") == packed + image.numel()
    assert window * 64 <= 4 * features.numel()


def test_what_the_gradient_of_a_block_reads_and_writes(counted: Counter[str]) -> None:
    """Beside the plain input gradient it reads the block's raw map where it reads the gradient, and the raw map before
    once; it writes three sums for each channel and tile."""
    x, weight, grad = layer(1, 64)
    plain_arguments = grad, weight, (16, 16), *GEOMETRY, True
    convolution.convolution(grad, weight, None, (16, 16), *GEOMETRY, True, 1.0)
    plain = Counter(counted)
    counted.clear()
    affine, var, terms = torch.rand(1, 3, 64), torch.rand(1, 64), torch.rand(2, 1, 64)
    of_block = [t.double() for t in (affine, terms)]
    convolution_blocks.convolution_block_gradient(
        *plain_arguments, grad, *of_block, x, affine.double(), var.double(), 0.2, 1e-5, None, None, 1.0
    )
    tiles = 4  # one for each phase
    sums, combined = 3 * tiles * 64, 4 * 64
    assert counted["operations"] == plain["operations"]
    assert counted["written"] == plain["written"] + sums + combined
    of_grad = plain["read"] - 25 * 64 * 64 * (tiles // 4)  # each tap's weights are read in one phase
    steps = 25 * 64 // 16
    channels = 4 * 16 * steps + 3 * 64 * tiles  # of each step, and of the map before
    assert counted["read"] == plain["read"] + of_grad + x.numel() + channels + sums + 64


def test_what_film_reads_and_writes(counted: Counter[str]) -> None:
    """γ and β of each channel of a step; backward γ of the map before, and two more sums. The rest is as without."""

    def cost(run: Callable[[Tensor | None], Any]) -> Counter[str]:
        counted.clear()
        run(None)
        plain = Counter(counted)
        counted.clear()
        run(torch.rand(2, 128).double())
        assert counted["operations"] == plain["operations"]
        return counted - plain

    x, weight, grad = layer(2, 64)
    affine, var = torch.rand(1, 3, 64).double(), torch.rand(1, 64).double()
    forward = convolution.convolution_statistics
    found = cost(lambda film: forward(x, weight, (8, 8), *GEOMETRY, False, 1, affine, 0.2, film))
    assert found == {"read": 2 * 25 * 128}  # a tile for each image

    of_weight = convolution_weight.convolution_weight_gradient
    found = cost(lambda film: of_weight(grad, x, (5, 5), *GEOMETRY, False, affine, 0.2, None, None, None, film))
    parts, steps = 25, 2 * 64 // 16  # of 64 columns, which are one tap
    assert found == {"read": parts * steps * 128}

    before, nothing = (x, affine, var, 0.2, 1e-5), (None, None, None)
    of_block = convolution_blocks.convolution_block_gradient
    found = cost(
        lambda film: of_block(grad, weight, (16, 16), *GEOMETRY, True, *nothing, *before, None, None, 1.0, film)
    )
    tiles = 2 * 4  # of both images and of each phase
    assert found == {"read": tiles * 64 + tiles * 128, "written": tiles * 128 + 2 * 128}


def test_the_operations_of_all_layers_are_those_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.30 GFLOP for an image of 128² in D's four layers (DESIGN.md, section 4); of the launches, at most 1 % more."""
    launched: list[int] = []

    def launch_of(kernel: InterpretedFunction, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            given = dict(zip(kernel.arg_names, arguments, strict=False))
            steps = math.ceil(math.prod(given["kernel"]) * given["sizes"][3] / options["K"])
            launched.append(grid[0] * steps * 2 * options["M"] * options["N"] * options["K"])

        return launch

    monkeypatch.setattr(InterpretedFunction, "__getitem__", launch_of)
    batch, side, channels, operations = 64, 128, 3, 0
    for out in (64, 128, 256, 512):
        x = torch.empty(batch, channels, side, side, dtype=torch.bfloat16, device="meta")
        weight = torch.empty(out, channels, 5, 5, dtype=torch.bfloat16, device="meta")
        side //= 2
        y = convolution.convolution(x, weight, None, (side, side), *GEOMETRY, False, 1.0)
        assert y.shape == (batch, out, side, side)
        operations += 2 * y.numel() * 25 * channels
        channels = out
    assert round(operations / batch / 1e9, 2) == 1.30
    assert len(launched) == 4
    assert operations <= sum(launched) <= 1.01 * operations

"""Convolutions in Triton: the launches. The kernels are in the other ``convolution_…`` files, and the weight
gradient in ``convolution_weight``.

A convolution and a transposed convolution are each other's input gradient. The operators therefore take the size of
their result, which a strided convolution's output does not tell. The weight's dimensions are those of PyTorch.

Tensors are read and written channels_last; others are copied first. The order of every sum depends only on shapes and
dtypes, so the same input gives the same bits. Products of float32 numbers round them to tf32 where PyTorch's
convolutions do: where ``torch.backends.cudnn.conv.fp32_precision`` is "tf32".

``igan_fast.ops.convolution.triton`` calls the operators ``convolution`` and ``convolution_weight_gradient``. The others
are those of blocks (``igan_fast.ops.blocks``); their gradients are in ``convolution_blocks``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from igan_fast.ops.triton.common import grid, on_device, operator, triton_dtype, two_floats
from igan_fast.ops.triton.convolution_forward import convolve
from igan_fast.ops.triton.convolution_launch import (
    FEW_COLUMNS,
    by_fastest_tile,
    channels_last,
    check_numbers,
    film_operand,
    new,
    options_of,
    rows_of_parts,
    steps_of,
    with_registers,
)
from igan_fast.ops.triton.convolution_statistics import affine_of, combine_tiles
from igan_fast.reference.ops import accumulation_dtype

_COMBINE_CHANNELS = 8  # channels of a program that combines tiles
_COMBINE_SEGMENTS = 128  # tiles that such a program loads at the same time


@dataclass(frozen=True)
class Geometry:
    """The convolution that a launch computes."""

    size: Sequence[int]  # of the result
    stride: Sequence[int]
    padding: Sequence[int]
    transposed: bool


def _check(x: Tensor, weight: Tensor, dimension: int, affine: Tensor | None, groups: int) -> None:
    channels = x.shape[1]
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[dimension] != channels or weight.dtype != x.dtype:
        raise ValueError(
            f"found x {tuple(x.shape)} in {x.dtype} and weight {tuple(weight.shape)} in {weight.dtype}; expected 4 "
            f"dimensions and one dtype, and x's channels in the weight's dimension {dimension}"
        )
    if x.shape[0] % groups:
        raise ValueError(f"found {x.shape[0]} images; expected a multiple of {groups}, the number of groups")
    if affine is not None and affine.shape != (groups, 3, channels):
        raise ValueError(f"affine has shape {tuple(affine.shape)}; expected {(groups, 3, channels)}")


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    to: Geometry,
    negative_slope: float,
    affine: Tensor | None,
    input_slope: float,
    groups: int,
    statistics: bool,
    gradient: tuple[Any, ...] | None = None,
    before: tuple[Any, ...] | None = None,
    distance: tuple[Any, ...] | None = None,
    film: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The result (N, C_out, *size), and if asked for the sums of its tiles, as of ``store_sums_of``.

    Args:
        gradient, distance, film: as ``convolve`` takes them.
        before: (raw, affine, slope, film), as ``convolve`` takes it but for the sums, which are then returned instead
            (``sums_before``).
    """
    _check(x, weight, 0 if to.transposed else 1, affine, groups)
    film, x, weight = film_operand(film, x), channels_last(x), channels_last(weight)
    images, channels, height, width = x.shape
    apart = film is not None or (before is not None and before[3] is not None)  # each image is a part
    parts = images // groups if apart else 1
    taps, inner = math.prod(weight.shape[2:]), weight.shape[1]
    out_channels = inner if to.transposed else weight.shape[0]
    # Those of the taps, the input channels and the output channels. PyTorch's own are arbitrary for a size of 1.
    weight_strides = (inner, taps * inner, 1) if to.transposed else (inner, 1, taps * inner)
    phases = tuple(to.stride) if to.transposed else (1, 1)
    of_part = images // (groups * parts)
    positions = of_part * math.prod(triton.cdiv(n, p) for n, p in zip(to.size, phases, strict=True))
    check_numbers(positions=positions, terms=taps * channels)

    def adapted(options: dict[str, Any]) -> dict[str, Any]:
        options = steps_of(options, taps, channels)
        if gradient is not None or before is not None:
            options = with_registers(options, FEW_COLUMNS)
        elif affine is not None:
            options = with_registers(options, options["N"])
        return rows_of_parts(options, positions) if apart else options

    def compute(options: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
        tiles = triton.cdiv(positions, options["M"])
        segments = parts * tiles * math.prod(phases)
        y = new(x, images, out_channels, *to.size)
        found: list[Tensor] = []
        if statistics:
            wide = accumulation_dtype(x)
            found = [x.new_empty((groups, segments, out_channels), dtype=wide) for _ in range(3)]
            found.append(x.new_empty((groups, segments), dtype=torch.int32))
        previous = before
        if before is not None:
            found, sums = sums_before(y, groups, segments, before[3])
            previous = *before, *sums
        convolve[grid(triton.cdiv(out_channels, options["N"]) * segments * groups)](
            x,
            weight,
            None if bias is None else bias.contiguous(),
            affine,
            film,
            y,
            tuple(found) if statistics else None,
            (of_part, height, width, channels),
            parts,
            (*to.size, out_channels),
            tuple(weight.shape[2:]),
            tuple(to.stride),
            tuple(to.padding),
            weight_strides,
            tiles,
            two_floats(input_slope),
            two_floats(negative_slope),
            None,
            None,
            gradient,
            previous,
            distance,
            TRANSPOSED=to.transposed,
            **options,
        )
        return y, found

    with_what = [statistics, *(each is not None for each in (bias, affine, film, gradient, before, distance))]
    kind = ["convolve", *x.shape, x.dtype, *weight.shape, to, groups, parts, *with_what]
    return by_fastest_tile(compute, options_of(x, out_channels), adapted, x.device, *kind)


def sums_before(
    y: Tensor, groups: int, segments: int, film: Tensor | None
) -> tuple[list[Tensor], tuple[Tensor | None, ...]]:
    """The sums that ``before_block`` stores, as a list and as its arguments: three of (groups, segments, C), and with
    film one of (N, segments of an image, 2 · C).

    Args:
        y: the result (N, C, *size).
        segments: of a group.
        film: of the block before.
    """
    (images, channels), wide = y.shape[:2], accumulation_dtype(y)
    sums = [y.new_empty((groups, segments, channels), dtype=wide) for _ in range(3)]
    if film is None:
        return sums, (*sums, None)
    sums.append(y.new_empty((images, groups * segments // images, 2 * channels), dtype=wide))
    return sums, tuple(sums)


@operator(
    "convolution(Tensor x, Tensor weight, Tensor? bias, SymInt[] size, SymInt[] stride, SymInt[] padding, "
    "bool transposed, float negative_slope, Tensor? affine=None, float input_slope=1.0) -> Tensor"
)
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool,
    negative_slope: float,
    affine: Tensor | None = None,
    input_slope: float = 1.0,
) -> Tensor:
    """LeakyReLU(convolution(x′, weight) + bias), channels_last.

    It is the input gradient of a convolution too: of the gradient of the output, with the other value of ``transposed``
    and the size of the input.

    Args:
        x: (N, C_in, H, W), of a floating dtype.
        weight: (C_out, C_in, *kernel), or (C_in, C_out, *kernel) if ``transposed``; of x's dtype.
        bias: (C_out,), or None.
        size: height and width of the result. An output that no tap reaches is the bias.
        stride, padding: of rows and of columns.
        negative_slope: of the LeakyReLU: 0 is ReLU, 1 is no activation.
        affine: (groups, 3, C_in), as of ``convolution_affine``; the images are divided into so many groups. x′ is then
            LeakyReLU(x normalised) with the slope ``input_slope``, rounded to x's dtype. Without it x′ is x.

    Raises:
        ValueError: shapes or dtypes that do not match.
        RuntimeError: the tensors are too large for one launch.
    """
    to = Geometry(size, stride, padding, transposed)
    groups = 1 if affine is None else affine.shape[0]
    with on_device(x):
        return launch(x, weight, bias, to, negative_slope, affine, input_slope, groups, False)[0]


@operator(
    "convolution_statistics(Tensor x, Tensor weight, SymInt[] size, SymInt[] stride, SymInt[] padding, "
    "bool transposed, SymInt groups, Tensor? affine=None, float input_slope=1.0, Tensor? film=None) -> "
    "(Tensor z, Tensor mean, Tensor var)"
)
def convolution_statistics(
    x: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool,
    groups: int,
    affine: Tensor | None = None,
    input_slope: float = 1.0,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``convolution`` without bias and activation, and its output's mean and variance over each of ``groups`` groups of
    images, (groups, C_out). The output is read by no other kernel for that.

    Args:
        film: (N, 2 · C_in), γ and β of each image, by which x′ is multiplied (1 + γ) and moved before it is rounded.
            Only with ``affine``.
    """
    to = Geometry(size, stride, padding, transposed)
    with on_device(x):
        z, sums = launch(x, weight, None, to, 1.0, affine, input_slope, groups, True, film=film)
        channels = z.shape[1]
        mean, var = (x.new_empty((groups, channels), dtype=accumulation_dtype(x)) for _ in range(2))
        combine_tiles[grid(triton.cdiv(channels, _COMBINE_CHANNELS) * groups)](
            *sums,
            mean,
            var,
            channels,
            groups,
            sums[0].shape[1],
            ACC=triton_dtype(x.dtype),
            BLOCK=_COMBINE_SEGMENTS,
            CHANNELS=_COMBINE_CHANNELS,
        )
    return z, mean, var


@operator("convolution_affine(Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps) -> Tensor")
def convolution_affine(weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """(groups, 3, C): the mean, weight / √(var + eps) and the bias of each group, as ``norm_act`` rounds them.

    Args:
        weight, bias: (C,), or None for 1 and 0.
        mean, var: (groups, C), in float32 or float64.
    """
    groups, channels = mean.shape
    affine = mean.new_empty((groups, 3, channels))
    vectors = (None if t is None else t.contiguous() for t in (weight, bias))
    with on_device(mean):
        affine_of[grid(triton.cdiv(channels, _COMBINE_CHANNELS) * groups)](
            *vectors,
            mean.contiguous(),
            var.contiguous(),
            affine,
            channels,
            groups,
            two_floats(eps),
            ACC=triton_dtype(mean.dtype),
            CHANNELS=_COMBINE_CHANNELS,
        )
    return affine

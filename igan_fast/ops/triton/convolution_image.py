"""Convolutions from an image and to an image of few channels (colours) in Triton, such as D's first layer and G's last.

From an image: ``convolve_image`` (``convolution_image_kernels``). It is the input gradient of a transposed convolution
to an image too.

To an image: a transposed convolution of stride s computes s × s interleaved outputs, each with every s-th tap of the
kernel (Shi et al. 2016, arXiv 1609.07009). A block of pixels is therefore an ordinary convolution, whose output
channels are the pixels of the block and their colours: for 5×5 taps, stride 2 and three colours, 2 × 2 pixels are 12
channels of a 3×3 convolution. Larger blocks share inputs: 4 × 4 pixels are 48 channels and read 16 inputs, where four
blocks of 2 × 2 read 36. ``convolve`` (``convolution_forward``) computes it, of a weight in that form, and writes
pixels. Of the weight in that form many numbers are 0, so a NaN or Inf reaches all pixels of the blocks that read it.

The weight gradient of both is in ``convolution_image_weight``. Tensors are read and written channels_last; others are
copied first. The order of every sum depends only on shapes and dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
from torch import Tensor

from igan_fast.ops.triton.common import grid, on_device, operator, two_floats
from igan_fast.ops.triton.convolution import sums_before
from igan_fast.ops.triton.convolution_forward import convolve
from igan_fast.ops.triton.convolution_image_kernels import convolve_image, pack_taps
from igan_fast.ops.triton.convolution_launch import (
    channels_last,
    check_numbers,
    film_operand,
    groups_of,
    new,
    options_of,
    rows_of_parts,
    steps_of,
    with_registers,
)

_COLUMNS = 64  # pixels and colours of a block, at most
_BLOCK = 1024  # elements of a program that packs taps
_LEAST_ROW = 16  # the smallest step of tensor cores


class Geometry(NamedTuple):
    """Of a convolution from an image, as ``load_row`` takes it."""

    kernel_rows: int
    row_terms: int
    colours: int
    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int

    @classmethod
    def of(cls, kernel: Sequence[int], colours: int, stride: Sequence[int], padding: Sequence[int]) -> Geometry:
        """Of a kernel of so many rows and columns."""
        return cls(kernel[0], kernel[1] * colours, colours, *stride, *padding)


class _Blocks(NamedTuple):
    """A transposed convolution to blocks of pixels, as a convolution. Each pair is of rows and of columns.

    Attributes:
        pixels: of a block.
        step: inputs from one block to the next.
        first: the first input that a block takes, from its own first input.
        taps: the number of inputs that a block takes.
    """

    pixels: tuple[int, ...]
    step: tuple[int, ...]
    first: tuple[int, ...]
    taps: tuple[int, ...]

    @classmethod
    def of(cls, kernel: Sequence[int], colours: int, stride: Sequence[int], padding: Sequence[int]) -> _Blocks:
        pixels = list(stride)
        while 2 * math.prod(pixels) * colours <= _COLUMNS:  # columns first, of which fewer inputs are neighbours
            pixels[pixels[0] * stride[1] >= pixels[1] * stride[0]] *= 2
        step = tuple(p // s for p, s in zip(pixels, stride, strict=True))
        first = tuple(-((k - 1 - p) // s) for k, s, p in zip(kernel, stride, padding, strict=True))
        last = ((n - 1 + p) // s for n, s, p in zip(pixels, stride, padding, strict=True))
        taps = tuple(b - a + 1 for a, b in zip(first, last, strict=True))
        return cls(tuple(pixels), step, first, taps)


def _check(x: Tensor, weight: Tensor, dimension: int, signs: Tensor | None = None) -> None:
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[dimension] != x.shape[1] or weight.dtype != x.dtype:
        raise ValueError(
            f"found x {tuple(x.shape)} in {x.dtype} and weight {tuple(weight.shape)} in {weight.dtype}; expected 4 "
            f"dimensions and one dtype, and x's channels in the weight's dimension {dimension}"
        )
    check_signs(signs, x)


def check_signs(signs: Tensor | None, of: Tensor) -> None:
    """Check that ``signs`` fits the tensor that it is of.

    Raises:
        ValueError: it has another shape or dtype.
    """
    if signs is not None and (signs.shape != of.shape or signs.dtype != of.dtype):
        raise ValueError(
            f"signs has shape {tuple(signs.shape)} in {signs.dtype}; expected {tuple(of.shape)} in {of.dtype}"
        )


@operator(
    "convolution_from_image(Tensor x, Tensor weight, Tensor? bias, SymInt[] size, SymInt[] stride, SymInt[] padding, "
    "float negative_slope) -> Tensor"
)
def convolution_from_image(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    negative_slope: float,
) -> Tensor:
    """LeakyReLU(convolution(x, weight) + bias), channels_last, of an image.

    Args:
        x: (N, colours, H, W), of a floating dtype. Any number of colours is right, and few are fast.
        weight: (C_out, colours, *kernel), of x's dtype.
        bias: (C_out,), or None.
        size: height and width of the result.
        stride, padding: of rows and of columns.
        negative_slope: of the LeakyReLU: 0 is ReLU, 1 is no activation.

    Raises:
        ValueError: shapes or dtypes that do not match.
        RuntimeError: the tensors are too large for one launch.
    """
    with on_device(x):
        return launch_from_image(x, weight, bias, size, stride, padding, negative_slope, 1, None)[0]


def launch_from_image(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    negative_slope: float,
    groups: int,
    before: tuple[Any, ...] | None,
) -> tuple[Tensor, list[Tensor]]:
    """The result of ``convolution_from_image``.

    Args:
        groups: into which the images are divided.
        before: (raw, affine, slope, film), as ``convolve_image`` takes it but for the sums, which are returned too.
    """
    _check(x, weight, 1)
    x, weight = channels_last(x), channels_last(weight)
    images, colours, height, width = x.shape
    apart = before is not None and before[3] is not None  # each image is a part
    parts = images // groups if apart else 1
    of_part = images // (groups * parts)
    channels, positions = weight.shape[0], of_part * math.prod(size)
    geometry = Geometry.of(weight.shape[2:], colours, stride, padding)
    pixels = of_part * height * width
    check_numbers(positions=positions, pixels=pixels, terms=geometry.kernel_rows * geometry.row_terms)
    options = options_of(x, channels)
    del options["K"]
    if before is not None:
        options = with_registers(options, options["N"])
    if apart:
        options = rows_of_parts(options, positions)
    tiles = triton.cdiv(positions, options["M"])
    y = new(x, images, channels, *size)
    found: list[Tensor] = []
    if before is not None:
        found, sums = sums_before(y, groups, parts * tiles, before[3])
        before = *before, *sums
    convolve_image[grid(triton.cdiv(channels, options["N"]) * tiles * parts * groups)](
        x,
        weight,
        None if bias is None else bias.contiguous(),
        y,
        of_part,
        parts,
        (height, width),
        (*size, channels),
        tiles,
        two_floats(negative_slope),
        before,
        GEOMETRY=tuple(geometry),
        ROW=max(_LEAST_ROW, triton.next_power_of_2(geometry.row_terms)),
        **options,
    )
    return y, found


@operator(
    "convolution_to_image(Tensor x, Tensor weight, Tensor? bias, SymInt[] size, SymInt[] stride, SymInt[] padding, "
    "float negative_slope, Tensor? signs=None, float signs_slope=1.0, Tensor? affine=None, "
    "Tensor? film=None) -> Tensor"
)
def convolution_to_image(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    negative_slope: float,
    signs: Tensor | None = None,
    signs_slope: float = 1.0,
    affine: Tensor | None = None,
    film: Tensor | None = None,
) -> Tensor:
    """LeakyReLU(transposed convolution(x′, weight) + bias), channels_last: an image.

    It is the input gradient of a convolution from an image too.

    Args:
        x: (N, C_in, H, W), of a floating dtype.
        weight: (C_in, colours, *kernel), of x's dtype.
        bias: (colours,), or None.
        signs: as x. x is then the gradient of a LeakyReLU's output, ``signs`` has the signs of its input, and x′ is the
            gradient of its input, rounded to x's dtype. Without it x′ is x.
        signs_slope: of that LeakyReLU, 0 or more; or of the one of ``affine``.
        affine: (groups, 3, C_in), as of ``convolution_affine``. x′ is then LeakyReLU(x normalised), rounded to x's
            dtype.
        film: as of ``convolution_statistics``.

    The other arguments are those of ``convolution_from_image``.
    """
    _check(x, weight, 0, signs)
    film, x, weight = film_operand(film, x), channels_last(x), channels_last(weight)
    images, channels, height, width = x.shape
    colours, kernel = weight.shape[1], tuple(weight.shape[2:])
    blocks = _Blocks.of(kernel, colours, stride, padding)
    taps, columns = math.prod(blocks.taps), math.prod(blocks.pixels) * colours
    block_size = tuple(triton.cdiv(n, p) for n, p in zip(size, blocks.pixels, strict=True))
    groups = groups_of(x, affine)
    parts = 1 if film is None else images // groups
    of_part = images // (groups * parts)
    positions = of_part * math.prod(block_size)
    check_numbers(positions=positions, pixels=of_part * math.prod(size), terms=taps * channels)
    options = steps_of(options_of(x, columns), taps, channels)
    options["num_warps"] = 8  # with 4, the offsets of the pixels take more registers than there are
    if film is not None:
        options = rows_of_parts(options, positions)
    tiles = triton.cdiv(positions, options["M"])
    packed, y = x.new_empty((taps, channels, columns)), new(x, images, colours, *size)
    firsts = tuple(s * f - p for s, f, p in zip(stride, blocks.first, padding, strict=True))
    with on_device(x):
        pack_taps[grid(triton.cdiv(packed.numel(), _BLOCK))](
            weight,
            packed,
            packed.numel(),
            channels,
            colours,
            kernel,
            tuple(stride),
            firsts,
            blocks.pixels,
            blocks.taps[1],
            BLOCK=_BLOCK,
        )
        convolve[grid(triton.cdiv(columns, options["N"]) * tiles * parts * groups)](
            x,
            packed,
            None if bias is None else bias.contiguous(),
            None if affine is None else affine.contiguous(),
            film,
            y,
            None,
            (of_part, height, width, channels),
            parts,
            (*block_size, columns),
            blocks.taps,
            blocks.step,
            tuple(-f for f in blocks.first),
            (channels * columns, columns, 1),
            tiles,
            two_floats(signs_slope),
            two_floats(negative_slope),
            None if signs is None else channels_last(signs),
            (*blocks.pixels, colours, *size),
            None,
            None,
            None,
            TRANSPOSED=False,
            **options,
        )
    return y

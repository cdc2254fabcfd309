"""The weight gradient of a convolution from or to an image of few channels (colours) in Triton, and the sums over the
other side, which are the bias's gradient of a convolution from an image.

For both it is Σ over the positions of the features: features[position, c] · image[number under the kernel]. It is a
matrix product of C rows. Its sum is divided into segments, which other programs compute (split-K), and then added up in
a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton
from torch import Tensor

from igan_fast.ops.triton.common import grid, on_device, operator, two_floats
from igan_fast.ops.triton.convolution_image import Geometry, check_signs
from igan_fast.ops.triton.convolution_image_kernels import add_many_segments, image_weight_gradient
from igan_fast.ops.triton.convolution_launch import (
    channels_last,
    check_numbers,
    film_operand,
    groups_of,
    new,
    options_of,
    padded_positions,
    steps_of_images,
)
from igan_fast.reference.ops import accumulation_dtype

_PROGRAMS = 512  # wanted number of programs: several for each multiprocessor
_BLOCK = 32  # elements of a program that adds up segments
_SEGMENTS = 64  # segments that such a program loads at the same time
_CHANNELS = 64  # of the features, of a program; with more, the sums of the features take too many registers
_LEAST = 16  # the smallest side of a product of tensor cores


@operator(
    "convolution_image_weight_gradient(Tensor features, Tensor x, SymInt[] kernel, SymInt[] stride, SymInt[] padding, "
    "bool sums, Tensor? signs=None, float signs_slope=1.0, Tensor? affine=None, Tensor? film=None) -> "
    "(Tensor dweight, Tensor sums)"
)
def convolution_image_weight_gradient(
    features: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    sums: bool,
    signs: Tensor | None = None,
    signs_slope: float = 1.0,
    affine: Tensor | None = None,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradient of the weight of ``convolution_from_image`` or ``convolution_to_image``, and Σ features′.

    Args:
        features: (N, C, *size), of a floating dtype: the gradient of the output from an image, or the input of a
            convolution to an image.
        x: (N, colours, H, W), of features' dtype: the image, or the gradient of the output that is an image.
        kernel: height and width of the weight.
        stride, padding: of rows and of columns.
        sums: whether the sums are needed.
        signs: as features. They are then the gradient of a LeakyReLU's output, ``signs`` has the signs of its input,
            and features′ is the gradient of its input, rounded to their dtype. Without it features′ are the features.
        signs_slope: of that LeakyReLU, 0 or more; or of the one of ``affine``.
        affine: (groups, 3, C), as of ``convolution_affine``. features′ is then LeakyReLU(features normalised), rounded
            to their dtype.
        film: (N, 2 · C), as of ``convolution_statistics``. Only with ``affine``.

    Returns:
        (C, colours, *kernel), channels_last; and (C,), or without ``sums`` (0,).

    Raises:
        ValueError: shapes or dtypes that do not match.
        RuntimeError: the tensors are too large for one launch.
    """
    if features.dim() != 4 or x.dim() != 4 or features.dtype != x.dtype or features.shape[0] != x.shape[0]:
        raise ValueError(
            f"found features {tuple(features.shape)} in {features.dtype} and x {tuple(x.shape)} in {x.dtype}; "
            "expected 4 dimensions, one dtype and the same number of images"
        )
    check_signs(signs, features)
    features, x = channels_last(features), channels_last(x)
    images, channels, *size = features.shape
    colours, height, width = x.shape[1:]
    geometry = Geometry.of(kernel, colours, stride, padding)
    row = triton.next_power_of_2(geometry.row_terms)
    groups = groups_of(x, affine)
    positions, terms = images // groups * math.prod(size), geometry.kernel_rows * geometry.row_terms
    options = options_of(x, geometry.kernel_rows * row)
    side = min(options["M"], _CHANNELS, max(_LEAST, triton.next_power_of_2(channels)))
    options |= {"M": side, "K": max(_LEAST, options["K"] // 2)}  # a longer step takes more registers than there are
    film = film_operand(film, features)
    options = steps_of_images(options, math.prod(size), film)
    padded = padded_positions(options, math.prod(size), film)
    if film is not None:
        positions = images // groups * padded
    check_numbers(positions=positions, pixels=images // groups * height * width, terms=geometry.kernel_rows * row)
    steps = triton.cdiv(positions, options["K"])
    parts = triton.cdiv(channels, side) * triton.cdiv(geometry.kernel_rows * row, options["N"])
    per_segment = triton.cdiv(steps, min(steps, triton.cdiv(_PROGRAMS, parts * groups)))
    segments = triton.cdiv(steps, per_segment)
    wide = accumulation_dtype(x)
    dweight, total = new(x, channels, colours, *kernel), x.new_empty((channels if sums else 0,))
    partial = x.new_empty((groups * segments, channels, terms), dtype=wide)
    partial_sums = x.new_empty((groups * segments, channels), dtype=wide) if sums else None
    with on_device(x):
        image_weight_gradient[grid(parts * segments * groups)](
            features,
            None if signs is None else channels_last(signs),
            x,
            partial,
            partial_sums,
            (images // groups, *size, channels),
            (height, width),
            per_segment,
            two_floats(signs_slope),
            None if affine is None else affine.contiguous(),
            film,
            padded,
            segments,
            GEOMETRY=tuple(geometry),
            ROW=row,
            **options,
        )
        for source, out in ((partial, dweight), (partial_sums, total)):
            if source is not None:
                add_many_segments[grid(triton.cdiv(out.numel(), _BLOCK))](
                    source, out, out.numel(), groups * segments, BLOCK=_BLOCK, SEGMENTS=_SEGMENTS
                )
    return dweight, total

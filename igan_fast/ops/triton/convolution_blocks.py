"""The gradients of blocks in Triton: the launches. A block is a convolution, a normalisation by the statistics of a
group of images, and a LeakyReLU; ``igan_fast.ops.blocks`` makes a network of them, and calls the operators.

``convolution_gradient`` explains what is in memory between two blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
from torch import Tensor

from igan_fast.ops.triton.common import grid, on_device, operator, triton_dtype, two_floats
from igan_fast.ops.triton.convolution import Geometry, launch
from igan_fast.ops.triton.convolution_image import launch_from_image
from igan_fast.ops.triton.convolution_launch import channels_last, film_operand, gradient_operand, groups_of
from igan_fast.ops.triton.norm_act_backward import combine_film, combine_sums
from igan_fast.ops.triton.norm_act_launches import COMBINE_CHANNELS, Backward

_COMBINE_SEGMENTS = 128  # sums that a program that combines them loads at the same time


@operator(
    "convolution_block_gradient(Tensor grad, Tensor weight, SymInt[] size, SymInt[] stride, SymInt[] padding, "
    "bool transposed, Tensor? raw, Tensor? raw_affine, Tensor? terms, Tensor? before, Tensor? before_affine, "
    "Tensor? before_var, float before_slope, float eps, Tensor? signs, Tensor? grad_distance, float distance_scale, "
    "Tensor? film=None) -> (Tensor dx, Tensor terms, Tensor dweight, Tensor dbias, Tensor dfilm)"
)
def convolution_block_gradient(
    grad: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool,
    raw: Tensor | None,
    raw_affine: Tensor | None,
    terms: Tensor | None,
    before: Tensor | None,
    before_affine: Tensor | None,
    before_var: Tensor | None,
    before_slope: float,
    eps: float,
    signs: Tensor | None,
    grad_distance: Tensor | None,
    distance_scale: float,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradient of what a block's convolution takes, in one launch, and the sums of the block before.

    Args:
        grad: (N, C_out, H', W'), channels_last: the gradient of the convolution's output; with ``terms`` dz.
        weight, size, stride, padding, transposed: as ``convolution`` takes them to compute the gradient of the input.
        raw, raw_affine: the convolution's output and its (groups, 3, C_out) mean, scale and shift.
        terms: (2, groups, C_out), as this function returns them for the block.
        before: (N, C_in, H, W), the raw map of the block before, whose activation the convolution takes; None if it
            takes something else.
        before_affine, before_var: (groups, 3, C_in) and (groups, C_in), of that map.
        before_slope, eps: of its LeakyReLU and of its normalisation.
        signs: the sign mask of the L1 distance of what the convolution takes to something else, or None.
        grad_distance, distance_scale: two factors of the distance's gradient, a number in memory and another one.
        film: (N, 2 · C_in), γ and β by which the convolution's input is multiplied (1 + γ) and moved after the
            LeakyReLU, or None. Only with ``before``.

    Returns:
        With ``before``, dz of the block before; the terms of its normalisation; and the gradients of the
        normalisation's weight and bias (C_in,), and of film, or without film a tensor (0,). Without ``before``, the
        gradient of what the convolution takes, and four tensors (0,).

    Raises:
        ValueError: shapes or dtypes that do not match.
        RuntimeError: the tensors are too large for one launch.
    """
    gradient = gradient_operand(grad, raw, raw_affine, terms)
    groups = groups_of(grad, raw_affine, before_affine)
    previous = before_operand(before, before_affine, before_slope, film)
    distance = distance_operand(signs, grad_distance, distance_scale)
    to = Geometry(size, stride, padding, transposed)
    with on_device(grad):
        dx, sums = launch(grad, weight, None, to, 1.0, None, 1.0, groups, False, gradient, previous, distance)
        return dx, *_combine(dx, sums, before_var, eps)


@operator(
    "convolution_image_block_gradient(Tensor grad, Tensor weight, SymInt[] size, SymInt[] stride, SymInt[] padding, "
    "Tensor before, Tensor before_affine, Tensor before_var, float before_slope, float eps, Tensor? film=None) -> "
    "(Tensor dz, Tensor terms, Tensor dweight, Tensor dbias, Tensor dfilm)"
)
def convolution_image_block_gradient(
    grad: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    before: Tensor,
    before_affine: Tensor,
    before_var: Tensor,
    before_slope: float,
    eps: float,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradient of what ``convolution_to_image`` takes, as ``convolution_block_gradient`` gives it.

    Args:
        grad: (N, colours, H′, W′), the gradient of the image.
        weight: (C_in, colours, *kernel).
        size: (H, W) of the raw map.

    The other arguments are those of ``convolution_block_gradient``.
    """
    groups = groups_of(grad, before_affine)
    previous = before_operand(before, before_affine, before_slope, film)
    with on_device(grad):
        dz, sums = launch_from_image(grad, weight, None, size, stride, padding, 1.0, groups, previous)
        return dz, *_combine(dz, sums, before_var, eps)


@operator(
    "convolution_norm_gradient(Tensor grad, Tensor x, Tensor? weight, Tensor mean, Tensor var, float eps, "
    "Tensor terms) -> Tensor"
)
def convolution_norm_gradient(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, var: Tensor, eps: float, terms: Tensor
) -> Tensor:
    """The gradient of x, which is normalised before the first block, from that of the LeakyReLU's input.

    Args:
        grad, x: (N, C, H, W), channels_last.
        weight: (C,), or None for 1.
        mean, var: (groups, C), the statistics of x.
        terms: (2, groups, C), as of ``convolution_block_gradient``.
    """
    grad, x = channels_last(grad), channels_last(x)
    backward = Backward(grad, x, weight, None, mean, var, eps, 1.0, None)
    with on_device(x):
        return backward.gradient(list(terms.unbind()), True)


def before_operand(
    raw: Tensor | None, affine: Tensor | None, negative_slope: float, film: Tensor | None
) -> tuple[Tensor, Tensor, tuple[float, float], Tensor | None] | None:
    """The kernels' argument ``before``, but for the sums."""
    if raw is None or affine is None:
        return None
    return channels_last(raw), affine.contiguous(), two_floats(negative_slope), film_operand(film, raw)


def distance_operand(signs: Tensor | None, grad: Tensor | None, scale: float) -> tuple[Any, ...] | None:
    """The kernels' argument ``distance``."""
    return None if signs is None or grad is None else (signs, grad, two_floats(scale))


def _combine(dz: Tensor, sums: list[Tensor], var: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The terms of a normalisation, and the gradients of its weight and bias and of film, from the sums of
    ``sums_before``; empty tensors where there are none."""
    if not sums or var is None:
        return dz.new_empty(0), dz.new_empty(0), dz.new_empty(0), dz.new_empty(0)
    groups, segments, channels = sums[0].shape
    terms = sums[0].new_empty((2, groups, channels))
    dweight, dbias = sums[0].new_empty(channels), sums[0].new_empty(channels)
    combine_sums[grid(triton.cdiv(channels, COMBINE_CHANNELS))](
        *sums[:3],
        var.contiguous(),
        *terms.unbind(),
        dweight,
        dbias,
        dz.numel() // (groups * channels),
        channels,
        groups,
        segments,
        two_floats(eps),
        ACC=triton_dtype(dz.dtype),
        BLOCK=_COMBINE_SEGMENTS,
        CHANNELS=COMBINE_CHANNELS,
    )
    dfilm = sums[0].new_empty(0)
    if len(sums) > 3:
        images, segments, columns = sums[3].shape
        dfilm = dfilm.new_empty((images, columns))
        combine_film[grid(triton.cdiv(columns, COMBINE_CHANNELS) * images)](
            sums[3],
            dfilm,
            columns,
            images,
            segments,
            ACC=triton_dtype(dz.dtype),
            BLOCK=_COMBINE_SEGMENTS,
            CHANNELS=COMBINE_CHANNELS,
        )
    return terms, dweight, dbias, dfilm

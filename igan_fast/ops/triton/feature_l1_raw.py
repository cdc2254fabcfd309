"""feature_l1 of raw maps in Triton: the activations are computed where they are read, and never stored.

A raw map is the output of a block's convolution; its activation is LeakyReLU((y − mean) · scale + shift) with the mean,
scale and shift of each group of images (``convolution_gradient``). One launch takes all pairs. The sign mask is that of
``feature_l1``, with the elements numbered in channels_last order. ``convolution_block_gradient`` reads it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.triton.common import grid, on_device, operator, program, sum_of, triton_dtype, two_floats
from igan_fast.ops.triton.convolution_launch import channels_last
from igan_fast.ops.triton.feature_l1 import BLOCK_ELEMENTS, add_up, packed, program_starts, sign_mask_starts
from igan_fast.ops.triton.norm_act_forward import leaky_relu
from igan_fast.reference.ops import accumulation_dtype


@triton.jit
def activation(side, k, exists, channel, channels, ACC: tl.constexpr):
    """The activations of elements k of one side in ACC, rounded to its dtype; 0 where there is none.

    side: (map, affine, slope, elements of a group). affine is (groups, 3, channels), or None for a map of activations.
    The elements of a group are None if there is one group, which saves a division for each element.
    """
    values, affine, slope, per_group = side
    v = tl.load(values + k, mask=exists, other=0.0)
    if affine is None:
        return v.to(ACC)
    else:
        of_channel = affine + channel
        if per_group is not None:
            of_channel += k // per_group * 3 * channels
        mean = tl.load(of_channel, mask=exists, other=0.0)
        scale = tl.load(of_channel + channels, mask=exists, other=0.0)
        shift = tl.load(of_channel + channels + channels, mask=exists, other=0.0)
        z = (v.to(ACC) - mean) * scale + shift
        return tl.where(exists, leaky_relu(z, z, sum_of(slope, ACC)), 0.0).to(values.dtype.element_ty).to(ACC)


@triton.jit
def forward_raw(
    fakes,
    reals,
    numels,
    channels,
    starts,
    mask_starts,
    partial,
    masks,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Σ|fake − real| of one block per program, and its part of the sign mask; as ``forward`` of ``feature_l1``.

    Args:
        fakes, reals: the sides of each pair, as ``activation`` takes them.
        channels: of each pair.
    """
    block = program()
    for i in tl.static_range(len(fakes)):
        if (block >= starts[i]) & (block < starts[i + 1]):
            first = (block - starts[i]) * BLOCK
            k = first + tl.arange(0, BLOCK)
            exists = k < numels[i]
            channel = ((first % channels[i]).to(tl.int32) + tl.arange(0, BLOCK)) % channels[i]
            fake = activation(fakes[i], k, exists, channel, channels[i], ACC)
            real = activation(reals[i], k, exists, channel, channels[i], ACC)
            difference = fake - real
            tl.store(partial + block, tl.sum(tl.abs(difference), axis=0))
            byte = first // 8 + tl.arange(0, BLOCK // 8)
            kept = byte < tl.cdiv(numels[i], 64) * 8
            at = masks + mask_starts[i] + byte // 8 * 16 + byte % 8
            tl.store(at, packed(difference > 0, BLOCK), mask=kept)
            tl.store(at + 8, packed(difference < 0, BLOCK), mask=kept)


@operator(
    "feature_l1_raw(Tensor[] fake, Tensor[] real, Tensor?[] fake_affines, Tensor?[] real_affines, float[] fake_slopes, "
    "float[] real_slopes, float[] weights) -> (Tensor loss, Tensor signs)"
)
def feature_l1_raw(
    fake: list[Tensor],
    real: list[Tensor],
    fake_affines: list[Tensor | None],
    real_affines: list[Tensor | None],
    fake_slopes: list[float],
    real_slopes: list[float],
    weights: list[float],
) -> tuple[Tensor, Tensor]:
    """Σ wᵢ · mean|fakeᵢ − realᵢ| of the activations of raw maps, and the sign masks of all pairs.

    Args:
        fake, real: maps (N, C, H, W), pairwise of one shape.
        fake_affines, real_affines: (groups, 3, C) of each map, or None for a map of activations.
        fake_slopes, real_slopes: of the maps' LeakyReLUs.
        weights: wᵢ.

    Raises:
        ValueError: shapes that do not match.
    """
    for f, r, affines in zip(fake, real, zip(fake_affines, real_affines, strict=True), strict=True):
        if f.shape != r.shape or f.dim() != 4 or not f.numel():
            raise ValueError(f"found maps {tuple(f.shape)} and {tuple(r.shape)}; expected 4 equal sizes above 0")
        for affine in affines:
            if affine is not None and (affine.shape[1:] != (3, f.shape[1]) or f.shape[0] % affine.shape[0]):
                raise ValueError(f"found an affine {tuple(affine.shape)} of a map {tuple(f.shape)}")
    wide = accumulation_dtype(*fake, *real)
    numels = [f.numel() for f in fake]
    starts, mask_starts = program_starts(numels), sign_mask_starts(numels)
    loss = fake[0].new_zeros((), dtype=torch.float64)
    signs = fake[0].new_empty((mask_starts[-1],), dtype=torch.uint8)
    partial = loss.new_empty((starts[-1],), dtype=wide)
    with on_device(loss):
        forward_raw[grid(starts[-1])](
            tuple(map(_side, fake, fake_affines, fake_slopes)),
            tuple(map(_side, real, real_affines, real_slopes)),
            tuple(numels),
            tuple(f.shape[1] for f in fake),
            starts,
            mask_starts[:-1],
            partial,
            signs,
            ACC=triton_dtype(wide),
            BLOCK=BLOCK_ELEMENTS,
            num_warps=8,
        )
        scales = tuple(two_floats(weight / numel) for weight, numel in zip(weights, numels, strict=True))
        add_up[grid(1)](partial, loss, starts, scales, ACC=tl.float64, BLOCK=1024, num_warps=4)
    return loss.to(wide), signs


def _side(values: Tensor, affine: Tensor | None, slope: float) -> tuple[Any, ...]:
    """The kernel's argument for a map."""
    per_group = None if affine is None or affine.shape[0] == 1 else values.numel() // affine.shape[0]
    return channels_last(values), None if affine is None else affine.contiguous(), two_floats(slope), per_group

"""Functions of the kernels that compute the gradients of blocks: convolution, normalisation by the statistics of a
group of images, LeakyReLU.

Of a block only the raw map y is in memory, the convolution's output. z = (y − mean) · scale + shift is the LeakyReLU's
input. Between two blocks the backward pass stores dz, the gradient of z, and its sums over each group and channel. The
products of a block read dz and y, and compute the gradient of y from them in place (``block_gradient``). The input
gradient of the next block turns its result into dz and adds up the sums (``before_block``).

These sums are Σ dz, Σ dz · (y − mean) and Σ (y − mean), because the mean is rounded; ``combine_sums`` of norm_act makes
the terms of ``block_gradient`` of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from igan_fast.ops.triton.common import sum_of
from igan_fast.ops.triton.norm_act_forward import leaky_relu


@triton.jit
def of_channel(vector, channel, channels, AXIS: tl.constexpr):
    """A number of each channel, as of ``activated``; 0 where there is none."""
    return tl.expand_dims(tl.load(vector + channel, mask=channel < channels, other=0.0), AXIS)


@triton.jit
def block_gradient(dz, y, gradient, group, channel, channels, ACC: tl.constexpr, AXIS: tl.constexpr):
    """scale · (dz − mean(dz) − (y − mean) · slope) in ACC: the gradient of y. The channel is dz's dimension 1 if AXIS
    is 0, and 0 if it is 1.

    Args:
        gradient: (raw, affine, mean_grads, slopes). affine (groups, 3, channels) is the mean, scale and shift of each
            group; mean_grads and slopes (groups, channels) are the terms of ``combine_sums``.
    """
    _raw, affine, mean_grads, slopes = gradient
    of_group = affine + group * 3 * channels
    mean = of_channel(of_group, channel, channels, AXIS)
    scale = of_channel(of_group + channels, channel, channels, AXIS)
    mean_grad = of_channel(mean_grads + group * channels, channel, channels, AXIS)
    slope = of_channel(slopes + group * channels, channel, channels, AXIS)
    return ((dz.to(ACC) - mean_grad) - (y.to(ACC) - mean) * slope) * scale


@triton.jit
def before_block(
    value,
    offsets,
    exists,
    group,
    segment,
    channel,
    channels,
    before,
    distance,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
):
    """The gradient of the map that a block takes as the block before needs it, rounded to DTYPE. Where ``before`` is
    given it is dz, and its sums are stored.

    Args:
        value: (M, N) in ACC, the gradient that the block itself gives.
        offsets, exists: where it is in the map, and a mask.
        segment: the number of these sums.
        channel: (N,).
        before: None for a map that no normalisation precedes; or (raw, affine, slope, grads, products, deviations): the
            raw map, its (groups, 3, C) mean, scale and shift, the LeakyReLU's slope, and the sums (segments, C).
        distance: None, or (signs, grad, scale): the sign mask of the map's L1 distance to another (``sign_mask``), and
            two factors of its gradient, the number ``grad`` in memory and the number ``scale``.
    """
    if distance is not None:
        signs, grad, scale = distance
        byte = signs + offsets // 64 * 16 + offsets // 8 % 8
        bit = (offsets % 8).to(tl.int32)
        positive = (tl.load(byte, mask=exists, other=0).to(tl.int32) >> bit) & 1
        negative = (tl.load(byte + 8, mask=exists, other=0).to(tl.int32) >> bit) & 1
        value += (positive - negative).to(ACC) * (tl.load(grad).to(ACC) * sum_of(scale, ACC))
    if before is None:
        return value.to(DTYPE)
    else:
        raw, affine, slope, grads, products, deviations = before
        of_group = affine + group * 3 * channels
        mean = of_channel(of_group, channel, channels, 0)
        z_scale = of_channel(of_group + channels, channel, channels, 0)
        shift = of_channel(of_group + channels + channels, channel, channels, 0)
        centred = tl.load(raw + offsets, mask=exists, other=0.0).to(ACC) - mean
        dz = leaky_relu(centred * z_scale + shift, value, sum_of(slope, ACC))
        passed = tl.where(exists, dz, 0.0)  # not rounded: the sums are gradients too, of weight and bias
        centred = tl.where(exists, centred, 0.0)
        out, known = segment * channels + channel, channel < channels
        tl.store(grads + out, tl.sum(passed, axis=0), mask=known)
        tl.store(products + out, tl.sum(passed * centred, axis=0), mask=known)
        tl.store(deviations + out, tl.sum(centred, axis=0), mask=known)
        return dz.to(DTYPE)

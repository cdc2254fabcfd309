"""Functions of the kernels that compute the gradients of blocks: convolution, normalisation by the statistics of a
group of images, LeakyReLU, and with film a scale and a shift for each image and channel.

Of a block only the raw map y is in memory, the convolution's output. z = (y − mean) · scale + shift is the LeakyReLU's
input. Between two blocks the backward pass stores dz, the gradient of z, and its sums over each group and channel. The
products of a block read dz and y, and compute the gradient of y from them in place (``block_gradient``). The input
gradient of the next block turns its result into dz and adds up the sums (``before_block``).

These sums are Σ dz, Σ dz · (y − mean) and Σ (y − mean), because the mean is rounded; ``combine_sums`` of norm_act makes
the terms of ``block_gradient`` of them.

With ``film`` (N, 2 · C), γ and β of each image, the map is LeakyReLU(z) · (1 + γ) + β. A kernel then takes the images
one by one: each is a part of the images, and a group has several parts. The sums are those of parts of an image, and
there are two more for film's gradient.
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
def modulated(v, film, image, channel, channels, ACC: tl.constexpr, AXIS: tl.constexpr):
    """v · (1 + γ) + β in ACC, with an image's γ and β in ``film`` (N, 2 · channels). The channel is v's dimension 1 if
    AXIS is 0, and 0 if it is 1."""
    of_image = film + image * 2 * channels
    factor = 1 + of_channel(of_image, channel, channels, AXIS).to(ACC)
    return v * factor + of_channel(of_image + channels, channel, channels, AXIS).to(ACC)


@triton.jit
def position_of(start, images, height, width, film, padded, K: tl.constexpr):
    """Column, row and image of the positions of a step, each (K,), and a mask of those that exist.

    With film a step is of one image, so that its γ and β are numbers of each channel.

    Args:
        start: the number of the step's first position.
        images: of a group.
        padded: with film, the positions of an image, rounded up to whole steps.
    """
    if film is None:
        k = start + tl.arange(0, K)
        image = k // width // height
        return k % width, k // width % height, image, image < images
    else:
        k = start % padded + tl.arange(0, K)
        image = tl.zeros_like(k) + start // padded
        return k % width, k // width, image, (k < height * width) & (image < images)


@triton.jit
def image_of(start, images, group, padded):
    """The image of a step with film, as of ``position_of``; the last one of the group for steps after its end."""
    return group * images + tl.minimum(start // padded, images - 1)


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
    part,
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
        group: of images that share their statistics.
        part: of the images; with film an image.
        segment: the number of these sums.
        channel: (N,).
        before: None for a map that no normalisation precedes; or (raw, affine, slope, film, grads, products,
            deviations, film_sums): the raw map, its (groups, 3, C) mean, scale and shift, the LeakyReLU's slope, film
            or None, the sums (segments, C), and with film those that give its gradient, (segments, 2, C).
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
        raw, affine, slope, film, grads, products, deviations, film_sums = before
        of_group = affine + group * 3 * channels
        mean = of_channel(of_group, channel, channels, 0)
        z_scale = of_channel(of_group + channels, channel, channels, 0)
        shift = of_channel(of_group + channels + channels, channel, channels, 0)
        centred = tl.load(raw + offsets, mask=exists, other=0.0).to(ACC) - mean
        z, known = centred * z_scale + shift, channel < channels
        if film is not None:
            activation = leaky_relu(z, z, sum_of(slope, ACC))
            of_film = film_sums + segment * 2 * channels + channel
            tl.store(of_film, tl.sum(tl.where(exists, value * activation, 0.0), axis=0), mask=known)
            tl.store(of_film + channels, tl.sum(tl.where(exists, value, 0.0), axis=0), mask=known)
            value *= 1 + of_channel(film + part * 2 * channels, channel, channels, 0).to(ACC)
        dz = leaky_relu(z, value, sum_of(slope, ACC))
        passed = tl.where(exists, dz, 0.0)  # not rounded: the sums are gradients too, of weight and bias
        centred = tl.where(exists, centred, 0.0)
        out = segment * channels + channel
        tl.store(grads + out, tl.sum(passed, axis=0), mask=known)
        tl.store(products + out, tl.sum(passed * centred, axis=0), mask=known)
        tl.store(deviations + out, tl.sum(centred, axis=0), mask=known)
        return dz.to(DTYPE)

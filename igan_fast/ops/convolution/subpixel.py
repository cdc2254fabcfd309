"""Transposed convolution to few channels, as the ordinary convolution and pixel shuffle that it is.

A transposed convolution of stride s computes s × s interleaved outputs, each an ordinary convolution of the input
with every s-th tap of the kernel (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?").
To three channels, 5×5 and stride 2, that is a 3×3 convolution to twelve: the same sums, in a shape that libraries are
good at."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.transforms import overridable

__all__ = ["FEW_CHANNELS", "conv_transpose2d"]

FEW_CHANNELS = 4  # at most so many gain by it; with more the library's own form is as fast or faster


@overridable
def conv_transpose2d(
    x: Tensor, weight: Tensor, stride: int, padding: int, output_padding: int, *, bias: Tensor | None = None
) -> Tensor:
    """``F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)``, by the faster of the two ways.

    Args:
        x: (N, C_in, H, W).
        weight: (C_in, C_out, K, K).

    Returns:
        (N, C_out, H', W') with H' = (H − 1)·stride − 2·padding + K + output_padding.
    """
    if backend.plain_only(x, weight, bias):
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    kernel = weight.shape[-1]
    whole = kernel + output_padding == stride + 2 * padding  # H' = stride · H
    square = weight.shape[-2] == kernel
    # The taps that output s·i + a sums over lie at k = a + padding + s·t, on the input at i − t.
    last = (kernel - 1 - padding) // stride
    first = -((padding + stride - 1) // stride)
    if weight.shape[1] > FEW_CHANNELS or x.device.type != "cpu" or not (whole and square and first == -last):
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    taps = last - first + 1
    left = -(padding + stride * first)
    right = padding + stride * (last + 1) - kernel
    c_in, c_out = weight.shape[:2]
    padded = F.pad(weight, (left, right, left, right)).reshape(c_in, c_out, taps, stride, taps, stride)
    phases = padded.flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(c_out * stride * stride, c_in, taps, taps)
    spread = None if bias is None else bias.repeat_interleave(stride * stride)
    return F.pixel_shuffle(F.conv2d(x, phases, spread, padding=last), stride)

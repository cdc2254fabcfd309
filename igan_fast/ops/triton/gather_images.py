"""gather_images in Triton: one launch from the images kept on the device to the batch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.triton.common import grid, on_device, operator, program

_BLOCK = 2048


@triton.jit
def gather(images, index, mirrored, out, count, height, width, channels, numel, BLOCK: tl.constexpr):
    """out (N, H, W, C) = the images at ``index``, mapped from 0 … 255 to −1 … 1; NaN for an index out of range."""
    k = program() * BLOCK + tl.arange(0, BLOCK)
    exists = k < numel
    channel = k % channels
    column = k // channels % width
    row = k // channels // width % height
    image = k // channels // width // height
    source = tl.load(index + image, mask=exists, other=0)
    flip = tl.load(mirrored + image, mask=exists, other=0).to(tl.int1)
    column = tl.where(flip, width - 1 - column, column)
    at = ((source * height + row) * width + column) * channels + channel
    in_range = (source >= 0) & (source < count)
    level = tl.load(images + at, mask=exists & in_range, other=0).to(tl.float32)
    tl.store(out + k, tl.where(in_range, tl.div_rn(level, 127.5) - 1.0, float("nan")), mask=exists)


@operator("gather_images(Tensor images, Tensor index, Tensor mirrored) -> Tensor")
def gather_images(images: Tensor, index: Tensor, mirrored: Tensor) -> Tensor:
    """See ``igan_fast.ops.gather_images``; (N, H, W, C), contiguous."""
    count, height, width, channels = images.shape
    out = torch.empty((len(index), height, width, channels), dtype=torch.float32, device=images.device)
    if out.numel():
        with on_device(out):
            gather[grid(triton.cdiv(out.numel(), _BLOCK))](
                images,
                index,
                mirrored.view(torch.uint8),
                out,
                count,
                height,
                width,
                channels,
                out.numel(),
                BLOCK=_BLOCK,
                num_warps=8,
            )
    return out

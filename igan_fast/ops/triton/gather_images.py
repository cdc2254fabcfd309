"""gather_images in Triton: one launch from the resident pictures to the batch that D sees."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.triton.common import define, launchable, on_device, program

_BLOCK = 2048


@triton.jit
def _gather(images, index, mirrored, out, pictures, height, width, channels, numel, BLOCK: tl.constexpr):
    """out[k] = images at the k-th place of the batch (N, H, W, C), from 0 … 255 to −1 … 1; NaN of no picture."""
    k = program() * BLOCK + tl.arange(0, BLOCK)
    inside = k < numel
    channel = k % channels
    column = k // channels % width
    row = k // channels // width % height
    picture = k // channels // width // height
    source = tl.load(index + picture, mask=inside, other=0)
    flip = tl.load(mirrored + picture, mask=inside, other=0).to(tl.int1)
    column = tl.where(flip, width - 1 - column, column)
    at = ((source * height + row) * width + column) * channels + channel
    there = (source >= 0) & (source < pictures)
    level = tl.load(images + at, mask=inside & there, other=0).to(tl.float32)
    tl.store(out + k, tl.where(there, tl.div_rn(level, 127.5) - 1.0, float("nan")), mask=inside)


def gather_images(images: Tensor, index: Tensor, mirrored: Tensor) -> Tensor:
    """See ``igan_fast.ops.gather_images``."""
    pictures, height, width, channels = images.shape
    out = torch.empty((len(index), height, width, channels), dtype=torch.float32, device=images.device)
    if out.numel():
        with on_device(out):
            _gather[(launchable(triton.cdiv(out.numel(), _BLOCK)),)](
                images,
                index,
                mirrored.view(torch.uint8),
                out,
                pictures,
                height,
                width,
                channels,
                out.numel(),
                BLOCK=_BLOCK,
                num_warps=8,
            )
    return out


define("gather_images(Tensor images, Tensor index, Tensor mirrored) -> Tensor", gather_images)

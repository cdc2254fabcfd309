"""A training batch from images that stay on the device: gathered, mirrored and scaled in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.ops import backend

__all__ = ["gather_images", "pick"]


def gather_images(images: Tensor, index: Tensor, mirrored: Tensor, *, impl: str = "auto") -> Tensor:
    """The images at ``index``, some of them mirrored, as a batch for the networks.

    Args:
        images: (M, H, W, C) uint8, contiguous, values 0 … 255.
        index: (N,) int64, from 0 to M − 1. On a GPU the host does not check the values, because it would have to wait
            for them. For an index out of range, Triton returns an image of NaN, and PyTorch raises a device-side error.
        mirrored: (N,) bool: whether to mirror each of the N images, left to right.
        impl: "auto", "triton" or "reference". There are no native kernels: "native" runs the reference.

    Returns:
        (N, C, H, W) float32 in channels_last memory format; 0 and 255 become exactly −1 and 1.

    Raises:
        ValueError: an argument of another shape, dtype or device; an unknown ``impl``.
        RuntimeError: ``impl`` is "triton", which cannot run here; the message says why.
    """
    if images.dim() != 4 or images.dtype != torch.uint8 or not images.is_contiguous():
        raise ValueError(f"images is {images.dtype} {tuple(images.shape)}; expected contiguous uint8 (M, H, W, C)")
    for name, tensor, dtype in (("index", index, torch.int64), ("mirrored", mirrored, torch.bool)):
        if tensor.dim() != 1 or tensor.dtype != dtype or len(tensor) != len(index):
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}; expected {dtype} ({len(index)},)")
        if tensor.device != images.device:
            raise ValueError(f"{name} is on {tensor.device}; expected {images.device}, as images")
    if impl not in backend.IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; expected one of {', '.join(backend.IMPLEMENTATIONS)}")
    tensors = (images, index, mirrored)
    by_default = impl == "auto" and backend.has_triton(images.device) and not backend.plain_only(*tensors)
    if impl == "triton" or by_default:
        backend.namespace("triton", images.device, (torch.float32,), tensors)  # raises where it cannot run
        batch: Tensor = torch.ops.igan_fast_triton.gather_images(images, index.contiguous(), mirrored.contiguous())
        return batch.permute(0, 3, 1, 2)
    return pick(images, index, mirrored).permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def pick(images: Tensor, index: Tensor, mirrored: Tensor) -> Tensor:
    """The images at ``index``, mirrored where ``mirrored`` is true: (N, H, W, C) uint8.

    All images are mirrored, and ``torch.where`` selects. This needs no synchronisation. Indexing by the mask would wait
    for the GPU, because the size of the result depends on the values of the mask.
    """
    picked = images.index_select(0, index)
    return torch.where(mirrored[:, None, None, None], picked.flip(2), picked)

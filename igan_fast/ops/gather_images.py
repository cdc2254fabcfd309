"""From pictures that stay on the device to a training batch: gather, mirror and normalise in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.ops import backend

__all__ = ["gather_images", "pick"]


def gather_images(images: Tensor, index: Tensor, mirrored: Tensor, *, impl: str = "auto") -> Tensor:
    """A batch of a set of pictures, some of them mirrored, as the networks take it.

    Args:
        images: (M, H, W, C) uint8, contiguous.
        index: (N,) int64, which pictures. On a GPU not checked against M, which would make the host wait: Triton gives
            NaN for a picture that is not there, PyTorch an error from the device.
        mirrored: (N,) bool, which of them are mirrored, left and right.
        impl: "auto", "triton" or "reference" (there are no native kernels: "native" is the reference).

    Returns:
        (N, C, H, W) float32 with its channels last in memory; 0 and 255 become exactly −1 and 1.

    Raises:
        ValueError: an argument of another shape, dtype or device.
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
        backend.namespace("triton", images.device, (torch.float32,), tensors)  # what is computed, and what it knows
        batch: Tensor = torch.ops.igan_fast_triton.gather_images(images, index.contiguous(), mirrored.contiguous())
        return batch.permute(0, 3, 1, 2)
    return pick(images, index, mirrored).permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def pick(images: Tensor, index: Tensor, mirrored: Tensor) -> Tensor:
    """The pictures at ``index``, mirrored where ``mirrored`` says so, as they are kept: (N, H, W, C) uint8.

    By where, not by index: the number of mirrored pictures would have to come back to the host.
    """
    picked = images.index_select(0, index)
    return torch.where(mirrored[:, None, None, None], picked.flip(2), picked)

"""The results' shapes of Triton's convolutions and blocks, for tensors without data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.sign_mask import sign_mask_bytes
from igan_fast.reference.ops import accumulation_dtype

__all__ = ["register"]


def register(namespace: str) -> None:
    """Register them, if these operators are in the namespace."""
    if namespace != backend.TRITON:
        return
    for name, fake in {
        "convolution": _convolution,
        "convolution_from_image": lambda x, weight, bias, size, *_: _new(x, weight.shape[0], size),
        "convolution_to_image": lambda x, weight, bias, size, *_: _new(x, weight.shape[1], size),
        "convolution_statistics": _statistics,
        "convolution_affine": lambda weight, bias, mean, var, eps: mean.new_empty((mean.shape[0], 3, mean.shape[1])),
        "convolution_weight_gradient": _weight_gradient,
        "convolution_image_weight_gradient": _image_weight_gradient,
        "convolution_block_gradient": _block_gradient,
        "convolution_image_block_gradient": _image_block_gradient,
        "convolution_norm_gradient": lambda grad, x, *_: _new(x, x.shape[1], x.shape[2:]),
        "feature_l1_raw": _feature_l1_raw,
    }.items():
        torch.library.register_fake(f"{namespace}::{name}")(fake)


def _new(x: Tensor, channels: int, size: Sequence[int], images: int | None = None) -> Tensor:
    shape = (x.shape[0] if images is None else images, channels, *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool,
    *_: Any,
) -> Tensor:
    return _new(x, weight.shape[1 if transposed else 0], size)


def _statistics(
    x: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool,
    groups: int,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    z = _convolution(x, weight, None, size, stride, padding, transposed)
    mean, var = (x.new_empty((groups, z.shape[1]), dtype=accumulation_dtype(x)) for _ in range(2))
    return z, mean, var


def _weight_gradient(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool,
    *_: Any,
) -> Tensor:
    first, second = (x, grad) if transposed else (grad, x)
    return _new(x, second.shape[1], kernel, first.shape[1])


def _image_weight_gradient(
    features: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    sums: bool,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    channels = features.shape[1]
    return _new(x, x.shape[1], kernel, channels), x.new_empty((channels if sums else 0,))


def _block_gradient(
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
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx = _convolution(grad, weight, None, size, stride, padding, transposed)
    return dx, *_terms(dx, None if before is None else before_affine, *others[6:])


def _image_block_gradient(
    grad: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    before: Tensor,
    before_affine: Tensor,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dz = _new(grad, weight.shape[0], size)
    return dz, *_terms(dz, before_affine, *others[3:])


def _terms(dz: Tensor, affine: Tensor | None, film: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The terms of a normalisation, and the gradients of its weight and bias, and of film."""
    if affine is None:
        return dz.new_empty(0), dz.new_empty(0), dz.new_empty(0), dz.new_empty(0)
    groups, _, channels = affine.shape
    of_channels = affine.new_empty(channels), affine.new_empty(channels)
    return affine.new_empty((2, groups, channels)), *of_channels, affine.new_empty(0 if film is None else film.shape)


def _feature_l1_raw(fake: list[Tensor], real: list[Tensor], *_: Any) -> tuple[Tensor, Tensor]:
    loss = fake[0].new_empty((), dtype=accumulation_dtype(*fake, *real))
    return loss, fake[0].new_empty((sum(sign_mask_bytes(t.numel()) for t in fake),), dtype=torch.uint8)


backend.on_load(register)

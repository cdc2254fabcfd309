"""Convolutions for the tests of Triton's kernels, and PyTorch's results."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Case(NamedTuple):
    """A convolution (N, C_in, H, W) → C_out channels."""

    batch: int
    channels: int
    out: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    extra: tuple[int, int] = (0, 0)  # output padding of the transposed convolution


CASES = {
    "the paper's, odd size": Case(1, 3, 5, (9, 7), (5, 5), (2, 2), (2, 2), (1, 1)),
    "no padding at one side": Case(2, 5, 40, (6, 5), (3, 3), (2, 2), (0, 1), (1, 0)),
    "4×4": Case(2, 40, 3, (4, 6), (4, 4), (2, 2), (1, 1)),
    "stride 1": Case(3, 32, 16, (5, 4), (3, 3), (1, 1), (1, 1)),
    "one channel, one image": Case(1, 1, 1, (6, 9), (5, 5), (1, 1), (0, 0)),
    "whole steps, several blocks of channels": Case(1, 64, 130, (3, 4), (3, 2), (2, 2), (1, 1), (1, 0)),
    "unequal sides": Case(2, 3, 4, (7, 11), (3, 5), (2, 3), (1, 0), (0, 2)),
    "one tap": Case(2, 16, 5, (4, 3), (1, 1), (1, 1), (0, 0)),
    "stride beyond the kernel": Case(1, 5, 3, (5, 7), (2, 1), (3, 2), (0, 0), (2, 1)),
    "wide padding": Case(1, 3, 5, (5, 6), (5, 5), (1, 1), (3, 4)),
}


def plain(case: Case, transposed: bool, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if transposed:
        return F.conv_transpose2d(x, weight, bias, case.stride, case.padding, case.extra)
    return F.conv2d(x, weight, bias, case.stride, case.padding)


def arguments(case: Case, transposed: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    ends = (case.channels, case.out) if transposed else (case.out, case.channels)
    x, weight = torch.randn(case.batch, case.channels, *case.size), torch.randn(*ends, *case.kernel) * 0.1
    return tuple(t.to(device, dtype) for t in (x, weight, torch.randn(case.out)))  # type: ignore[return-value]

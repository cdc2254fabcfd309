"""The blocks that G and D are made of, as modules that hold the parameters of the operators in ``ops``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from igan_fast.reference import ops

__all__ = ["ConvNormAct2d", "ConvTransposeNormAct2d", "NormAct2d"]


class NormAct2d(nn.Module):
    """Batch normalisation and LeakyReLU: ``nn.BatchNorm2d`` followed by ``nn.LeakyReLU``, with the former's state keys.

    Args:
        num_features: channels C of the input (N, C, H, W).
        negative_slope: 0 is ReLU, 1 is no activation.
        groups: parts of the batch that are normalised apart, see ``ops.norm_act``.
    """

    #: The operators that it runs on; the fast wing's layers put theirs here.
    operators: ClassVar[Any] = ops

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        negative_slope: float = 0.2,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.eps, self.momentum, self.negative_slope, self.groups = eps, momentum, negative_slope, groups
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        self.count_batches()
        y: Tensor = self.operators.norm_act(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            negative_slope=self.negative_slope,
            groups=self.groups,
        )
        return y

    def count_batches(self) -> None:
        """Keep ``num_batches_tracked`` as ``nn.BatchNorm2d`` does: one a pass and group in training."""
        if self.training:
            self.num_batches_tracked.add_(self.groups)

    def extra_repr(self) -> str:
        return (
            f"{self.weight.numel()}, eps={self.eps}, momentum={self.momentum}, "
            f"negative_slope={self.negative_slope}, groups={self.groups}"
        )


class _ConvNormAct2d(nn.Module):
    """What the two blocks share: a bias-free convolution and the normalisation after it, run as one operator."""

    operators: ClassVar[Any] = ops
    norm_type: ClassVar[type[NormAct2d]] = NormAct2d

    conv: nn.Conv2d | nn.ConvTranspose2d
    norm: NormAct2d

    def _run(self, x: Tensor, stride: int, padding: int, output_padding: int, *, transposed: bool) -> Tensor:
        norm = self.norm
        norm.count_batches()
        y: Tensor = self.operators.conv_norm_act(
            x,
            self.conv.weight,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
            transposed=transposed,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            training=self.training,
            momentum=norm.momentum,
            eps=norm.eps,
            negative_slope=norm.negative_slope,
            groups=norm.groups,
        )
        return y


class ConvNormAct2d(_ConvNormAct2d):
    """Conv2d without bias, batch normalisation, LeakyReLU: one layer of D (Sec. 4; 5×5, stride 2, padding 2)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        stride: int = 2,
        padding: int = 2,
        *,
        negative_slope: float = 0.2,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = self.norm_type(out_channels, negative_slope=negative_slope, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H/2, W/2) with the default sizes and even H, W."""
        return self._run(x, self.stride, self.padding, 0, transposed=False)


class ConvTransposeNormAct2d(_ConvNormAct2d):
    """ConvTranspose2d without bias, batch normalisation, (Leaky)ReLU: one layer of G (Sec. 4)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        stride: int = 2,
        padding: int = 2,
        output_padding: int = 1,
        *,
        negative_slope: float = 0.0,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.conv = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, bias=False
        )
        self.norm = self.norm_type(out_channels, negative_slope=negative_slope, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, 2H, 2W) with the default sizes."""
        return self._run(x, self.stride, self.padding, self.output_padding, transposed=True)

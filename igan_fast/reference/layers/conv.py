"""Convolution, normalisation and LeakyReLU as one module: the layers of D and G (Sec. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from igan_fast.reference import ops
from igan_fast.reference.layers.norm import NormAct2d, check_input
from igan_fast.reference.layers.untouched import untouched
from igan_fast.reference.recorded import FxLeaf, is_proxy, is_tracing

if TYPE_CHECKING:
    from typing_extensions import Self

    from igan_fast.reference.processes import ProcessGroup

__all__ = ["ConvNormAct2d", "ConvTransposeNormAct2d"]

#: One number, or one for the height and one for the width.
Size: TypeAlias = int | Sequence[int]


class _ConvNormAct2d(FxLeaf):
    """Base class of the two blocks: a convolution and the normalisation after it, run as one operator."""

    operators: ClassVar[Any] = ops
    norm_type: ClassVar[type[NormAct2d]] = NormAct2d
    conv_type: ClassVar[type[nn.Conv2d | nn.ConvTranspose2d]]

    conv: nn.Conv2d | nn.ConvTranspose2d
    norm: NormAct2d

    def __init__(
        self,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool | None,
        device: torch.device | str | int | None,
        dtype: torch.dtype | None,
        negative_slope: float,
        groups: int | Literal["instance"],
        process_group: ProcessGroup | None,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = self.norm_type(
            conv.out_channels,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            negative_slope=negative_slope,
            groups=groups,
            process_group=process_group,
        )

    @classmethod
    def from_torch(
        cls,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        norm: nn.BatchNorm2d | nn.InstanceNorm2d,
        act: nn.ReLU | nn.LeakyReLU | nn.Identity | None = None,
    ) -> Self:
        """One block from three modules. It shares their parameters and buffers; nothing is copied.

        Args:
            conv: the convolution, which becomes a submodule of the block.
            norm, act: as of ``NormAct2d.from_torch``.

        Raises:
            TypeError: a module is of another class, or of a derived one.
            ValueError: ``conv`` has another ``padding_mode`` than zeros, or its padding is a string; or the numbers of
                channels differ.
        """
        if type(conv) is not cls.conv_type:
            raise TypeError(f"conv is a {type(conv).__name__}; expected an nn.{cls.conv_type.__name__}")
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            padding = conv.padding_mode if conv.padding_mode != "zeros" else conv.padding
            raise ValueError(f"conv has the padding {padding!r}; expected numbers of zeros")
        if norm.num_features != conv.out_channels:
            raise ValueError(
                f"norm has {norm.num_features} features; expected {conv.out_channels}, the channels of conv"
            )
        block = cls.__new__(cls)
        nn.Module.__init__(block)
        block.conv, block.norm = conv, cls.norm_type.from_torch(norm, act)
        block.training = norm.training
        return block

    def reset_parameters(self) -> None:
        """Initialise the convolution as PyTorch does, and the normalisation as ``NormAct2d`` does."""
        self.conv.reset_parameters()
        self.norm.reset_parameters()

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        """(N, in, H, W) → (N, out, H', W'), with H' and W' of the convolution's output; ``film`` is that of
        ``ops.norm_act``.

        Raises:
            ValueError: x has another number of dimensions or channels; ``film`` has another shape; ``groups`` does not
                divide N; or there is one value per channel while the batch's own statistics are needed.
        """
        if is_proxy(x) or is_proxy(film):
            node: Tensor = self.fx_node(x) if film is None else self.fx_node(x, film)
            return node
        conv, norm = self.conv, self.norm
        check_input(x, conv.in_channels)
        if norm.groups == "instance" and is_tracing():
            return norm.of_any_batch(conv(x), film)
        if not untouched(conv, norm):
            result: Tensor = norm(conv(x)) if film is None else norm(conv(x), film)
            return result
        y: Tensor = self.operators.conv_norm_act(
            x,
            conv.weight,
            norm.weight,
            norm.bias,
            transposed=conv.transposed,
            stride=conv.stride,
            padding=conv.padding,
            output_padding=conv.output_padding,
            dilation=conv.dilation,
            conv_groups=conv.groups,
            conv_bias=conv.bias,
            film=film,
            **norm.begin_pass(x),
        )
        return y


class ConvNormAct2d(_ConvNormAct2d):
    """Conv2d, batch normalisation, LeakyReLU: one layer of D (Sec. 4; 5×5, stride 2, padding 2).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: as of ``nn.Conv2d``, numbers or pairs of
            numbers; kernel, stride and padding are the paper's where omitted.
        conv_groups, conv_bias: ``groups`` and ``bias`` of ``nn.Conv2d``. Normalisation by the batch's statistics
            cancels a bias.
        device, dtype: of parameters and buffers.
        eps, momentum, affine, track_running_stats, negative_slope, groups, process_group: as of ``NormAct2d``.

    Raises:
        ValueError, TypeError: as ``nn.Conv2d`` and ``NormAct2d``; also ValueError if ``padding`` is a string.
    """

    conv_type = nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 5,
        stride: Size = 2,
        padding: Size = 2,
        *,
        dilation: Size = 1,
        conv_groups: int = 1,
        conv_bias: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool | None = None,
        negative_slope: float = 0.2,
        groups: int | Literal["instance"] = 1,
        process_group: ProcessGroup | None = None,
    ) -> None:
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            _pair("kernel_size", kernel_size),
            _pair("stride", stride),
            _pair("padding", padding),
            _pair("dilation", dilation),
            conv_groups,
            conv_bias,
            device=device,
            dtype=dtype,
        )
        super().__init__(
            conv, eps, momentum, affine, track_running_stats, device, dtype, negative_slope, groups, process_group
        )


class ConvTransposeNormAct2d(_ConvNormAct2d):
    """ConvTranspose2d, batch normalisation, (Leaky)ReLU: one layer of G.

    The paper's layers (Sec. 4) are 5×5 with stride 2, padding 2 and output padding 1.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation: as of ``nn.ConvTranspose2d``,
            numbers or pairs of numbers; kernel, stride and paddings are the paper's where omitted. Another kernel size
            (4×4, say) needs another ``output_padding``.
        conv_groups, conv_bias, device, dtype, eps, momentum, affine, track_running_stats, groups, process_group: as of
            ``ConvNormAct2d``.
        negative_slope: as of ``ConvNormAct2d``; the default of 0 is a ReLU.

    Raises:
        ValueError, TypeError: as ``ConvNormAct2d``.
    """

    conv_type = nn.ConvTranspose2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 5,
        stride: Size = 2,
        padding: Size = 2,
        output_padding: Size = 1,
        *,
        dilation: Size = 1,
        conv_groups: int = 1,
        conv_bias: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool | None = None,
        negative_slope: float = 0.0,
        groups: int | Literal["instance"] = 1,
        process_group: ProcessGroup | None = None,
    ) -> None:
        conv = nn.ConvTranspose2d(
            in_channels,
            out_channels,
            _pair("kernel_size", kernel_size),
            _pair("stride", stride),
            _pair("padding", padding),
            _pair("output_padding", output_padding),
            conv_groups,
            conv_bias,
            _pair("dilation", dilation),
            device=device,
            dtype=dtype,
        )
        super().__init__(
            conv, eps, momentum, affine, track_running_stats, device, dtype, negative_slope, groups, process_group
        )


def _pair(name: str, size: Size) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(number, int) for number in size):
        return size[0], size[1]
    raise ValueError(f"{name} is {size!r}; expected a whole number, or two of them")

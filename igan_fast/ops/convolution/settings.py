"""A convolution's settings, and which way it is computed: by our own kernels where these are faster, else PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.ops import winograd_conv
from igan_fast.ops.layout import channels_first
from igan_fast.ops.subpixel import FEW_CHANNELS
from igan_fast.ops.transforms import batched, transformed
from igan_fast.reference.ops import per_dimension

__all__ = ["Geometry", "Given"]


class Given(NamedTuple):
    """What there is to know of a convolution's input for its gradient."""

    shape: torch.Size
    contiguous: bool

    @classmethod
    def of(cls, x: Tensor) -> Given:
        """Of x itself."""
        return cls(x.shape, x.is_contiguous())


class Geometry:
    """A convolution's settings; ``arguments`` are those of aten::convolution after weight and bias.

    Args:
        dimensions: of space.
        native: whether our own kernels may run.

    Raises:
        ValueError: a setting that has not one number for each dimension; an ``output_padding`` without ``transposed``.
    """

    def __init__(
        self,
        dimensions: int,
        *,
        transposed: bool = False,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        native: bool = True,
    ) -> None:
        self.transposed, self.native, self.groups = transposed, native, groups
        self.stride = per_dimension("stride", stride, dimensions)
        self.padding = per_dimension("padding", padding, dimensions)
        self.output_padding = per_dimension("output_padding", output_padding, dimensions)
        self.dilation = per_dimension("dilation", dilation, dimensions)
        if any(self.output_padding) and not transposed:
            raise ValueError(f"output_padding is {output_padding}; expected 0 unless transposed")
        self.arguments = (self.stride, self.padding, self.dilation, transposed, self.output_padding, groups)
        self._ours: dict[str, Any] = {"transposed": transposed, "stride": self.stride, "padding": self.padding}

    def channels(self, conv_weight: Tensor) -> tuple[int, int]:
        """Of the input and of the output."""
        first, second = conv_weight.shape[0], conv_weight.shape[1] * self.groups
        return (first, second) if self.transposed else (second, first)

    def size(self, x: Tensor, conv_weight: Tensor) -> list[int]:
        """Of the result, in each dimension; below 1 where PyTorch's own convolution has no result, or an empty one."""
        kernels = [d * (k - 1) + 1 for d, k in zip(self.dilation, conv_weight.shape[2:], strict=True)]
        sides = zip(x.shape[2:], kernels, self.stride, self.padding, self.output_padding, strict=True)
        if self.transposed:
            return [
                (side - 1) * stride - 2 * padding + kernel + extra for side, kernel, stride, padding, extra in sides
            ]
        return [(n + 2 * padding - kernel) // stride + 1 for n, kernel, stride, padding, _ in sides]

    def fits(self, x: Tensor, conv_weight: Tensor, bias: Tensor | None) -> bool:
        """Whether the three are of one dtype and device, and of shapes that give a result which is not empty. What does
        not fit is for PyTorch's own convolution, to refuse or to take: oneDNN's and ours do not look."""
        channels, out = self.channels(conv_weight)
        return (
            x.dtype == conv_weight.dtype
            and x.device == conv_weight.device
            and x.shape[1] == channels
            and (bias is None or (bias.shape == (out,) and bias.dtype == x.dtype and bias.device == x.device))
            and all(number > 0 for number in (*x.shape, *conv_weight.shape, *self.stride, *self.dilation))
            and all(number >= 0 for number in (*self.padding, *self.output_padding))
            and all(e < max(s, d) for e, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True))
            and all(side > 0 for side in self.size(x, conv_weight))
        )

    def few_channels(self, conv_weight: Tensor) -> bool:
        """Whether a transposed convolution may be faster in sub-pixel form."""
        return (
            self.transposed
            and conv_weight.dim() == 4
            and conv_weight.shape[1] <= FEW_CHANNELS
            and self.groups == 1
            and self.dilation == [1, 1]
            and all(len(set(pair)) == 1 for pair in (self.stride, self.padding, self.output_padding))
        )

    def has_kernel(self, x: Tensor, conv_weight: Tensor) -> bool:
        """Whether our own kernels convolve."""
        return (
            self.native
            and self.groups == 1
            and self.dilation == [1, 1]
            and winograd_conv.applies(x, conv_weight, output_padding=self.output_padding, **self._ours)
        )

    def convolve(
        self, x: Tensor, conv_weight: Tensor, bias: Tensor | None = None, negative_slope: float = 1.0
    ) -> Tensor:
        """LeakyReLU of the convolution by our own kernels, out of autograd's sight; the result has channels last."""
        return winograd_conv.convolve(
            x,
            conv_weight,
            bias=None if bias is None else bias.detach().contiguous(),
            negative_slope=negative_slope,
            output_padding=self.output_padding,
            **self._ours,
        )

    def gradients(
        self,
        grad: Tensor,
        x: Tensor | None,
        conv_weight: Tensor,
        needs_x: bool,
        needs_weight: bool,
        given: Given,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of x and of the weights; x is None where the weights need none."""
        if not (needs_x or needs_weight):
            return None, None  # PyTorch's would still bring grad into its own layout first
        seen = conv_weight.new_empty(1).expand(given.shape) if x is None else x
        if not torch.is_grad_enabled() and not transformed(grad) and self.has_kernel(seen, conv_weight):
            dx = dweight = None
            if needs_x:
                dx = winograd_conv.input_gradient(grad, conv_weight, given.shape[2:], **self._ours)
                dx = channels_first(dx) if given.contiguous else dx
            if needs_weight:
                dweight = winograd_conv.weight_gradient(grad, seen, conv_weight.shape[2], **self._ours)
            return dx, dweight
        if x is None:  # only its memory format is looked at: it decides in which the gradient is found
            last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(grad.dim(), torch.contiguous_format)
            as_last = not batched(grad) and grad.is_contiguous(memory_format=last)
            form = last if as_last else torch.contiguous_format
            x = torch.empty(given.shape, dtype=conv_weight.dtype, device=conv_weight.device, memory_format=form)
        dx, dweight, _none = torch.ops.aten.convolution_backward(
            grad, x, conv_weight, None, *self.arguments, (needs_x, needs_weight, False)
        )
        return dx, dweight

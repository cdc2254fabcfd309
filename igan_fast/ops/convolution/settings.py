"""The settings of a convolution, and the properties of its input that its gradients depend on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from igan_fast.reference.ops import per_dimension

__all__ = ["ConvSettings", "InputSpec"]


class InputSpec(NamedTuple):
    """The properties of a convolution's input that its gradients depend on, besides the values.

    Only the gradient of the weight needs the values. A convolution with frozen weights saves only these properties.

    Attributes:
        shape: (N, C_in, *spatial).
        contiguous: whether the input is contiguous; its gradient is then contiguous too.
    """

    shape: torch.Size
    contiguous: bool

    @classmethod
    def of(cls, x: Tensor) -> InputSpec:
        """Of the input x."""
        return cls(x.shape, x.is_contiguous())


class ConvSettings:
    """The settings of a convolution. Objects are compared by identity; ``cached`` returns the same object for the same
    arguments.

    Args:
        dimensions: the number of spatial dimensions.
        transposed, stride, padding, output_padding, dilation, groups: as in ``F.conv2d`` and ``F.conv_transpose2d``.
        native: whether the kernels of this package's C++ extension may compute it.

    Attributes:
        arguments: the arguments of ``aten::convolution`` that follow weight and bias.

    Raises:
        ValueError: a setting is not one number or one for each dimension; or ``output_padding`` is not 0, and the
            convolution is not ``transposed``.
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
        self.transposed, self.groups, self.native = transposed, groups, native
        self.stride = per_dimension("stride", stride, dimensions)
        self.padding = per_dimension("padding", padding, dimensions)
        self.output_padding = per_dimension("output_padding", output_padding, dimensions)
        self.dilation = per_dimension("dilation", dilation, dimensions)
        if any(self.output_padding) and not transposed:
            raise ValueError(f"output_padding is {output_padding}; expected 0 unless transposed")
        self.arguments = (self.stride, self.padding, self.dilation, transposed, self.output_padding, groups)

    @classmethod
    def cached(
        cls,
        dimensions: int,
        *,
        transposed: bool = False,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        native: bool = True,
    ) -> ConvSettings:
        """``ConvSettings`` of these arguments: the same object at each call, so that its cached plans are found."""
        # torch.compile cannot trace the cache.
        make: Callable[..., ConvSettings] = cls if torch.compiler.is_compiling() else _cached
        return make(
            dimensions,
            transposed=transposed,
            stride=_hashable(stride),
            padding=_hashable(padding),
            output_padding=_hashable(output_padding),
            dilation=_hashable(dilation),
            groups=groups,
            native=native,
        )

    def channels(self, weight: Tensor) -> tuple[int, int]:
        """The numbers of input and of output channels of a convolution with this weight."""
        first, second = weight.shape[0], weight.shape[1] * self.groups
        return (first, second) if self.transposed else (second, first)

    def output_size(self, input_shape: Sequence[int], weight_shape: Sequence[int]) -> list[int]:
        """The size of the output in each spatial dimension. It is below 1 if PyTorch's convolution raises an error or
        returns an empty tensor."""
        kernels = [d * (k - 1) + 1 for d, k in zip(self.dilation, weight_shape[2:], strict=True)]
        sides = zip(input_shape[2:], kernels, self.stride, self.padding, self.output_padding, strict=True)
        if self.transposed:
            return [
                (side - 1) * stride - 2 * padding + kernel + extra for side, kernel, stride, padding, extra in sides
            ]
        return [(n + 2 * padding - kernel) // stride + 1 for n, kernel, stride, padding, _ in sides]

    def fits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether dtypes, devices and shapes of the tensors match, and the output of the convolution is not empty.

        The implementations do not check this. If it is False, the caller has to call PyTorch's convolution, which
        computes the result or raises the error.
        """
        channels, out = self.channels(weight)
        return (
            x.dtype == weight.dtype
            and x.device == weight.device
            and x.shape[1] == channels
            and (bias is None or (bias.shape == (out,) and bias.dtype == x.dtype and bias.device == x.device))
            and all(number > 0 for number in (*x.shape, *weight.shape, *self.stride, *self.dilation))
            and all(number >= 0 for number in (*self.padding, *self.output_padding))
            and all(e < max(s, d) for e, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True))
            and all(side > 0 for side in self.output_size(x.shape, weight.shape))
        )


def _hashable(value: int | Sequence[int]) -> int | tuple[int, ...]:
    return value if isinstance(value, int) else tuple(value)


_cached = functools.lru_cache(maxsize=1024)(ConvSettings)

"""Fused convolutions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.fusion.autograd import apply_function, is_recorded
from igan_fast.fusion.deferred import Deferred, to_ordinary
from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.fused_module import FusedModule, is_small, may_change_unseen, memory_format_of
from igan_fast.fusion.normalization import FusedBatchNorm
from igan_fast.fusion.result import Result, clones
from igan_fast.fusion.watched import guard, watch
from igan_fast.ops import backend
from igan_fast.ops.conv_act import ConvAct
from igan_fast.ops.conv_norm_act import conv_norm_act
from igan_fast.ops.geometry import Geometry, Given
from igan_fast.ops.layout import channels_first, no_view
from igan_fast.ops.transforms import transformed

__all__ = ["FusedConvolution"]


class FusedConvolution(FusedModule):
    """A convolution, computed by our own kernels where these are faster, together with the activation that it expects.

    In evaluation without gradients it is computed together with the batch normalisation that it expects, and with the
    activation which that one expects (*folding*).
    """

    in_channels: int
    out_channels: int
    weight: Tensor
    bias: Tensor | None
    stride: Any
    padding: Any
    output_padding: Any
    dilation: Any
    groups: int
    transposed: bool
    padding_mode: str

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        x = to_ordinary(input)
        if output_size is not None:
            return self.plain_class.forward(self, x, output_size)  # type: ignore[no-any-return]
        if not self.is_fused() or self.has_backward_hooks():
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        weight, bias, expectation = self.weight, self.bias, self._expectation
        if transformed(x, weight, bias) or memory_format_of(x) is None:
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        recorded = is_recorded(x, weight, bias)
        if not recorded and expectation.norm is not None:
            folded = self._folded(x, weight, bias, expectation.norm)
            if folded is not None:
                return folded
        geometry = self._kernel(x, weight)
        if geometry is None:
            y: Tensor = self.plain_class.forward(self, x)
            return y if recorded else watch(y, expectation)
        # A Deferred clones the weights, for its plain result: not where that would cost as much as it gains.
        may_defer = x.numel() >= weight.numel() and not may_change_unseen(x)
        slope = expectation.slope if may_defer else None
        call = _Call(geometry, expectation, 1.0 if slope is None else slope)
        if recorded:
            y = apply_function(_Convolve, x, weight, bias, call)
        else:
            y = _convolve(x, weight, bias, call)
        return watch(y, expectation)

    def _kernel(self, x: Tensor, weight: Tensor) -> Geometry | None:
        """The settings for our own kernels; None where these do not support the call or are not faster."""
        if (
            x.dim() != 4
            or weight.dim() != 4
            or self.padding_mode != "zeros"
            or isinstance(self.padding, str)
            or memory_format_of(weight) is None
            or backend.namespace("auto", x.device, (x.dtype,)) != backend.NATIVE
            or torch.is_autocast_enabled(x.device.type)
        ):
            return None
        geometry = self._settings(self.padding)
        return geometry if geometry is not None and geometry.has_kernel(x, weight) else None

    def _settings(self, padding: Any) -> Geometry | None:
        """The settings of the module as they are now; None where they are of a kind that only PyTorch understands."""
        dimensions = self.weight.dim() - 2
        settings = (self.stride, padding, self.output_padding, self.dilation)
        try:
            return _geometry(dimensions, self.transposed, *settings, self.groups)
        except (TypeError, ValueError):  # TypeError also for a list, which is not hashable
            return None

    def _folded(self, x: Tensor, weight: Tensor, bias: Tensor | None, norm: Any) -> Tensor | None:
        """The result of the convolution, as a Deferred that holds the result of ``norm`` (and of its activation) too.

        ``norm`` is the fused normalisation that is expected, and returns that result when it is called. None where the
        two cannot be folded now, or where x is so small that folding would cost more than it gains.
        """
        if (
            not isinstance(norm, FusedBatchNorm)
            or x.dim() != weight.dim()
            or x.shape[1] != self.in_channels
            or norm.num_features != self.out_channels
            or x.numel() < weight.numel()
            or is_small(x)
            or may_change_unseen(x)
            or memory_format_of(weight) is None
            or weight.dtype != x.dtype
            or backend.namespace("auto", x.device, (x.dtype,)) is None
        ):
            return None
        autocast = torch.is_autocast_enabled(x.device.type)
        casts = torch.get_autocast_dtype(x.device.type) if autocast and x.dtype != torch.float64 else None
        padding = 0 if self.padding_mode != "zeros" or isinstance(self.padding, str) else self.padding
        geometry = self._settings(padding)
        dtype = casts or x.dtype
        if geometry is None or not norm.can_fold(dtype):
            return None
        if self.padding == "same" and any(stride != 1 for stride in geometry.stride):
            return None  # PyTorch raises an error
        state, slope = norm.folding_state(), norm._expectation.slope
        padded, padding = self._padded(x, geometry)
        y = conv_norm_act(
            padded,
            weight,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
            transposed=self.transposed,
            stride=geometry.stride,
            padding=padding,
            output_padding=geometry.output_padding,
            dilation=geometry.dilation,
            conv_groups=self.groups,
            conv_bias=bias,
            training=False,
            eps=norm.eps,
            negative_slope=1.0 if slope is None else slope,
        )
        y = _in_memory_format_of_result(y, x, weight)
        plain = functools.partial(self._convolution(), x, *clones(weight, bias))
        is_expected_norm = functools.partial(_is_unchanged, norm, state, dtype)
        result = Result(self._expectation, (x,), plain, y, slope, is_expected_norm=is_expected_norm, autocast=casts)
        return guard(Deferred(y, result))

    def _convolution(self) -> Callable[..., Tensor]:
        """PyTorch's function with the settings of the module as they are now."""
        function = getattr(F, f"conv{'_transpose' * self.transposed}{self.weight.dim() - 2}d")
        settings = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        if self.transposed:
            return functools.partial(function, padding=self.padding, output_padding=self.output_padding, **settings)
        if self.padding_mode == "zeros":
            return functools.partial(function, padding=self.padding, **settings)
        sides: Any = self._reversed_padding_repeated_twice
        pad = functools.partial(F.pad, pad=sides, mode=self.padding_mode)
        return lambda x, *parameters: function(pad(x), *parameters, **settings)

    def _padded(self, x: Tensor, geometry: Geometry) -> tuple[Tensor, Any]:
        """x and the ``padding`` to call the operator with. x is padded here, in a copy, where the operator has no such
        padding: another ``padding_mode``, or "same" with an odd number of rows or columns to add."""
        if self.padding_mode != "zeros":
            sides: Any = self._reversed_padding_repeated_twice  # F.pad's order: last dimension first, two numbers each
            return F.pad(x, sides, mode=self.padding_mode), 0
        if self.padding != "same":
            return x, geometry.padding
        total = [d * (k - 1) for d, k in zip(geometry.dilation, self.weight.shape[2:], strict=True)]
        if not any(n % 2 for n in total):
            return x, [n // 2 for n in total]
        return F.pad(x, [side for n in reversed(total) for side in (n // 2, n - n // 2)]), 0


class _Call(NamedTuple):
    """The settings of one call. ``slope`` is that of the expected activation, 1 where none is expected."""

    geometry: Geometry
    expectation: Expectation
    slope: float


class _Convolve(ConvAct):
    """The autograd node of a convolution by our own kernels. The result is Deferred where an activation is expected."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: _Call) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, None)
        ctx.settings, ctx.given = (call.geometry, 1.0), Given.of(x)
        return _convolve(x, weight, bias, call)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ConvAct.backward(ctx, to_ordinary(grad))[:4]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, call: _Call) -> Tensor:
    y = _in_memory_format_of_result(call.geometry.convolve(x, weight, bias, call.slope), x, weight)
    if call.slope == 1:
        return y
    parameters: Any = clones(weight, bias)

    def plain() -> Tensor:
        return _in_memory_format_of_result(call.geometry.convolve(x, *parameters), x, parameters[0])

    return guard(Deferred(y, Result(call.expectation, (x,), plain, y, call.slope, recompute=False)))


def _is_unchanged(norm: FusedBatchNorm, state: tuple[Any, ...], dtype: torch.dtype, other: Any) -> bool:
    """Whether ``other`` is ``norm``, still in this state and foldable into a convolution in ``dtype``."""
    return other is norm and norm.can_fold(dtype) and norm.folding_state() == state


@functools.lru_cache(maxsize=1024)
def _geometry(
    dimensions: int, transposed: bool, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> Geometry:
    return Geometry(
        dimensions,
        transposed=transposed,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=groups,
    )


def _in_memory_format_of_result(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y in the memory format of PyTorch's result, which the code that follows may rely on (``view``)."""
    if x.is_contiguous() and weight.is_contiguous():
        y = channels_first(y) if y.dim() == 4 else y.contiguous()
    return no_view(y) if y._is_view() else y

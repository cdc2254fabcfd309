"""A fused model's convolutions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.fusion.deferred import Deferred, guard, settle, watch
from igan_fast.fusion.nodes import anchored
from igan_fast.fusion.normalization import FusedBatchNorm
from igan_fast.fusion.place import Place
from igan_fast.fusion.result import Result, copies
from igan_fast.fusion.twin import Twin, is_shared, is_small, layout_of, records
from igan_fast.ops import backend
from igan_fast.ops.conv_act import ConvAct
from igan_fast.ops.conv_norm_act import conv_norm_act
from igan_fast.ops.geometry import Geometry, Given
from igan_fast.ops.layout import channels_first, no_view
from igan_fast.ops.transforms import transformed

__all__ = ["FusedConvolution"]


class FusedConvolution(Twin):
    """A convolution by our own kernels where these are faster, with the activation that it expects; in evaluation with
    the batch normalisation that it expects and the activation behind that."""

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
        x = settle(input)
        if output_size is not None:
            return self.plain.forward(self, x, output_size)  # type: ignore[no-any-return]
        if not self.active() or self.observed():
            return self.plain.forward(self, x)  # type: ignore[no-any-return]
        weight, bias, place = self.weight, self.bias, self._place
        if transformed(x, weight, bias) or layout_of(x) is None:
            return self.plain.forward(self, x)  # type: ignore[no-any-return]
        recording = records(x, weight, bias)
        if not recording and place.norm is not None:
            folded = self._folded(x, weight, bias, place.norm)
            if folded is not None:
                return folded
        geometry = self._kernel(x, weight)
        if geometry is None:
            y: Tensor = self.plain.forward(self, x)
            return y if recording else watch(y, place)
        # For what may take its place the result has a copy of the weights, which is to cost next to nothing.
        expected = place.slope if x.numel() >= weight.numel() and not is_shared(x) else None
        call = _Call(geometry, place, 1.0 if expected is None else expected)
        if recording:
            y = anchored(_Convolve, x, weight, bias, call)
        else:
            y = _convolve(x, weight, bias, call)
        return watch(y, place)

    def _kernel(self, x: Tensor, weight: Tensor) -> Geometry | None:
        """The settings for our own kernels, where these compute, and faster than PyTorch's."""
        if (
            x.dim() != 4
            or weight.dim() != 4
            or self.padding_mode != "zeros"
            or isinstance(self.padding, str)
            or layout_of(weight) is None
            or backend.namespace("auto", x.device, (x.dtype,)) != backend.NATIVE
            or torch.is_autocast_enabled(x.device.type)
        ):
            return None
        geometry = self._settings(self.padding)
        return geometry if geometry is not None and geometry.has_kernel(x, weight) else None

    def _settings(self, padding: Any) -> Geometry | None:
        """As they are now; None where only PyTorch knows what they mean."""
        dimensions = self.weight.dim() - 2
        settings = (self.stride, padding, self.output_padding, self.dilation)
        try:
            return _geometry(dimensions, self.transposed, *settings, self.groups)
        except (TypeError, ValueError):  # also a list, which cannot be looked up
            return None

    def _folded(self, x: Tensor, weight: Tensor, bias: Tensor | None, norm: Any) -> Tensor | None:
        """The result of all that is expected behind the convolution, for ``norm`` to give out; None where the
        normalisation is none to be folded now, or so little is computed that folding costs more."""
        if (
            not isinstance(norm, FusedBatchNorm)
            or x.dim() != weight.dim()
            or x.shape[1] != self.in_channels
            or norm.num_features != self.out_channels
            or x.numel() < weight.numel()
            or is_small(x)
            or is_shared(x)
            or layout_of(weight) is None
            or weight.dtype != x.dtype
            or backend.namespace("auto", x.device, (x.dtype,)) is None
        ):
            return None
        autocast = torch.is_autocast_enabled(x.device.type)
        casts = torch.get_autocast_dtype(x.device.type) if autocast and x.dtype != torch.float64 else None
        padding = 0 if self.padding_mode != "zeros" or isinstance(self.padding, str) else self.padding
        geometry = self._settings(padding)
        dtype = casts or x.dtype
        if geometry is None or not norm.may_fold(dtype):
            return None
        if self.padding == "same" and any(stride != 1 for stride in geometry.stride):
            return None  # an error of PyTorch's
        state, slope = norm.state(), norm._place.slope
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
        y = _laid_out(y, x, weight)
        plain = functools.partial(self._convolution(), x, *copies(weight, bias))
        expects = functools.partial(_is_still, norm, state, dtype)
        result = Result(self._place, (x,), plain, y, slope, expects=expects, autocast=casts)
        return guard(Deferred(y, result))

    def _convolution(self) -> Callable[..., Tensor]:
        """PyTorch's function with the settings as they are now."""
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
        """x, and the zeros that the convolution is to add: by a copy only where it has no numbers for what to add."""
        if self.padding_mode != "zeros":
            sides: Any = self._reversed_padding_repeated_twice  # two each for the last dimension, the one before, …
            return F.pad(x, sides, mode=self.padding_mode), 0
        if self.padding != "same":
            return x, geometry.padding
        wanted = [d * (k - 1) for d, k in zip(geometry.dilation, self.weight.shape[2:], strict=True)]
        if not any(n % 2 for n in wanted):
            return x, [n // 2 for n in wanted]
        return F.pad(x, [side for n in reversed(wanted) for side in (n // 2, n - n // 2)]), 0


class _Call(NamedTuple):
    """The settings of one call; ``slope`` is that of the activation which is expected, 1 where none is."""

    geometry: Geometry
    place: Place
    slope: float


class _Convolve(ConvAct):
    """A convolution in the graph, by our own kernels; its result is a Deferred where an activation is expected."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: _Call
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, None)
        ctx.settings, ctx.given = (call.geometry, 1.0), Given.of(x)
        return _convolve(x, weight, bias, call), None if call.slope == 1 else x.new_empty(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ConvAct.backward(ctx, settle(grad))[:4]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, call: _Call) -> Tensor:
    y = _laid_out(call.geometry.convolve(x, weight, bias, call.slope), x, weight)
    if call.slope == 1:
        return y
    parameters: Any = copies(weight, bias)

    def plain() -> Tensor:
        return _laid_out(call.geometry.convolve(x, *parameters), x, parameters[0])

    return guard(Deferred(y, Result(call.place, (x,), plain, y, call.slope, lean=False)))


def _is_still(norm: FusedBatchNorm, state: Any, dtype: torch.dtype, other: Any) -> bool:
    """Whether another normalisation is this one, in this state, which is to be folded for a dtype."""
    if other is not norm or not norm.may_fold(dtype):
        return False
    counted, values = norm.state()
    return counted == state[0] and all(a is b or torch.equal(a, b) for a, b in zip(values, state[1], strict=True))


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


def _laid_out(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y in the layout that PyTorch's own convolution gives: what follows may count on it (``view``)."""
    if x.is_contiguous() and weight.is_contiguous():
        y = channels_first(y) if y.dim() == 4 else y.contiguous()
    return no_view(y) if y._is_view() else y

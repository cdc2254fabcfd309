"""Fused convolutions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.fusion.autograd import apply_with_anchor, gradients_of_anchor, is_recorded
from igan_fast.fusion.deferred import Deferred, to_ordinary
from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.fused_module import FusedModule, is_small, may_change_unseen, memory_format_of
from igan_fast.fusion.normalization import FusedBatchNorm
from igan_fast.fusion.result import Result, clones, version_of
from igan_fast.fusion.watched import guard, watch
from igan_fast.ops import backend
from igan_fast.ops.constant import is_constant
from igan_fast.ops.conv_act import ConvAct
from igan_fast.ops.conv_norm_act import conv_norm_act
from igan_fast.ops.convolution import ConvSettings, InputSpec, Plan, plan_of
from igan_fast.ops.layout import channels_first, no_view
from igan_fast.ops.transforms import transformed

__all__ = ["FusedConvolution"]


class FusedConvolution(FusedModule):
    """A convolution. Where our own kernels are faster, they compute it together with the activation that it expects.

    In evaluation without gradients it computes the batch normalisation that it expects, and the activation that this
    normalisation expects (*folding*).
    """

    in_channels: int
    out_channels: int
    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, ...]
    stride: Any
    padding: Any
    output_padding: Any
    dilation: Any
    groups: int
    transposed: bool
    padding_mode: str

    may_be_parametrised = True

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        x = to_ordinary(input)
        if output_size is not None:
            return self.plain_class.forward(self, x, output_size)  # type: ignore[no-any-return]
        if not self.is_fused() or self.has_backward_hooks():
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        # Read each once: a parametrisation computes it each time, and may count the calls (spectral normalisation).
        weight, bias, expectation = self.weight, self.bias, self._expectation
        if transformed(x, weight, bias) or memory_format_of(x) is None:
            return self._plain(x, weight, bias)
        recorded = is_recorded(x, weight, bias)
        if not recorded and expectation.norm is not None:
            folded = self._folded(x, weight, bias, expectation.norm)
            if folded is not None:
                return folded
        plan = self._plan(x, weight, bias)
        if plan is None:
            y = self._plain(x, weight, bias)
            return y if recorded else watch(y, expectation)
        # A Deferred clones the weights to be able to compute the plain result. For large weights that costs too much.
        may_defer = x.numel() >= weight.numel() and not may_change_unseen(x)
        slope = expectation.slope if may_defer else None
        call = _Call(plan, expectation, 1.0 if slope is None else slope)
        if recorded:
            y = apply_with_anchor(_Convolve, x, weight, bias, call)
        else:
            y = _convolve(x, weight, bias, call)
        return watch(y, expectation)

    def _plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The result of PyTorch's module, whose weight and bias are ``weight`` and ``bias``."""
        if type(self) is self.fused_class:  # not parametrised
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        compute = self._convolution() if self.transposed else self._conv_forward
        y: Tensor = compute(x, weight, bias)  # type: ignore[operator]
        return y

    def _plan(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Plan | None:
        """The plan, if kernels of this package compute the convolution; None if PyTorch's module has to."""
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
        settings = self._settings(self.padding)
        plan = None if settings is None else plan_of(x, weight, bias, settings)
        return plan if plan is not None and plan.implementation.own_kernels else None

    def _settings(self, padding: Any) -> ConvSettings | None:
        """The present settings of the module, with this padding; None for values that only PyTorch supports."""
        try:
            return ConvSettings.cached(
                len(self.kernel_size),
                transposed=self.transposed,
                stride=self.stride,
                padding=padding,
                output_padding=self.output_padding,
                dilation=self.dilation,
                groups=self.groups,
            )
        except (TypeError, ValueError):
            return None

    def _folded(self, x: Tensor, weight: Tensor, bias: Tensor | None, norm: Any) -> Tensor | None:
        """The result of the convolution, as a Deferred that also holds the result of ``norm`` (and of its activation).

        ``norm`` is the expected fused normalisation. It returns the result that the Deferred holds when it is called.
        The return value is None if the two cannot be folded now, or if x is so small that folding gains nothing.
        """
        if (
            not isinstance(norm, FusedBatchNorm)
            or x.dim() != weight.dim()
            or x.shape[1] != self.in_channels
            or norm.num_features != self.out_channels
            or (x.numel() < weight.numel() and not is_constant(weight))
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
        settings = self._settings(padding)
        dtype = casts or x.dtype
        if settings is None or not norm.can_fold(dtype):
            return None
        if self.padding == "same" and any(stride != 1 for stride in settings.stride):
            return None  # PyTorch raises an error
        state, slope = norm.folding_state(), norm._expectation.slope
        padded, padding = self._padded(x, weight, settings)
        y = conv_norm_act(
            padded,
            weight,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
            transposed=self.transposed,
            stride=settings.stride,
            padding=padding,
            output_padding=settings.output_padding,
            dilation=settings.dilation,
            conv_groups=self.groups,
            conv_bias=bias,
            training=False,
            eps=norm.eps,
            negative_slope=1.0 if slope is None else slope,
        )
        y = _in_memory_format_of_result(y, x, weight)
        if version_of(y) > 0:
            y = y.data  # a new version counter, which starts at 0 as that of PyTorch's result
        plain = functools.partial(self._convolution(), x, *clones(weight, bias))
        is_expected_norm = functools.partial(_is_unchanged, norm, state, dtype)
        result = Result(self._expectation, (x,), plain, y, slope, is_expected_norm=is_expected_norm, autocast=casts)
        return guard(Deferred(y, result))

    def _convolution(self) -> Callable[..., Tensor]:
        """PyTorch's function with the present settings of the module."""
        function = getattr(F, f"conv{'_transpose' * self.transposed}{len(self.kernel_size)}d")
        settings = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        if self.transposed:
            return functools.partial(function, padding=self.padding, output_padding=self.output_padding, **settings)
        if self.padding_mode == "zeros":
            return functools.partial(function, padding=self.padding, **settings)
        sides: Any = self._reversed_padding_repeated_twice
        pad = functools.partial(F.pad, pad=sides, mode=self.padding_mode)
        return lambda x, *parameters: function(pad(x), *parameters, **settings)

    def _padded(self, x: Tensor, weight: Tensor, settings: ConvSettings) -> tuple[Tensor, Any]:
        """x and the ``padding`` argument for the operator. If the operator does not support the padding, x is a padded
        copy: another ``padding_mode`` than zeros, or "same" with an odd number of rows or columns to add."""
        if self.padding_mode != "zeros":
            sides: Any = self._reversed_padding_repeated_twice  # F.pad's order: last dimension first, two numbers each
            return F.pad(x, sides, mode=self.padding_mode), 0
        if self.padding != "same":
            return x, settings.padding
        total = [d * (k - 1) for d, k in zip(settings.dilation, weight.shape[2:], strict=True)]
        if not any(n % 2 for n in total):
            return x, [n // 2 for n in total]
        return F.pad(x, [side for n in reversed(total) for side in (n // 2, n - n // 2)]), 0


class _Call(NamedTuple):
    """One call of a convolution.

    Attributes:
        plan: computes the convolution, with the activation or without it.
        slope: negative slope of the expected activation; 1 if none is expected.
    """

    plan: Plan
    expectation: Expectation
    slope: float


class _Convolve(ConvAct):
    """The autograd node of a convolution by our own kernels. The result is Deferred where an activation is expected."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: _Call
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, None)
        ctx.settings, ctx.negative_slope, ctx.input_spec = call.plan.settings, 1.0, InputSpec.of(x)
        ctx.set_materialize_grads(False)
        return _convolve(x, weight, bias, call), None if call.slope == 1 else x.new_empty(0)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor | None, anchor: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad is None:
            weight = ctx.saved_tensors[1]
            one = weight.new_empty(())
            bias = one.expand(ctx.settings.channels(weight)[1])
            return gradients_of_anchor(ctx, anchor, one.expand(ctx.input_spec.shape), weight, bias)
        return ConvAct.backward(ctx, to_ordinary(grad))[:4]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, call: _Call) -> Tensor:
    y = _in_memory_format_of_result(call.plan.run(x, weight, bias, call.slope), x, weight)
    if call.slope == 1:
        return y
    copied: Any = clones(weight, bias)
    weight, bias = copied

    def plain() -> Tensor:
        return _in_memory_format_of_result(call.plan.run(x, weight, bias, 1.0), x, weight)

    return guard(Deferred(y, Result(call.expectation, (x,), plain, y, call.slope, recompute=False)))


def _is_unchanged(norm: FusedBatchNorm, state: Any, dtype: torch.dtype, other: Any) -> bool:
    """Whether ``other`` is ``norm``, still in this state and foldable into a convolution in ``dtype``."""
    if other is not norm or not norm.can_fold(dtype):
        return False
    counted, values = norm.folding_state()
    return counted == state[0] and all(a is b or torch.equal(a, b) for a, b in zip(values, state[1], strict=True))


def _in_memory_format_of_result(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y in the memory format of PyTorch's result. The code that uses the result may rely on it (``view``)."""
    if x.is_contiguous() and weight.is_contiguous():
        y = channels_first(y) if y.dim() == 4 else y.contiguous()
    return no_view(y) if y._is_view() else y

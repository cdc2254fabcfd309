"""Fused convolutions."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igan_fast.fusion.autograd import apply_with_anchor, gradients_of_anchor
from igan_fast.fusion.deferred import Deferred, to_ordinary
from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.fused_module import FusedModule, is_left_again, kind_of_call, may_change_unseen, memory_format_of
from igan_fast.fusion.kept import Kept
from igan_fast.fusion.normalization import FusedBatchNorm
from igan_fast.fusion.result import Result, clones
from igan_fast.fusion.watched import guard, watch
from igan_fast.fusion.ways import (
    Keeps,
    autocast_dtype,
    convolution_of,
    gains_in_training,
    in_memory_format_of_result,
    settings_of,
    way_of,
)
from igan_fast.ops import backend
from igan_fast.ops.conv_act import ConvAct
from igan_fast.ops.convolution import InputSpec, Plan, plan_of
from igan_fast.ops.eager import is_recorded
from igan_fast.ops.transforms import transformed

__all__ = ["FusedConvolution"]


#: The functions that PyTorch's modules call.
_FUNCTIONS: dict[type[nn.Module], Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


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
        if output_size is not None:
            return self.plain_class.forward(self, to_ordinary(input), output_size)  # type: ignore[no-any-return]
        expectation = vars(self).get("_expectation")
        if expectation is not None and expectation.left:
            if is_left_again(expectation, input):
                return self._left(input)
            if kind_of_call(self, input) in expectation.left:
                if not torch.is_grad_enabled():
                    expectation.repeat_left(input)
                elif expectation.kept and self.training:
                    expectation.kept.clear()
                return self._left(input)
        x = to_ordinary(input)
        if not self.is_fused() or self.has_backward_hooks():
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        # Read each once: a parametrisation computes it each time, and may count the calls (spectral normalisation).
        weight, bias, expectation = self.weight, self.bias, self._expectation
        if transformed(x, weight, bias) or memory_format_of(x) is None:
            return self._plain(x, weight, bias)
        if not is_recorded(x, weight, bias):
            y = self._evaluated(x, weight, bias, expectation)
            return watch(self._plain(x, weight, bias) if y is None else y, expectation)
        expectation.kept.clear()
        plan = self._plan(x, weight, bias, expectation)
        if plan is None:
            expectation.leave_to_pytorch(kind_of_call(self, x))
            return self._plain(x, weight, bias)
        expectation.gains = True
        # A Deferred clones the weights to be able to compute the plain result. For large weights that costs too much.
        slope = expectation.slope if x.numel() >= weight.numel() and not may_change_unseen(x) else None
        call = _Call(plan, expectation, 1.0 if slope is None else slope)
        return watch(apply_with_anchor(_Convolve, x, weight, bias, call), expectation)

    def _left(self, x: Tensor) -> Tensor:
        """The result of PyTorch's module, by fewer steps where nothing was changed in it: ``nn.Module`` finds tensors
        slowly. In a network Python takes longer than in a loop, because no cache holds it."""
        own, function = vars(self), _FUNCTIONS.get(self.plain_class)
        parameters = own["_parameters"]
        weight = parameters.get("weight")
        if (
            function is None
            or weight is None
            or "bias" not in parameters
            or own["padding_mode"] != "zeros"
            or type(self) is not self.fused_class
        ):
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        return function(  # type: ignore[no-any-return]
            x, weight, parameters["bias"], own["stride"], own["padding"], own["dilation"], own["groups"]
        )

    def _plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The result of PyTorch's module, whose weight and bias are ``weight`` and ``bias``."""
        if type(self) is self.fused_class:  # not parametrised
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        compute = convolution_of(self) if self.transposed else self._conv_forward
        y: Tensor = compute(x, weight, bias)  # type: ignore[operator]
        return y

    def _plan(self, x: Tensor, weight: Tensor, bias: Tensor | None, expectation: Expectation) -> Plan | None:
        """The plan, if kernels of this package compute the convolution; None if PyTorch's module has to."""
        if (
            x.dim() != weight.dim()
            or self.padding_mode != "zeros"
            or isinstance(self.padding, str)
            or memory_format_of(weight) is None
            or backend.namespace("auto", x.device, (x.dtype,)) != backend.NATIVE
            or torch.is_autocast_enabled(x.device.type)
        ):
            return None
        settings = settings_of(self, self.padding)
        if settings is None:
            return None
        kind = ("training", x.shape, x.is_contiguous(), weight.shape, weight.is_contiguous(), settings)
        gains = expectation.way_of(kind, lambda: gains_in_training(x, weight, bias, settings))
        return plan_of(x, weight, bias, settings) if gains else None

    def _evaluated(self, x: Tensor, weight: Tensor, bias: Tensor | None, expectation: Expectation) -> Tensor | None:
        """The result without gradients; None where PyTorch's module is as fast.

        If a batch normalisation is expected that can be folded now, the result is a Deferred that also holds the result
        of that normalisation (and of its activation), which returns it when it is called.
        """
        casts = autocast_dtype(x)
        dtype = x.dtype if casts is None else casts
        deferrable = not may_change_unseen(x)
        norm = expectation.norm if deferrable else None
        if not isinstance(norm, FusedBatchNorm) or norm.num_features != self.out_channels or not norm.can_fold(dtype):
            norm = None
        find = functools.partial(way_of, self, x, weight, bias, dtype, expectation)
        way = None if norm is None else find(folds=True)
        if way is None:
            norm, way = None, find(folds=False)
        if way is None:
            if find(folds=True) is None or (expectation.norm is None and not expectation.unknown):
                expectation.leave_to_pytorch(kind_of_call(self, x))
            return None
        expectation.gains = True
        tensors: tuple[Tensor | None, ...] = (weight, bias)
        eps = None
        if norm is not None:
            tensors, eps = (*tensors, *norm.folding_tensors()), norm.eps
        kept: Kept | None = expectation.kept.get(norm is None)
        if kept is None or not kept.is_of(tensors, eps, way.settings, dtype):
            if way.keeps != Keeps.AT_ONCE and (way.keeps == Keeps.NEVER or not expectation.repeats(weight)):
                expectation.kept.pop(norm is None, None)
                return way.compute(x, weight, bias, 1.0) if way.alone else None
            kept = expectation.kept[norm is None] = Kept(tensors, eps, way.settings, dtype)
        slope = (expectation if norm is None else norm._expectation).slope if deferrable else None
        y = way.run(x, kept, 1.0 if slope is None else slope)
        if norm is not None:
            plain = functools.partial(way.convolution, x, *kept.copies[:2])
            folded = _Folded(norm, kept, dtype)
            result = Result(expectation, (x,), plain, y, slope, folded_norm=folded, autocast=casts)
        elif slope is not None:
            plain = functools.partial(way.run, x, kept, 1.0)
            result = Result(expectation, (x,), plain, y, slope, recompute=False)
        else:
            return y
        return guard(Deferred(y, result))


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
    y = in_memory_format_of_result(call.plan.run(x, weight, bias, call.slope), x, weight)
    if call.slope == 1:
        return y
    copied: Any = clones(weight, bias)
    weight, bias = copied

    def plain() -> Tensor:
        return in_memory_format_of_result(call.plan.run(x, weight, bias, 1.0), x, weight)

    return guard(Deferred(y, Result(call.expectation, (x,), plain, y, call.slope, recompute=False)))


class _Folded(NamedTuple):
    """The batch normalisation that a convolution in ``dtype`` has computed, with the values that were ``kept``."""

    norm: FusedBatchNorm
    kept: Kept
    dtype: torch.dtype

    @property
    def copies(self) -> tuple[Tensor | None, ...]:
        return self.kept.copies[2:]

    def is_still(self, norm: Any) -> bool:
        return (
            norm is self.norm and norm.can_fold(self.dtype) and self.kept.is_of_norm(norm.folding_tensors(), norm.eps)
        )

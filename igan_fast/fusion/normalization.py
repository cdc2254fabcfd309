"""A fused model's normalisations."""

from __future__ import annotations

import functools
import types
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.fusion import twin
from igan_fast.fusion.activation import parts_of
from igan_fast.fusion.deferred import Deferred, guard, learn, settle, watch
from igan_fast.fusion.nodes import anchored
from igan_fast.fusion.place import Place
from igan_fast.fusion.result import Result, copies
from igan_fast.fusion.twin import Twin, is_shared, is_small, layout_of, records
from igan_fast.ops import backend
from igan_fast.ops.layout import channels_first
from igan_fast.ops.norm_act import of_groups
from igan_fast.ops.norm_act_gradient import gradient
from igan_fast.ops.transforms import batched, transformed

__all__ = ["FusedBatchNorm", "FusedInstanceNorm", "FusedNorm"]

_HALF = (torch.float16, torch.bfloat16)


class _Call(NamedTuple):
    """The settings of one call.

    groups: parts of the batch that are normalised apart.
    slope: of the activation that is expected; None where none is.
    statistics: the mean and variance to normalise by; None for the batch's own.
    update: the running mean and variance that the batch's move, and how far.
    """

    namespace: str
    place: Place
    groups: int
    eps: float
    slope: float | None
    statistics: tuple[Tensor, Tensor] | None
    update: tuple[Tensor, Tensor, float] | None
    #: The batch's statistics, where the running ones move after the call, and not again where a checkpoint repeats it.
    late: list[Tensor]
    #: Whether the running statistics move once, by the mean over the groups: instance normalisation's.
    averages: bool


_Statistics = tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor, float] | None]


class FusedNorm(Twin):
    """A normalisation that computes the activation which it expects too."""

    num_features: int
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    eps: float
    momentum: Any
    track_running_stats: bool

    #: Whether a convolution before it may compute it too.
    foldable: ClassVar[bool] = False
    #: Whether its running statistics move by the mean over the images.
    averages: ClassVar[bool] = False

    def forward(self, input: Tensor) -> Tensor:
        if not self.active() or self.observed():
            return self.plain.forward(self, settle(input))  # type: ignore[no-any-return]
        joined = self._joined(input)
        if joined is not None:
            return joined
        x = learn(input, self) if self.foldable else settle(input)
        # Each once: a parameter's attribute is looked up slowly, and may be computed anew.
        weight, bias = parameters = self.weight, self.bias
        running = self.running_mean, self.running_var
        if is_small(x) or transformed(x, *parameters, *running) or not self._fits(x, *parameters, *running):
            return self.plain.forward(self, x)  # type: ignore[no-any-return]
        namespace = backend.namespace("auto", x.device, (x.dtype,))
        if namespace is None:
            return self.plain.forward(self, x)  # type: ignore[no-any-return]
        x, place = self._laid_out(x), self._place
        slope = None if is_shared(x) else place.slope
        statistics, update = self._statistics(*running)
        groups = x.shape[0] if self.averages and statistics is None else 1
        call = _Call(namespace, place, groups, self.eps, slope, statistics, update, [], self.averages)
        if records(x, weight, bias):
            y = anchored(_Normalize, x, weight, bias, call)
        else:
            y, _, _ = _normalize(x, weight, bias, call)
        if call.late:
            _update(x, call, *call.late)
        return watch(y, place)

    def _fits(self, x: Tensor, *known: Tensor | None) -> bool:
        """Whether x, the parameters and the running statistics are as the fused operators take them, with a result as
        PyTorch's: all else is PyTorch's, errors too."""
        dtypes = (x.dtype, torch.float32) if x.dtype in _HALF else (x.dtype,)
        for t in known:
            if t is not None and (t.dtype not in dtypes or t.device != x.device or t.shape != (self.num_features,)):
                return False
        running_mean, running_var = known[2:]
        return (
            (running_mean is None) == (running_var is None)
            and self.eps > 0
            and self._takes(x)
            and x.shape[1] == self.num_features
            # Autograd refuses an inference tensor before anything has happened.
            and (not x.is_inference() or torch.is_inference_mode_enabled())
        )

    @abstractmethod
    def _takes(self, x: Tensor) -> bool:
        """Whether x has a shape and a layout for the fused operators."""

    def _laid_out(self, x: Tensor) -> Tensor:
        """x in the layout that PyTorch's result has."""
        return x

    @abstractmethod
    def _statistics(self, running_mean: Tensor | None, running_var: Tensor | None) -> _Statistics:
        """``statistics`` and ``update`` of a call, which it counts."""

    def _joined(self, input: Tensor) -> Tensor | None:
        """The result where the convolution has computed it, as it may in evaluation."""
        return None


class FusedBatchNorm(FusedNorm):
    """See ``FusedNorm``; a convolution before it may compute it in evaluation."""

    foldable = True

    def _takes(self, x: Tensor) -> bool:
        self._check_input_dim(x)  # type: ignore[operator]
        single = x.numel() == x.shape[1] and (self.training or self.running_mean is None)
        return not single and layout_of(x) is not None

    def _statistics(self, running_mean: Tensor | None, running_var: Tensor | None) -> _Statistics:
        if not self.training:
            return None if running_mean is None or running_var is None else (running_mean, running_var), None
        if not self.track_running_stats:
            return None, None
        momentum, count = self.momentum or 0.0, self.num_batches_tracked
        if count is not None:
            count.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(count)
        update = None if running_mean is None or running_var is None else (running_mean, running_var, momentum)
        return None, update

    def may_fold(self, dtype: torch.dtype) -> bool:
        """Whether it is one multiplication and one addition a channel, which a convolution may take over."""
        tensors = (self.weight, self.bias, self.running_mean, self.running_var)
        return (
            self.active()
            and not self.training
            and self.running_mean is not None
            and self.running_var is not None
            and not self.observed()
            and not self._forward_pre_hooks  # which may change it after the convolution
            and not records(self.weight, self.bias)
            and not transformed(*tensors)
            and not any(t is not None and t.is_inference() for t in tensors)  # whose changes are not counted
            and all(t is None or t.dtype == dtype or (t.dtype == torch.float32 and dtype in _HALF) for t in tensors)
        )

    def state(self) -> tuple[tuple[Any, ...], tuple[Tensor | None, ...]]:
        """What its result in evaluation depends on; by value too, as ``.data`` changes tensors uncounted."""
        tensors = (self.weight, self.bias, self.running_mean, self.running_var)
        counted = (self.eps, *((id(t), t._version, t.data_ptr()) for t in tensors if t is not None))
        # To compare values on a GPU is to wait for it.
        return counted, copies(*tensors) if self.running_mean.device.type == "cpu" else ()

    def _joined(self, input: Tensor) -> Tensor | None:
        if type(input) is not Deferred or input.is_computed():  # which C++ may have written into
            return None
        result = input.result
        if (
            result.expects is None
            or result.activated is None
            or not result.expects(self)
            or torch.is_inference_mode_enabled() != result.inference
        ):
            return None
        y = result.take()
        if result.slope is None:
            return watch(y, self._place)
        mean, var, weight, bias = copies(self.running_mean, self.running_var, self.weight, self.bias)
        eps, convolve = self.eps, result.compute

        def plain() -> Tensor:
            return F.batch_norm(convolve(), mean, var, weight, bias, False, 0.0, eps)

        return guard(Deferred(y, Result(self._place, result.inputs, plain, y, result.slope, autocast=result.autocast)))


class FusedInstanceNorm(FusedNorm):
    """See ``FusedNorm``. PyTorch's results are contiguous, whatever the input's layout."""

    averages = True

    def _laid_out(self, x: Tensor) -> Tensor:
        return channels_first(x) if x.dim() == 4 else x.contiguous()

    def _takes(self, x: Tensor) -> bool:
        self._check_input_dim(x)  # type: ignore[operator]
        if self.running_mean is None and self.track_running_stats and not self.training:
            return False  # an error of PyTorch's
        values = x.numel() // (x.shape[0] * x.shape[1])
        return x.dim() != self._get_no_batch_dim() and values >= max(twin.SMALLEST_INSTANCE, 2)  # type: ignore[operator]

    def _statistics(self, running_mean: Tensor | None, running_var: Tensor | None) -> _Statistics:
        if running_mean is None or running_var is None:
            return None, None
        if self.training or not self.track_running_stats:
            return None, (running_mean, running_var, self.momentum or 0.0)
        return (running_mean, running_var), None


def _normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, call: _Call) -> tuple[Tensor, Tensor, Tensor]:
    """The result, a Deferred where an activation is expected, with the statistics that it was computed by."""
    y, mean, var = _computed(x, weight, bias, call.statistics, call, 1.0 if call.slope is None else call.slope)
    if call.update is not None:
        if call.averages:
            call.late.extend((mean, var))
        else:
            _update(x, call, mean, var)
    if call.slope is None:
        return y, mean, var
    weight, bias, *statistics = copies(weight, bias, *(call.statistics or ()))

    def plain() -> Tensor:
        return _computed(x, weight, bias, statistics or None, call, 1.0)[0]

    return guard(Deferred(y, Result(call.place, (x,), plain, y, call.slope))), mean, var


def _computed(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: Any, call: _Call, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result with an activation of this slope, and the statistics that it was computed by."""
    operators = _operators(call.namespace)
    with torch._C._AutoDispatchBelowAutograd():
        if statistics is None:
            result: tuple[Tensor, Tensor, Tensor] = operators.norm_act(x, weight, bias, call.eps, slope, call.groups)
            return result
        mean, var = statistics
        return operators.norm_act_inference(x, weight, bias, mean, var, call.eps, slope), mean, var


def _update(x: Tensor, call: _Call, mean: Tensor, var: Tensor) -> None:
    """Move the running statistics."""
    if call.update is None:
        raise AssertionError("there are no running statistics to be moved")
    running_mean, running_var, momentum = call.update
    moved = (of_groups(t, call.averages) for t in (mean, var))
    count = x.numel() // (x.shape[1] * call.groups)
    _operators(call.namespace).norm_act_update(running_mean, running_var, *moved, count, momentum)


class _Normalize(torch.autograd.Function):
    """A normalisation in the graph. Its backward pass computes the activation's too, where that gives it both parts."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, call: _Call
    ) -> tuple[Tensor, Tensor | None]:
        y, mean, var = _normalize(x, weight, bias, call)
        # The bias of its own: PyTorch's normalisation does not need it afterwards, and lets it be changed.
        ctx.save_for_backward(x, weight, None if bias is None else bias.clone(), mean, var)
        ctx.call = call
        return y, None if call.slope is None else x.new_empty(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, var = ctx.saved_tensors
        call: _Call = ctx.call
        grad, slope = parts_of(grad, call.place)
        if call.statistics is not None:
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            mean, var = mean.to(dtype)[None], var.to(dtype)[None]
        operators = _operators(call.namespace)
        arguments = (grad, x, weight, bias, mean, var, call.eps, slope, call.statistics is None)
        if torch.is_grad_enabled() or batched(grad):
            dx, dweight, dbias = gradient(operators, *arguments)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                dx, dweight, dbias = gradient(operators, *arguments)
        needs = ctx.needs_input_grad
        return (
            dx if needs[0] else None,
            _as(dweight, weight) if needs[1] else None,
            _as(dbias, bias) if needs[2] else None,
            None,
        )


def _as(gradient: Tensor, parameter: Tensor) -> Tensor:
    return gradient if gradient.dtype == parameter.dtype else gradient.to(parameter.dtype)


@functools.cache
def _operators(namespace: str) -> Any:
    """Of the dispatcher; its packets choose between overloads at each call, and there is one each."""
    operators = getattr(torch.ops, namespace)
    names = ("norm_act", "norm_act_inference", "norm_act_backward", "norm_act_update")
    return types.SimpleNamespace(**{name: getattr(operators, name).default for name in names})

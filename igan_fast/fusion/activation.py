"""The (Leaky)ReLU that takes a fused module's result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from igan_fast.fusion.deferred import HANDLERS, Deferred, Watched, Wrapper, settle
from igan_fast.fusion.nodes import apply
from igan_fast.fusion.place import Place
from igan_fast.ops.conv_act import before_activation
from igan_fast.ops.transforms import transformed

__all__ = ["parts_of"]


def _activate(x: Any, slope: float | None, in_place: bool) -> Any:
    """The (Leaky)ReLU of x where it is at hand; NotImplemented where PyTorch is to compute it."""
    if type(x) is Watched:
        x.activated(slope)
    if torch.compiler.is_compiling():  # which would look into what follows here
        return NotImplemented
    if type(x) is not Deferred or x.is_computed():  # which C++ may have written into
        return NotImplemented
    result = x.result
    if (
        result.activated is None
        or slope is None
        or result.slope != slope
        or result.expects is not None
        or torch.is_inference_mode_enabled() != result.inference
        or transformed()
    ):
        return NotImplemented
    with torch._C.DisableTorchFunctionSubclass():
        if in_place and x.retains_grad:  # which C++ moves to the new node
            return F.leaky_relu_(x, slope) if slope else torch.relu_(x)
        recorded = x.requires_grad and torch.is_grad_enabled()
    # Not with __torch_function__ off: what a hook for saved tensors does here is somebody else's.
    y = apply(_Activate, x, slope) if recorded else result.take()
    if not in_place:
        return y
    x.become_written(y)  # the caller may go on with x
    return x


class _Activate(torch.autograd.Function):
    """The activation's place in the graph; its gradient waits to be computed with the normalisation's."""

    @staticmethod
    def forward(ctx: Any, x: Deferred, slope: float) -> Tensor:
        result = x.result
        y = result.take()
        if not result.lean and slope:
            result.kept = (y.detach(), y._version)
        # PyTorch's own saves one tensor of this shape too, so that a checkpoint meets the same number at each call.
        ctx.save_for_backward(Deferred(y, result) if result.lean or slope else y)
        ctx.slope, ctx.place, ctx.anchor = slope, result.place, result.anchor
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (side,) = ctx.saved_tensors
        if type(side) is Deferred:
            result = side.result
            if result.lean and type(grad) is Tensor and not torch.is_grad_enabled() and not transformed(grad):
                with torch._C.DisableTorchFunctionSubclass():
                    return _DeferredGradient(side, grad, ctx.slope, ctx.place), None
            side = result.side()
        before = before_activation(grad, side.detach(), ctx.slope)
        if ctx.anchor is not None and torch.is_grad_enabled():
            # A second derivative by what the activation was given is zero, not absent; the sum is one of no values.
            before = before + ctx.anchor.sum()
        return before, None


class _DeferredGradient(Wrapper):
    """The gradient of a normalisation's result, of which the normalisation's own backward pass takes the two parts: the
    gradient behind the activation, and the slope. Whoever else looks at it gets the product."""

    def __init__(self, side: Deferred, upstream: Tensor, slope: float, place: Place) -> None:
        self.side, self.upstream, self.slope, self.place = side, upstream, slope, place
        self.instead = None

    def is_computed(self) -> bool:
        return self.instead is not None

    def again(self) -> _DeferredGradient:
        return _DeferredGradient(self.side, self.upstream, self.slope, self.place)

    def data_for_cpp(self) -> Tensor:
        if self.instead is None:
            with _disable_current_modes(), torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
                product = before_activation(self.upstream, self.side.result.plain(), self.slope)
                self.instead = product if product.stride() == self.stride() else product.contiguous()
        return self.instead

    def settled(self) -> Tensor:
        return self.data_for_cpp()


def parts_of(grad: Tensor, place: Place) -> tuple[Tensor, float]:
    """A normalisation's gradient as its backward pass takes it: what is behind the activation, and the slope.

    The slope is 1, and the gradient that of the normalisation's own result, where somebody has looked at it: who looks
    may write.
    """
    if type(grad) is _DeferredGradient and grad.place is place and grad.instead is None:
        return grad.upstream, grad.slope
    return settle(grad), 1.0


def _slope(value: Any) -> float | None:
    """A slope that the fused operators take; None for any other."""
    if type(value) in (int, float) and 0 <= value < float("inf") and value != 1:
        return float(value)
    return None


def _relu(args: Any, kwargs: Any) -> tuple[float | None, bool]:
    return 0.0, bool(args[1] if len(args) > 1 else kwargs.get("inplace", False))


def _leaky_relu(args: Any, kwargs: Any) -> tuple[float | None, bool]:
    slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
    return _slope(slope), bool(args[2] if len(args) > 2 else kwargs.get("inplace", False))


#: How each function is called: the slope, and whether it writes into its input.
_ACTIVATIONS: dict[Any, Callable[[Any, Any], tuple[float | None, bool]]] = {
    F.relu: _relu,
    torch.relu: lambda args, kwargs: (0.0, False),
    Tensor.relu: lambda args, kwargs: (0.0, False),
    torch.relu_: lambda args, kwargs: (0.0, True),
    Tensor.relu_: lambda args, kwargs: (0.0, True),
    F.leaky_relu: _leaky_relu,
    torch._C._nn.leaky_relu: lambda args, kwargs: (_leaky_relu(args, kwargs)[0], False),
    F.leaky_relu_: lambda args, kwargs: (_leaky_relu(args, kwargs)[0], True),
}


def _handle(func: Any, args: Any, kwargs: Any) -> Any:
    return _activate(args[0], *_ACTIVATIONS[func](args, kwargs)) if args else NotImplemented


HANDLERS.update(dict.fromkeys(_ACTIVATIONS, _handle))

"""Handlers for (Leaky)ReLU functions that are called with a fused module's result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from igan_fast.fusion.deferred import HANDLERS, Deferred, Wrapper, to_ordinary
from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.watched import Watched
from igan_fast.ops.conv_act import before_activation
from igan_fast.ops.eager import apply_function
from igan_fast.ops.transforms import transformed

__all__ = ["gradient_and_slope"]


def _activate(x: Any, slope: float | None, in_place: bool) -> Any:
    """The (Leaky)ReLU of x if x is Deferred and expects this activation; else NotImplemented."""
    if type(x) is Watched:
        x.used_by_activation(slope)
    if torch.compiler.is_compiling():  # do not let the compiler trace the lines below
        return NotImplemented
    if type(x) is not Deferred or x.is_computed():  # C++ may have written into the computed data
        return NotImplemented
    result = x.result
    if (
        result.activated is None
        or slope is None
        or result.slope != slope
        or result.folded_norm is not None
        or torch.is_inference_mode_enabled() != result.inference_mode
        or transformed()
    ):
        return NotImplemented
    with torch._C.DisableTorchFunctionSubclass():
        if in_place and x.retains_grad:  # PyTorch's in-place function moves retain_grad to its own node
            return F.leaky_relu_(x, slope) if slope else torch.relu_(x)
        recorded = x.requires_grad and torch.is_grad_enabled()
    # Not inside the block above: save_for_backward may call a user's saved-tensor hook, which needs __torch_function__.
    y = apply_function(_Activate, x, slope) if recorded else result.take_activated()
    if not in_place:
        return y
    x.become_written(y)  # the caller may use x after this, as the result
    return x


class _Activate(torch.autograd.Function):
    """The activation's autograd node. Its backward pass leaves the computation to the normalisation's node."""

    @staticmethod
    def forward(ctx: Any, x: Deferred, slope: float) -> Tensor:
        result = x.result
        y = result.take_activated()
        if not result.recompute and slope:
            result.saved = (y.detach(), y._version)
        # Save one tensor of this shape, as PyTorch's activation does: checkpointing compares the saved tensors of the
        # first call with those of the repeated call.
        ctx.save_for_backward(Deferred(y, result) if result.recompute or slope else y)
        ctx.slope, ctx.expectation, ctx.anchor = slope, result.expectation, result.anchor
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        (saved,) = ctx.saved_tensors
        if grad is None:
            return None, None
        if type(saved) is Deferred:
            result = saved.result
            if result.recompute and type(grad) is Tensor and not torch.is_grad_enabled() and not transformed(grad):
                with torch._C.DisableTorchFunctionSubclass():
                    return _DeferredGradient(saved, grad, ctx.slope, ctx.expectation), None
            saved = result.with_signs()
        before = before_activation(grad, saved.detach(), ctx.slope)
        if ctx.anchor is not None and torch.is_grad_enabled():
            # The empty sum makes the second derivative with respect to the activation's input zero instead of None.
            before = before + ctx.anchor.sum()
        return before, None


class _DeferredGradient(Wrapper):
    """The gradient of a normalisation's result, not computed yet.

    The normalisation's backward pass takes ``upstream`` and ``slope`` from it, and applies the slope in its own
    operator. Any other use, such as a hook, gets the computed gradient.

    normalized: the normalisation's result, whose signs decide where the slope applies.
    upstream: the gradient of the activation's result.
    slope: negative slope of the activation.
    expectation: of the normalisation.
    """

    def __init__(self, normalized: Deferred, upstream: Tensor, slope: float, expectation: Expectation) -> None:
        self.normalized, self.upstream, self.slope, self.expectation = normalized, upstream, slope, expectation
        self.replacement = None

    def is_computed(self) -> bool:
        return self.replacement is not None

    def detached(self) -> _DeferredGradient:
        return _DeferredGradient(self.normalized, self.upstream, self.slope, self.expectation)

    def data_for_cpp(self) -> Tensor:
        if self.replacement is None:
            with _disable_current_modes(), torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
                product = before_activation(self.upstream, self.normalized.result.plain(), self.slope)
                self.replacement = product if product.stride() == self.stride() else product.contiguous()
        return self.replacement

    def to_ordinary(self) -> Tensor:
        return self.data_for_cpp()


def gradient_and_slope(grad: Tensor, expectation: Expectation) -> tuple[Tensor, float]:
    """The arguments of a normalisation's backward operator, from the gradient that autograd passes to its node.

    Args:
        expectation: of the normalisation.

    Returns:
        The gradient of the activation's result, and the slope. If there was no activation, or if a hook has read the
        gradient and may have changed it: the gradient of the normalisation's result, and 1.
    """
    if type(grad) is _DeferredGradient and grad.expectation is expectation and grad.replacement is None:
        return grad.upstream, grad.slope
    return to_ordinary(grad), 1.0


def _supported_slope(value: Any) -> float | None:
    """``value`` as a slope that the fused operators support; None where they do not."""
    if type(value) in (int, float) and 0 <= value < float("inf") and value != 1:
        return float(value)
    return None


def _relu(args: Any, kwargs: Any) -> tuple[float | None, bool]:
    return 0.0, bool(args[1] if len(args) > 1 else kwargs.get("inplace", False))


def _leaky_relu(args: Any, kwargs: Any) -> tuple[float | None, bool]:
    slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
    return _supported_slope(slope), bool(args[2] if len(args) > 2 else kwargs.get("inplace", False))


#: For each function: the slope and whether it is in-place, from its arguments and keyword arguments.
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

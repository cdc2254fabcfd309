"""Eager calls of the dispatcher's operators without the time that a registered gradient takes.

The operators' gradients are registered with the dispatcher (``torch.library.register_autograd``), because torch.compile
needs them there. In an eager call, what is registered takes 60 to 200 µs, more than the kernels of small tensors. So an
eager call has a node of its own (``node_of``), which calls the operator below autograd and has the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["apply_function", "below_autograd", "call_in_backward", "is_recorded", "node_of"]


def apply_function(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)``, but faster. PyTorch's ``apply`` first checks for a ``torch.func`` transform; the
    caller has already done that."""
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records an operation on these tensors."""
    return (
        torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and any(t is not None and t.requires_grad for t in tensors)
    )


def below_autograd(operator: Callable[..., Any], *args: Any) -> Any:
    """Call an operator that changes none of its arguments, and whose result needs no gradient of this call: nothing is
    recorded, or the caller's node has the gradient. The call skips the registered gradient."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)


def call_in_backward(operator: Callable[..., Any], *args: Any) -> Any:
    """Call an operator in a backward pass. It needs its registered gradient only if the pass is itself recorded
    (``create_graph=True``) or compiled."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*args)
    return below_autograd(operator, *args)


def node_of(
    operator: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
) -> type[torch.autograd.Function]:
    """The autograd node of an operator in eager mode, from the functions that ``torch.library.register_autograd``
    takes. No argument of the operator is a list of tensors."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = below_autograd(operator, *inputs)
        setup_context(ctx, inputs, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Node", (torch.autograd.Function,), members)

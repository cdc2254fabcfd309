"""How fused modules use autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["apply_function", "apply_with_anchor", "gradients_of_anchor", "is_recorded"]


def apply_function(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)``, but faster: PyTorch's ``apply`` first looks for a transform of ``torch.func``, which a
    fused module has done by then."""
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def apply_with_anchor(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    """The result of a function that returns a Deferred and its anchor (``Result``), or an ordinary tensor and None."""
    y: Any
    y, anchor = apply_function(function, *args)
    if anchor is not None:
        y.result.anchor = anchor
    return y  # type: ignore[no-any-return]


def gradients_of_anchor(ctx: Any, anchor: Tensor | None, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of the inputs of a function called by ``apply_with_anchor`` whose result has no gradient: zeros
    where the anchor has one, else None, and None for the call's last argument.

    Args:
        anchor: the gradient of the anchor.
        inputs: tensors of the shapes and dtypes of the function's inputs.
    """
    needed = zip(inputs, ctx.needs_input_grad, strict=False)
    return (*(None if anchor is None or not needs or t is None else torch.zeros_like(t) for t, needs in needed), None)


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records an operation on these tensors."""
    return (
        torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and any(t is not None and t.requires_grad for t in tensors)
    )

"""Helpers by which fused modules use autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from igan_fast.ops.eager import apply_function

__all__ = ["apply_with_anchor", "gradients_of_anchor"]


def apply_with_anchor(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    """Call a function that returns a Deferred and its anchor, or an ordinary tensor and None. Store the anchor in the
    ``Result`` of the Deferred, and return the tensor."""
    y: Any
    y, anchor = apply_function(function, *args)
    if anchor is not None:
        y.result.anchor = anchor
    return y  # type: ignore[no-any-return]


def gradients_of_anchor(ctx: Any, anchor: Tensor | None, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of the inputs of a function that ``apply_with_anchor`` called, where its result has no gradient.

    If the anchor has a gradient, they are zeros for the inputs that need a gradient. All others are None. The last
    argument of the function is not a tensor; its gradient is None.

    Args:
        anchor: the gradient of the anchor, or None.
        inputs: tensors of the shapes and dtypes of the function's inputs.
    """
    needed = zip(inputs, ctx.needs_input_grad, strict=False)
    return (*(None if anchor is None or not needs or t is None else torch.zeros_like(t) for t, needs in needed), None)

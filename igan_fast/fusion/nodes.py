"""Calls of our own autograd functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["anchored", "apply"]


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)`` outside of ``torch.func``'s transforms, which PyTorch's looks for at each call."""
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def anchored(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    """The result of a function that returns, beside a Deferred one, the anchor for it; beside an ordinary one, None."""
    y: Any
    y, anchor = apply(function, *args)
    if anchor is not None:
        y.result.anchor = anchor
    return y  # type: ignore[no-any-return]

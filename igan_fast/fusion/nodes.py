"""Calls of our own autograd functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["apply"]


def apply(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    """``function.apply(*args)`` where no transform of ``torch.func`` is at work, which PyTorch's looks for each time."""
    y: Tensor = super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]
    return y

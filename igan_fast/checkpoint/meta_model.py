"""A model on the ``meta`` device, which has shapes and types but takes no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from igan_fast.models import IterativeGAN

__all__ = ["model_on_meta"]


def model_on_meta(arguments: Mapping[str, Any]) -> IterativeGAN:
    """Return ``IterativeGAN(**arguments)`` on the ``meta`` device. No random number is drawn.

    Raises:
        TypeError, ValueError: as ``IterativeGAN``.
    """
    with torch.device("meta"), _SkipInitialisation():
        return IterativeGAN(**arguments)


class _SkipInitialisation(TorchFunctionMode):
    """Skips the initialisation. On ``meta`` it has no effect, but it imports modules, which takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", "") == torch.nn.init.__name__ or func in (Tensor.normal_, Tensor.uniform_):
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)

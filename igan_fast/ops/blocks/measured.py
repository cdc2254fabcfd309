"""The choice between a network of blocks and its layers one by one by measurement (``igan_fast.ops.tuning``), where
``IGAN_FAST_CONVOLUTION=measure`` or ``igan-fast train --tune measure`` asks for it.

A network is timed at its first use, forward and backward, on tensors of its own: weights, running statistics and random
numbers of the caller stay as they are. The tensors are freed before it is used.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend, tuning
from igan_fast.ops.convolution import ConvSettings, filters_kept

__all__ = ["is_faster_as_node"]


def is_faster_as_node(
    name: str, node: Callable[..., Tensor], layers: Callable[..., Tensor], x: Tensor, *others: Any
) -> bool:
    """Whether ``node(x, *others)`` is the choice of x's device, instead of ``layers(x, *others)``.

    Both return a tensor. Its gradients are computed too, for all arguments that require one.

    Args:
        name: of the computation.
        others: tensors, numbers, None and the settings of convolutions, in tuples and lists of any depth. They and x
            are only looked at.
    """
    arguments, kind = (x, *others), x.device.type
    own = functools.cache(lambda: _Own(arguments, x.device))
    now: dict[str, Any] = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
    # Casts of the tensors must not be kept with those of the caller, nor transformed filters.
    with torch.autocast(kind, cache_enabled=False, **now), filters_kept(uses=1):
        return tuning.is_triton_faster(
            _key(name, arguments, kind), lambda: own().run(node), lambda: own().run(layers), kind
        )


class _Own:
    """Tensors like those of the arguments."""

    def __init__(self, arguments: Sequence[Any], device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(0)  # the global one belongs to the caller
        self._arguments = self._like(arguments)
        self._leaves = [t for t in _tensors(self._arguments) if t.requires_grad]
        self._grad: Tensor | None = None

    def run(self, compute: Callable[..., Tensor]) -> None:
        """Compute the result, and the gradients if autograd records it."""
        result = compute(*self._arguments)
        if not result.requires_grad:
            return
        if self._grad is None:
            self._grad = torch.ones(result.shape, dtype=result.dtype, device=result.device)
        torch.autograd.grad(result, self._leaves, self._grad, allow_unused=True)

    def _like(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            # Also views whose values overlap, and such as leave memory out.
            last = sum((side - 1) * stride for side, stride in zip(value.shape, value.stride(), strict=True))
            flat = torch.randn(last + 1, generator=self._generator, device=value.device, dtype=value.dtype)
            return flat.as_strided(value.shape, value.stride()).requires_grad_(value.requires_grad)
        if isinstance(value, tuple | list):
            items = [self._like(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else items
        return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _key(name: str, arguments: Sequence[Any], device: str) -> str:
    """All that the speed of a computation depends on, except for the device and the versions."""
    autocast = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""
    operators = backend.chosen(torch.device(device))
    values = name, tuning.flags(), operators, autocast, torch.is_grad_enabled(), _described(arguments)
    return json.dumps(values, separators=(",", ":"))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.stride(), value.requires_grad
    if isinstance(value, ConvSettings):
        return value.arguments
    return [_described(item) for item in value] if isinstance(value, tuple | list) else value

"""A running average of the model, steadier than any one iteration: samples, validation and the editor use it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from igan_fast.errors import InputError

__all__ = ["EMA"]

_Model = TypeVar("_Model", bound=nn.Module)


class EMA(Generic[_Model]):
    """Exponential moving average of a module's whole state.

    Parameters and floating-point buffers (running statistics) are averaged, integer buffers copied. Update t (from 0)
    keeps ``min(decay, (1 + t) / (10 + t))`` of the average, so that the random weights of the start are soon forgotten.

    Args:
        model: the module that is trained. It is read at each :meth:`update`, so it may be moved or loaded in between.
        decay: weight of the past once the start is over, in [0, 1).

    Attributes:
        model: the average: a copy of the module in eval mode, whose parameters want no gradient.
        count: how many updates it has behind it.
    """

    def __init__(self, model: _Model, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"EMA decay is {decay}; expected at least 0 and less than 1")
        self.decay = decay
        self.count = 0
        self._trained = model
        self.model: _Model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present state."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        average, trained = self.model.state_dict(), self._trained.state_dict()
        by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for name, tensor in average.items():
            if tensor.is_floating_point():
                averages, sources = by_dtype.setdefault(tensor.dtype, ([], []))
                averages.append(tensor)
                sources.append(trained[name])
            else:
                tensor.copy_(trained[name])
        for averages, sources in by_dtype.values():
            torch._foreach_lerp_(averages, sources, 1.0 - decay)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """``{"count": int, "model": the average's state_dict}``; the tensors are not copied."""
        return {"count": self.count, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where :meth:`state_dict` was taken. Raises ``RuntimeError`` where the tensors do not fit."""
        self.model.load_state_dict(state["model"])
        self.count = int(state["count"])

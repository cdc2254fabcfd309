"""A running average of the model's weights, which samples, validation and the editor use.

The average is computed by ``get_ema_multi_avg_fn`` of ``torch.optim.swa_utils``. The ``AveragedModel`` there would give
the same bits, but each update copies its counter to the device (``n_averaged.to(device)``). On a GPU this copy makes
the host wait until the iteration is done. Here the count is a Python number.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from igan_fast.errors import InputError

__all__ = ["EMA"]

_Model = TypeVar("_Model", bound=nn.Module)


class EMA(Generic[_Model]):
    """Exponential moving average of a module's whole state.

    Parameters and floating-point buffers (running statistics) are averaged; integer buffers are copied. Update t, which
    counts from 0, keeps ``min(decay, (1 + t) / (10 + t))`` of the average. So the random initial weights soon lose
    their influence.

    Args:
        model: the module that is trained. Each :meth:`update` reads it, so it may be moved or loaded in between.
        decay: share of the average that an update keeps, except for the first updates; in [0, 1).

    Attributes:
        model: the average: a copy of the module in eval mode, whose parameters do not require gradients.
        count: the number of updates so far.

    Raises:
        InputError: ``decay`` is out of its range.
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
        """Update the average with the module's present state."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        average_into = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
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
            average_into(averages, sources, self.count)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"count": int, "model": state_dict of the average}``; the tensors are not copied."""
        return {"count": self.count, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            RuntimeError: names or shapes of the tensors differ from the model's.
        """
        self.model.load_state_dict(state["model"])
        self.count = int(state["count"])

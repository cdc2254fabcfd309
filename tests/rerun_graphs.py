"""Stands in for CUDA graphs on a CPU: everything of a ``GraphedStep`` runs, except for the calls of the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from igan_fast.graphs import GraphedStep


class Rerun:
    """In the place of a CUDA graph: each replay computes from the captured inputs, into the same results."""

    def __init__(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None]) -> None:
        self.function, self.inputs, self.reset_calls = function, inputs, 0
        self.results: list[Tensor] = []

    def replay(self) -> None:
        found = self.function(*self.inputs)
        if not self.results:
            self.results.extend(found)
        for kept, new in zip(self.results, found, strict=True):
            kept.copy_(new)

    def reset(self) -> None:
        self.reset_calls += 1


class Reruns(list[Rerun]):
    """Inside ``with``, what a ``GraphedStep`` captures is one of these, and is listed."""

    def __enter__(self) -> Reruns:
        def recorded(
            step: Any, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None]
        ) -> tuple[Rerun, list[Tensor]]:
            step._warm_up(function, inputs)
            self.append(Rerun(function, inputs))
            return self[-1], self[-1].results

        self._patches = [
            mock.patch.object(torch.cuda, "graph_pool_handle", return_value=None),
            mock.patch.object(GraphedStep, "_recorded", recorded),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()

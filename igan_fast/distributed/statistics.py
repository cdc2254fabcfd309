"""Collects the statistics of batch normalisation, and applies them to the running statistics in a fixed order.

One process moves the running statistics r once per pass and group: r ← (1 − m)·r + m·s, in the order of the passes and,
in each pass, of the groups. If parts of the batch are computed elsewhere or later, they must not start from r, but
their order must be the same. So each pass of a part starts from 0. Its result c is what its g groups contribute:

    r ← (1 − m)^g · r + c

When the contributions of all passes and parts are known, they are applied in the order of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from igan_fast.reference.layers import NormAct2d

__all__ = ["CollectedStatistics"]


class CollectedStatistics:
    """Stands in for the running statistics of a model's layers while parts of a batch pass through it.

    Args:
        model: every layer with running statistics must be a ``NormAct2d`` of batches, with a momentum.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [
            layer for layer in model.modules() if isinstance(layer, NormAct2d) and layer.running_mean is not None
        ]
        self._calls: list[dict[NormAct2d, list[Tensor]]] = []  # for each part, the contributions of each layer's passes
        self._part = -1  # −1: what passes is not counted
        self._shares: dict[tuple[int, ...], Tensor] = {}  # made once, because the host waits for a copy to a GPU

    @contextmanager
    def collecting(self, parts: int) -> Iterator[None]:
        """Inside the block, passes in training leave the running statistics as they are.

        Args:
            parts: the number of parts of this process.
        """
        self._calls, self._part = [{layer: [] for layer in self._layers} for _ in range(parts)], -1
        for layer in self._layers:
            layer.take_statistics = self._take
        try:
            yield
        finally:
            for layer in self._layers:
                layer.take_statistics = None

    @contextmanager
    def part(self, index: int) -> Iterator[None]:
        """Collect the passes inside the block for one part of this process. Outside, they are not collected."""
        self._part = index
        try:
            yield
        finally:
            self._part = -1

    def _take(self, layer: NormAct2d, groups: int) -> tuple[Tensor, Tensor]:
        assert layer.running_mean is not None
        contribution = layer.running_mean.new_zeros(2, layer.num_features)
        if self._part >= 0:
            self._calls[self._part][layer].append(contribution)
        return contribution[0], contribution[1]

    def flat(self, index: int) -> Tensor:
        """What a part of this process contributes, as one vector (n,)."""
        calls = self._calls[index]
        return torch.cat([torch.stack(calls[layer]).flatten() for layer in self._layers if calls[layer]])

    def apply(self, contributions: Tensor, groups: list[int]) -> None:
        """Move the running statistics.

        Args:
            contributions: (P, n), the ``flat`` of all P parts of the batch, in order.
            groups: the number of groups of each part.
        """
        begin = 0
        for layer in self._layers:
            passes = len(self._calls[0][layer])
            if not passes:
                continue
            mean, var, count = layer.running_mean, layer.running_var, layer.num_batches_tracked
            assert mean is not None
            assert var is not None
            assert count is not None
            assert layer.momentum is not None
            length = passes * 2 * layer.num_features
            # (P, passes, 2, C), in the order in which one process would apply them: (passes · P, 2, C)
            own = contributions[:, begin : begin + length].view(-1, passes, 2, layer.num_features)
            own = own.transpose(0, 1).flatten(0, 1)
            begin += length
            each, keep = groups * passes, 1.0 - layer.momentum
            moved = (own * self._share(layer, each, keep)).sum(0)
            for running, more in ((mean, moved[0]), (var, moved[1])):
                running.mul_(keep ** sum(each)).add_(more)
            count.add_(sum(each))

    def _share(self, layer: NormAct2d, groups: list[int], keep: float) -> Tensor:
        """What is left of each contribution when all later ones have been applied, (len(groups), 1, 1).

        Args:
            groups: the number of groups of each contribution.
            keep: what a group leaves of the running statistics.
        """
        key = (self._layers.index(layer), *groups)
        if key not in self._shares:
            assert layer.running_mean is not None
            later = [sum(groups[index + 1 :]) for index in range(len(groups))]
            self._shares[key] = layer.running_mean.new_tensor([keep**number for number in later]).view(-1, 1, 1)
        return self._shares[key]

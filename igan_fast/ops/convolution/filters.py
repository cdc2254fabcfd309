"""The transformed filters of minimal filtering: where a weight is used more than once, its filter is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from igan_fast.ops.constant import derived, is_constant, source_of

__all__ = ["filter_of", "filters_kept"]


def filter_of(weight: Tensor, kind: Hashable, transform: Callable[[], Tensor]) -> Tensor:
    """The transformed filter of a weight; the weight itself if the filter would be used only once.

    Args:
        kind: what the filter depends on besides the weight.
        transform: computes the filter.
    """
    return _thread.filters.get(weight, kind, transform)


@contextmanager
def filters_kept(uses: int) -> Iterator[None]:
    """Inside the block, keep each transformed filter until it has been used ``uses`` times. This is for code that uses
    the same weights a known number of times.

    The weights must not change inside the block. A change is not detected, because fused optimisers do not increment a
    tensor's version counter.
    """
    outer, _thread.filters = _thread.filters, _FilterCache(uses)
    try:
        yield
    finally:
        _thread.filters = outer


class _FilterCache:
    """Transformed filters, each kept until it has been used ``uses`` times."""

    def __init__(self, uses: int) -> None:
        self.uses = uses
        # The key is (id of the weight, dtype, kind). A value is (weight, filter, number of uses left). It holds the
        # weight so that no other tensor gets the same id. Autocast casts a weight more than once: the weight is that
        # before the cast.
        self.entries: dict[tuple[int, torch.dtype, Hashable], tuple[Tensor, Tensor, int]] = {}

    def get(self, weight: Tensor, kind: Hashable, transform: Callable[[], Tensor]) -> Tensor:
        """As ``filter_of``."""
        if self.uses == 1:
            if not is_constant(weight):
                return weight.detach()
            kept: Tensor = derived(kind, (weight,), transform)
            return kept
        source = source_of(weight)
        key = (id(source), weight.dtype, kind)
        if key not in self.entries:
            self.entries[key] = (source, transform(), self.uses)
        source, filter, left = self.entries.pop(key)
        if left > 1:
            self.entries[key] = (source, filter, left - 1)
        return filter


class _Thread(threading.local):
    """Each thread has a separate cache. On the CPU, a backward pass runs in the thread that calls it."""

    filters = _FilterCache(1)


_thread = _Thread()

"""Random permutations that are the same on every machine and with every version of NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from igan_fast.errors import InputError

__all__ = ["check_seed", "random_bits", "seeded_permutation"]


def check_seed(seed: int, *, where: str = "seed") -> int:
    """Return ``seed``. Raises ``InputError`` if it is negative, which NumPy's ``SeedSequence`` does not accept."""
    if seed < 0:
        raise InputError(f"{where}: found {seed}, expected a whole number from 0 up")
    return seed


def random_bits(count: int, *key: int) -> NDArray[np.uint64]:
    """(count,) uint64: 64 random bits each, which depend on ``key`` alone.

    NumPy guarantees that the raw output of a bit generator never changes. It gives no such guarantee for
    ``Generator.permutation``.
    """
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)


def seeded_permutation(count: int, *key: int) -> NDArray[np.int64]:
    """(count,) int64: a uniform random permutation of ``range(count)`` that depends on ``count`` and ``key`` alone."""
    return np.argsort(random_bits(count, *key), kind="stable").astype(np.int64, copy=False)

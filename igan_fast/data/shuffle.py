"""Shuffling that is the same on every machine and with every release of NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from igan_fast.errors import InputError

__all__ = ["check_seed", "random_bits", "seeded_permutation"]


def check_seed(seed: int, *, where: str = "seed") -> int:
    """``seed`` itself. Raises ``InputError`` where it is negative, which NumPy's ``SeedSequence`` refuses."""
    if seed < 0:
        raise InputError(f"{where}: found {seed}, expected a whole number from 0 up")
    return seed


def random_bits(count: int, *key: int) -> NDArray[np.uint64]:
    """``count`` independent words of 64 random bits that depend on ``key`` alone.

    NumPy promises that the bits of a bit generator never change; for ``Generator.permutation`` it does not.
    """
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)


def seeded_permutation(count: int, *key: int) -> NDArray[np.int64]:
    """A uniformly random order of ``range(count)`` that depends on ``count`` and ``key`` alone, as (count,) int64."""
    return np.argsort(random_bits(count, *key), kind="stable").astype(np.int64, copy=False)

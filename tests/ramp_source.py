"""A dataset whose images are ramps. The first pixel of an image is its number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igan_fast.errors import InputError


@dataclass
class RampSource:
    """A ``FaceSource`` whose image i is a ramp of pixel values that begins at i. It records the calls of ``image``."""

    count: int
    version: str = "1"
    broken: frozenset[int] = frozenset()
    attributes: tuple[str, ...] = ("even", "third")
    calls: list[int] = field(default_factory=list)

    @property
    def labels(self) -> NDArray[np.uint8]:
        numbers = np.arange(self.count)
        return np.stack([numbers % 2 == 0, numbers % 3 == 0], axis=1).astype(np.uint8)

    @property
    def identities(self) -> NDArray[np.int64] | None:
        return np.arange(self.count) // 2

    @property
    def splits(self) -> Mapping[str, NDArray[np.int64]]:
        numbers = np.arange(self.count)
        return {"train": numbers[numbers % 5 != 4], "val": numbers[numbers % 5 == 4]}

    def __len__(self) -> int:
        return self.count

    def describe(self) -> str:
        return "numbers"

    def fingerprint(self) -> str:
        return f"{self.count}{self.version}{sorted(self.broken)}"

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        self.calls.append(index)
        if index in self.broken:
            raise InputError(f"number {index} is broken")
        return ((np.arange(size * size * 3) + index) % 256).astype(np.uint8).reshape(size, size, 3)


def contents(cache: Path) -> list[str]:
    """The names in the cache folder, without lock files, which are never deleted."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")

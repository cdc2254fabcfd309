"""What usually follows a module in a fused model."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["Place"]

#: After so many results that were used in another way than expected nothing is expected any more.
_MOST_MISSES = 3


class Place:
    """What one module has learnt from the uses of its results.

    slope: of the (Leaky)ReLU that took the last one; None where it was none.
    norm: the fused normalisation that took it.
    """

    __slots__ = ("_misses", "_norm", "slope", "unknown")

    def __init__(self) -> None:
        self.slope: float | None = None
        self._norm: weakref.ref[Any] | None = None
        self.unknown, self._misses = True, 0

    @property
    def norm(self) -> Any:
        return None if self._norm is None else self._norm()

    def follows(self, slope: float | None) -> None:
        """A (Leaky)ReLU took the result; None: one that the fused operators do not take."""
        self.slope, self._norm, self.unknown = slope, None, False

    def precedes(self, norm: Any) -> None:
        """A fused normalisation took the result."""
        self.slope, self._norm, self.unknown = None, weakref.ref(norm), False

    def alone(self) -> None:
        """Something else took the result."""
        self.slope, self._norm, self.unknown = None, None, False

    def missed(self) -> None:
        """The result was used in another way than expected. The next one is watched, unless that happens often."""
        self.alone()
        self._misses += 1
        self.unknown = self._misses < _MOST_MISSES

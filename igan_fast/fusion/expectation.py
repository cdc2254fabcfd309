"""What a fused module expects to follow it."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["Expectation"]

#: After this many results that were used in another way than expected, a module expects nothing any more.
_MAX_MISSES = 3


class Expectation:
    """The operation that a fused module expects to follow its next call, learnt from those that followed earlier calls.

    slope: negative slope of the (Leaky)ReLU that is expected (0 for a ReLU); None where no activation is expected.
    norm: the fused normalisation that is expected; None where none is, or where it has been deleted since.
    unknown: True until the first use of a result has been seen. Until then results are watched (``watched.py``).
    """

    __slots__ = ("_misses", "_norm", "slope", "unknown")

    def __init__(self) -> None:
        self.slope: float | None = None
        self._norm: weakref.ref[Any] | None = None
        self.unknown, self._misses = True, 0

    @property
    def norm(self) -> Any:
        return None if self._norm is None else self._norm()

    def expect_activation(self, slope: float | None) -> None:
        """A (Leaky)ReLU used the result: expect it again. None: its slope is one that the operators do not support."""
        self.slope, self._norm, self.unknown = slope, None, False

    def expect_norm(self, norm: Any) -> None:
        """The fused normalisation ``norm`` used the result: expect it again."""
        self.slope, self._norm, self.unknown = None, weakref.ref(norm), False

    def expect_nothing(self) -> None:
        """Anything else used the result: return ordinary tensors from now on."""
        self.slope, self._norm, self.unknown = None, None, False

    def count_miss(self) -> None:
        """The result was used in another way than expected: watch the next one, or give up after ``_MAX_MISSES``."""
        self.expect_nothing()
        self._misses += 1
        self.unknown = self._misses < _MAX_MISSES

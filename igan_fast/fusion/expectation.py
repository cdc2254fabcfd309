"""The operation that a fused module expects to use its result."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["Expectation"]

#: After this many unexpected uses of its results, a module no longer expects any operation.
_MAX_MISSES = 3


class Expectation:
    """The operation that a fused module expects to use its next result. It is learnt from the uses of earlier results.

    slope: negative slope of the expected (Leaky)ReLU (0 for a ReLU); None if no activation is expected.
    norm: the expected fused normalisation; None if none is expected, or if it has been deleted.
    unknown: True while the next use of a result is still to be learnt. Until then results are Watched (``watched.py``).
    """

    __slots__ = ("_misses", "_norm", "slope", "unknown")

    def __init__(self) -> None:
        self.slope: float | None = None
        self._norm: weakref.ref[Any] | None = None
        self.unknown, self._misses = True, 0

    def __deepcopy__(self, _: Any) -> Expectation:
        """A new expectation, because other modules follow the copy of a module."""
        return Expectation()

    @property
    def norm(self) -> Any:
        return None if self._norm is None else self._norm()

    def expect_activation(self, slope: float | None) -> None:
        """A (Leaky)ReLU used the result: expect it again. ``slope`` is None if the operators do not support its slope:
        then expect nothing."""
        self.slope, self._norm, self.unknown = slope, None, False

    def expect_norm(self, norm: Any) -> None:
        """The fused normalisation ``norm`` used the result: expect it again."""
        self.slope, self._norm, self.unknown = None, weakref.ref(norm), False

    def expect_nothing(self) -> None:
        """Anything else used the result: return ordinary tensors from now on."""
        self.slope, self._norm, self.unknown = None, None, False

    def count_miss(self) -> None:
        """The use of the result was not the expected one. Learn from the next use, or, after ``_MAX_MISSES`` such uses,
        expect nothing any more."""
        self.expect_nothing()
        self._misses += 1
        self.unknown = self._misses < _MAX_MISSES

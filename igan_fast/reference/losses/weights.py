"""Checks of the weights that are passed to losses, and their conversion to floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

__all__ = ["finite", "number", "per_entry"]


def number(name: str, value: object) -> float:
    """``value`` as a float.

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is not finite.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number")
    return float(value)


def finite(name: str, values: object) -> tuple[float, ...]:
    """``values`` as floats.

    Raises:
        TypeError: ``values`` is not a sequence, or one of its entries is not a number.
        ValueError: an entry is not finite.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} is a {type(values).__name__}; expected a sequence of numbers")
    return tuple(number(f"{name}[{index}]", value) for index, value in enumerate(values))


def per_entry(name: str, values: object, count: int, entries: str) -> list[float]:
    """``values`` as floats.

    Args:
        count: the expected number of values.
        entries: what each value is for ("feature maps"), for the message.

    Raises:
        TypeError: as ``finite``.
        ValueError: as ``finite``, or the number of values is not ``count``.
    """
    if len(weights := finite(name, values)) != count:
        raise ValueError(f"{name} has {len(weights)} numbers for {count} {entries}")
    return list(weights)

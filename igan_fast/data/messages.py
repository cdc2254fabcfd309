"""Phrases that several error messages of this package share."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["counted", "first_three"]


def counted(items: Sequence[object], noun: str) -> str:
    """The number of items with their noun: "1 photo", "1,234 photos"."""
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"


def first_three(names: Sequence[str]) -> str:
    """The first three names with commas between them, and "…" if there are more."""
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"

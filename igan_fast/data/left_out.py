"""Collects what a dataset leaves out, and warns of each kind once."""

from __future__ import annotations

import warnings
from pathlib import Path

from igan_fast.errors import InputError, printable

__all__ = ["LeftOut"]


class LeftOut:
    """What a dataset leaves out. It is used while the dataset is opened: each method warns the caller of that.

    Args:
        path: the dataset, for messages.
        strict: make mismatches errors.
    """

    def __init__(self, path: Path, strict: bool) -> None:
        self._path = path
        self._strict = strict
        self._kinds: list[str] = []

    def unreadable(self, what: str) -> None:
        """Report files that cannot be read, which are left out in strict mode too."""
        self.warn(f"left out {what}")
        self._kinds.append(what)

    def mismatch(self, what: str) -> None:
        """Report a mismatch, such as photos without labels: with a warning, or in strict mode with an error.

        Raises:
            InputError: in strict mode.
        """
        if self._strict:
            raise InputError(f"{self._path}: {what}")
        self.warn(f"{what}; everything else is used")
        self._kinds.append(what)

    def warn(self, what: str) -> None:
        """Warn the user of something about the dataset."""
        warnings.warn(printable(f"{self._path}: {what}"), stacklevel=5)

    def describe(self) -> str:
        """A phrase that lists all that was left out."""
        return "skipped: " + ", ".join(self._kinds) if self._kinds else "nothing skipped"

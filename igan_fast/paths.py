"""Paths as people type them: ``~`` is expanded, and an empty path is an error. The cache folder of the package."""

from __future__ import annotations

import os
import reprlib
from pathlib import Path

from igan_fast.errors import InputError

__all__ = ["cache_folder", "given_path"]


def cache_folder() -> Path:
    """The folder of what is kept from run to run, such as prepared images: ``$IGAN_FAST_CACHE``, else ``igan_fast`` in
    ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        InputError: as ``given_path``, of the folder that a variable names, or where there is no home folder.
    """
    if own := os.environ.get("IGAN_FAST_CACHE"):
        return given_path(own, "IGAN_FAST_CACHE")
    return given_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "the cache") / "igan_fast"


def given_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return the path that a user means.

    ``~`` and ``~user`` at the beginning are expanded to the home folder. A shell does this too, but not in
    ``--run=~/x``. If a file whose name begins with ``~`` exists (``~notes.jpg``), the name is not expanded.

    Args:
        path: the path as the user wrote it.
        name: the name of the argument, for messages.

    Raises:
        InputError: the path is not a path, is empty or contains a NUL character, or the user has no home folder.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{name}: found {reprlib.repr(path)}, expected a path")
    text = os.fspath(path)
    if not text:  # such as an unset shell variable: as a path it would mean the current folder
        raise InputError(f"{name}: is empty; expected a path")
    if "\0" in text:
        raise InputError(f"{name}: found {text!r}, expected a path without NUL characters")
    if not text.startswith("~"):
        found = Path(path)
        # pathlib shortens ./~x to ~x, which a second call would expand to a home folder.
        return Path.cwd() / found if str(found).startswith("~") else found
    user = text.split("/", 1)[0]
    if user != "~" and os.path.lexists(text):
        return Path(text)
    expanded = os.path.expanduser(text)  # noqa: PTH111  (pathlib's raises where there is no such user)
    if expanded == text and user == "~":
        raise InputError(f"{name}: {text}: the home folder of this user is not known; set HOME, or write another path")
    if expanded == text:
        raise InputError(f"{name}: {text}: there is no user {user[1:]!r}; write ./{text} for a file of that name")
    return Path(expanded)

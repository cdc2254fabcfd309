"""Paths as people type them: ``~`` is somebody's home wherever it stands, and nothing is no path."""

from __future__ import annotations

import os
import reprlib
from pathlib import Path

from igan_fast.errors import InputError

__all__ = ["given_path"]


def given_path(path: str | os.PathLike[str], name: str) -> Path:
    """The path that a caller means.

    ``~`` and ``~user`` at its beginning become that home, as a shell does only where nothing stands before them
    (``--run=~/x`` reaches a program as it is). A file that really has such a name (``~notes.jpg``) is meant where it
    exists.

    Args:
        path: as it was given.
        name: the argument's, for messages.

    Raises:
        InputError: no path, an empty one, one with a NUL character, or the home of a user that does not exist or has
            none.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{name}: found {reprlib.repr(path)}, expected a path")
    text = os.fspath(path)
    if not text:  # an unset variable of a script, which as a path would mean the current folder
        raise InputError(f"{name}: is empty; expected a path")
    if "\0" in text:
        raise InputError(f"{name}: found {text!r}, expected a path without NUL characters")
    if not text.startswith("~"):
        found = Path(path)
        # pathlib shortens ./~x to ~x, which would be a home where it is looked at again.
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

"""Files that are whole or absent: bytes forced to the disk, then renamed into place."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from igan_fast.errors import InputError

__all__ = ["clear_write_errors", "replace_file", "sync_folder", "write_durably"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def clear_write_errors(what: str, consequence: str = "") -> Iterator[None]:
    """Turn an ``OSError`` inside the block (full disk, no permission …) into one clear line.

    Args:
        what: what could not be written, for the message: a path, or a phrase with one in it.
        consequence: what that means for the user, put at the end of the message.

    Raises:
        InputError: in place of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in _FULL else "cannot write"
        end = f"; {consequence}" if consequence else ""
        raise InputError(f"{what}: {reason} ({error.strerror or error}){end}") from error


def write_durably(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` and return when the disk has it. Raises ``OSError`` as the system gives it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` at once: a reader, or a run killed at any moment, finds the old file or the new one.

    Raises ``OSError`` as the system gives it; the old file is untouched then and nothing is left beside it.
    """
    temporary = path.with_name(f"tmp-{path.name}-{os.getpid()}")
    try:
        write_durably(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to the disk: a new or renamed entry is durable only after this."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows can't open a folder, and keeps names durable by itself
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files that are whole or absent: bytes forced to the disk, then renamed into place."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from igan_fast.errors import InputError

__all__ = [
    "check_place",
    "clear_write_errors",
    "open_regular",
    "replace_file",
    "sync_file",
    "sync_folder",
    "write_durably",
    "write_file",
]

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full",
    errno.EFBIG: "the disk is full, or a file-size limit is reached",
}


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
        reason = _REASONS.get(error.errno or 0, "cannot write")
        end = f"; {consequence}" if consequence else ""
        raise InputError(f"{what}: {reason} ({error.strerror or error}){end}") from error


def check_place(path: Path) -> None:
    """Before any work: raise ``InputError`` where ``path`` lies below a file, or where no file may be made."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written: {folder} is a file, expected a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written: no permission to write in {folder}")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading. Nothing else is opened: a pipe, say, would never answer.

    Raises:
        InputError: a folder, a pipe, a device or a socket is there instead.
        OSError: as the system gives it, for one because nothing is there.
    """
    _refuse_special(path, path.stat().st_mode)  # before it is opened: for some devices that alone is an order
    # What was put in its place since is not waited for: without O_NONBLOCK a pipe's open returns when somebody writes.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _refuse_special(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_special(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise InputError(f"{path}: is {kinds.get(stat.S_IFMT(mode), 'a device')}, expected a file")


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


def write_file(path: Path, data: bytes) -> None:
    """``replace_file`` that makes the folder where needed. Raises ``InputError`` where it cannot write."""
    with clear_write_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)


def sync_file(path: Path) -> None:
    """Force the contents of ``path`` to the disk, where something else than ``write_durably`` wrote them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to the disk: a new or renamed entry is durable only after this."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows can't open a folder, and keeps names durable by itself
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

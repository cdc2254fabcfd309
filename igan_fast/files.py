"""Reads files safely, and writes them atomically: to a temporary file beside them, which is synced and renamed."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from igan_fast.errors import InputError

__all__ = [
    "FileDamaged",
    "FileMissing",
    "FileUnreadable",
    "check_place",
    "clear_write_errors",
    "entry_kind",
    "is_temporary_name",
    "open_regular",
    "read_file",
    "reading",
    "replace_file",
    "sync_file",
    "sync_folder",
    "temporary_path",
    "write_durably",
    "write_file",
]

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full",
    errno.EFBIG: "the disk is full, or a file-size limit is reached",
}

_TEMPORARY = re.compile(r"\.tmp-.+-[0-9a-f]{16}", re.DOTALL)


class FileMissing(InputError):
    """There is no such file."""


class FileUnreadable(InputError):
    """The system could not read the file (no permission, a failing disk …), so its content is unknown."""


class FileDamaged(InputError):
    """The file was read, but its content is wrong."""


@contextmanager
def clear_write_errors(what: str, consequence: str = "") -> Iterator[None]:
    """Turn an ``OSError`` inside the block (full disk, no permission …) into an ``InputError`` of one line.

    Args:
        what: what could not be written: a path, or a phrase that holds one. The message begins with it.
        consequence: what the error means for the user. The message ends with it.

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
    """Check before any work that ``path`` can be written.

    Raises:
        InputError: ``path`` lies below a file or a broken link, or in a folder without permission to write.
    """
    folder = path.parent
    while not folder.exists():
        if folder.is_symlink():
            raise InputError(f"{path}: cannot be written: {folder} is a broken link, expected a folder")
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written: {folder} is a file, expected a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written: no permission to write in {folder}")


def entry_kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "other"]:
    """Return the kind of a folder's entry; links are followed. "other" is a device, a pipe or a broken link."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:
        return "other"


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading. Other kinds are refused: reading a pipe could wait forever.

    Raises:
        FileDamaged: ``path`` is a folder, a pipe, a device or a socket.
        OSError: the system's error, for example if ``path`` does not exist.
    """
    if "\0" in str(path):
        raise FileMissing(f"{path}: no file can have this name")
    _refuse_special(path, path.stat().st_mode)  # before opening: some devices act when they are opened
    # O_NONBLOCK: if a pipe has replaced the file since the check, opening it must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _refuse_special(path, os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")  # noqa: PTH123  # a descriptor has no path
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def reading(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file as :func:`open_regular` for the block, and turn each ``OSError`` in it into one of the errors below.

    Raises:
        FileMissing: there is no such file, or only a broken link.
        FileUnreadable: there is no permission, or an input/output error.
        FileDamaged: as :func:`open_regular`.
    """
    try:
        with open_regular(path) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise FileMissing(f"{path}: missing") from None
    except OSError as error:
        raise FileUnreadable(f"{path}: cannot be read ({error.strerror or error})") from error


def read_file(path: Path, *, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes. A longer file is not read at all.

    Raises:
        FileMissing, FileUnreadable, FileDamaged: as :func:`reading`; ``FileDamaged`` also if the file is longer.
    """
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise FileDamaged(f"{path}: is {size:,} bytes long, expected at most {limit:,}")
        data = file.read(size + 1)
    if len(data) != size:
        raise FileDamaged(f"{path}: changed while it was read")
    return data


def _refuse_special(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise FileDamaged(f"{path}: found {kinds.get(stat.S_IFMT(mode), 'a device')}, expected a file")


def temporary_path(target: Path) -> Path:
    """Return a random path beside ``target``, for a file that is renamed to ``target`` when it is complete."""
    # 40 characters are at most 160 bytes; file systems allow 255.
    return target.with_name(f".tmp-{target.name[:40]}-{secrets.token_hex(8)}")


def is_temporary_name(name: str) -> bool:
    """Whether :func:`temporary_path` made this name."""
    return _TEMPORARY.fullmatch(name) is not None


def write_durably(path: Path, data: bytes) -> None:
    """Write ``data`` to the new file ``path`` and return when it is on the disk.

    Raises the system's ``OSError``, namely ``FileExistsError`` if ``path`` exists, even as a link.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` atomically: at any moment, even after a kill, it is either the old or the new file.

    Raises the system's ``OSError``. The old file is then unchanged, and no temporary file is left.
    """
    temporary = temporary_path(path)
    try:
        write_durably(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Make the folder if needed, then call ``replace_file``. Raises ``InputError`` if it cannot write."""
    with clear_write_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)


def sync_file(path: Path) -> None:
    """Force the content of ``path`` to the disk, if something other than ``write_durably`` has written it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to the disk. A new or renamed file is durable only after this."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and syncs names without it
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files that are whole or absent: read within bounds; written, forced to the disk, then renamed into place."""

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
    """The file is there, but the system did not hand it out (permission, a failing disk …): its content is unknown."""


class FileDamaged(InputError):
    """The file was read, and its content is not what it has to be."""


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
    """Before any work: raise ``InputError`` where ``path`` lies below a file or a link to nothing, or where no
    file may be made."""
    folder = path.parent
    while not folder.exists():
        if folder.is_symlink():
            raise InputError(f"{path}: cannot be written: {folder} is a link to nothing, expected a folder")
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written: {folder} is a file, expected a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written: no permission to write in {folder}")


def entry_kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "other"]:
    """What an entry of a folder is, or leads to: "other" is a device, a pipe, and a link to nothing or in a circle."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:
        return "other"


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading. Nothing else is opened: a pipe, say, would never answer.

    Raises:
        FileDamaged: a folder, a pipe, a device or a socket is there instead.
        OSError: as the system gives it, for one because nothing is there.
    """
    if "\0" in str(path):
        raise FileMissing(f"{path}: no file can have this name")
    _refuse_special(path, path.stat().st_mode)  # before it is opened: for some devices that alone is an order
    # What was put in its place since is not waited for: without O_NONBLOCK the opening of a pipe is.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _refuse_special(path, os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")  # noqa: PTH123  # a descriptor has no path
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def reading(path: Path) -> Iterator[io.BufferedReader]:
    """:func:`open_regular` for the block, in which every error of the system says what it means for the file.

    Raises:
        FileMissing: there is none, or a link to nothing.
        FileUnreadable: no permission, an input/output error.
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
    """The content of a regular file of at most ``limit`` bytes; of a longer one nothing is read.

    Raises:
        FileMissing, FileUnreadable, FileDamaged: as :func:`reading`; ``FileDamaged`` also where it is longer.
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
    """A name beside ``target`` that nobody can foresee, for what is renamed to it when it is whole."""
    # 40 characters are at most 160 bytes; a file system takes names of 255.
    return target.with_name(f".tmp-{target.name[:40]}-{secrets.token_hex(8)}")


def is_temporary_name(name: str) -> bool:
    """Whether :func:`temporary_path` made this name."""
    return _TEMPORARY.fullmatch(name) is not None


def write_durably(path: Path, data: bytes) -> None:
    """Write ``data`` to the new file ``path`` and return when the disk has it.

    Raises ``OSError`` as the system gives it; ``FileExistsError`` where anything is there, a link included.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` at once: a reader, or a run killed at any moment, finds the old file or the new one.

    Raises ``OSError`` as the system gives it; the old file is untouched then and nothing is left beside it.
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

"""The files of a store's images: one ``.npy`` file, or for many images several, which are read as one array."""

from __future__ import annotations

import errno
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from igan_fast.files import open_regular
from igan_fast.progress import progress_bar

__all__ = ["IMAGES", "ImageFile", "Images", "JoinedImages", "checksums", "new_files", "opened", "take"]

#: The name of the file if there is one; several have a number before the end of the name.
IMAGES = "images.npy"

#: Images that take more bytes are divided into several files: not every disk holds larger ones, and a copy that breaks
#: off begins again at its last file.
FILE_BYTES = 2**31

#: The number of bytes per CRC-32. Computing the checksums takes 0.3 s per GB.
CHECKSUM_BLOCK_BYTES = 2**22

#: Verifying the checksums of more bytes shows a progress bar.
PROGRESS_BYTES = 2**31

#: Images that are moved at a time when others are removed.
_MOVED = 64


class OtherContent(Exception):
    """A file's length or header is that of no such file. The message is the file's name."""


@dataclass(frozen=True)
class ImageFile:
    """An ``.npy`` file of (count, S, S, 3) uint8, which several processes write.

    ``write`` uses file writes and no memory map: on a full disk, a write raises ``OSError``, but a memory map would end
    the process with SIGBUS.
    """

    path: Path
    size: int  #: S, pixels
    count: int

    @property
    def row_bytes(self) -> int:
        """The size of one image in bytes."""
        return self.size * self.size * 3

    @property
    def header(self) -> bytes:
        """What stands before the images. It is equally long for any count: NumPy leaves room for the first axis."""
        buffer = io.BytesIO()
        description = {"descr": "|u1", "fortran_order": False, "shape": (self.count, self.size, self.size, 3)}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()

    def create(self) -> None:
        """Write the header and reserve disk space for all images, so that a full disk raises before any decoding."""
        header = self.header
        total = len(header) + self.count * self.row_bytes
        with self.path.open("wb") as file:
            file.write(header)
            file.flush()
            try:
                os.posix_fallocate(file.fileno(), 0, total)
            except (AttributeError, OSError) as error:  # macOS and some file systems do not support it
                if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                file.truncate(total)

    def write(self, row: int, images: NDArray[np.uint8]) -> None:
        """Write ``images``, (n, S, S, 3) uint8, to rows ``row`` to ``row + n - 1``."""
        with self.path.open("r+b", buffering=0) as file:
            file.seek(len(self.header) + row * self.row_bytes)
            rest = np.ascontiguousarray(images).data.cast("B")
            while rest:  # when the disk fills up, one write is short and the next one raises
                rest = rest[file.write(rest) :]

    def without(self, rows: Sequence[int]) -> ImageFile:
        """Remove ``rows`` (ascending) from the file. The rows after them move up. Returns the file as it is then."""
        kept = np.delete(np.arange(self.count), rows)
        left = ImageFile(self.path, self.size, len(kept))
        if not rows:
            return left
        images = np.lib.format.open_memmap(self.path, mode="r+")
        for start in range(rows[0], len(kept), _MOVED):  # rows before the first removed one stay in place
            chunk = kept[start : start + _MOVED]
            images[start : start + len(chunk)] = images[chunk]  # rows only move up, so no unread row is overwritten
        images.flush()
        del images
        with self.path.open("r+b") as file:
            file.write(left.header)
            file.truncate(len(left.header) + len(kept) * self.row_bytes)
        return left


class JoinedImages:
    """Several arrays of images as one, read-only: (M, S, S, 3) uint8.

    It is indexed in its first dimension as an array, by a number, a slice, numbers or a mask, and returns arrays.

    Args:
        parts: at least one array (n, S, S, 3), with the same S.
    """

    def __init__(self, parts: Sequence[NDArray[np.uint8]]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> Any:
        numbers = np.arange(len(self))[rows]
        images = np.empty((*numbers.shape, *self.shape[1:]), self.dtype)
        self.take(numbers.reshape(-1), images.reshape(-1, *self.shape[1:]))
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("images in several files cannot become an array without a copy")
        whole: NDArray[Any] = self[:]
        return whole if dtype is None else whole.astype(dtype)

    def take(self, rows: NDArray[np.integer[Any]], out: NDArray[np.uint8]) -> None:
        """Write the images at ``rows``, (n,), 0 to M − 1, to ``out``, (n, S, S, 3)."""
        where = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(where):
            chosen, part = where == number, self._parts[number]
            out[chosen] = part[rows[chosen] - (self._ends[number] - len(part))]


#: The images of a store: an array, or several as one.
Images: TypeAlias = NDArray[np.uint8] | JoinedImages


def take(images: Images, rows: NDArray[np.integer[Any]], out: NDArray[np.uint8]) -> None:
    """Write the images at ``rows``, (n,), to ``out``, (n, S, S, 3). The rows have to exist."""
    if isinstance(images, JoinedImages):
        images.take(rows, out)
    else:
        np.take(images, rows, axis=0, out=out, mode="clip")  # another mode writes to a copy of `out` first


def new_files(folder: Path, size: int, count: int) -> list[ImageFile]:
    """The files for ``count`` images: one if they take at most ``FILE_BYTES``, else as many as that needs."""
    rows = max(1, FILE_BYTES // (size * size * 3))
    if count <= rows:
        return [ImageFile(folder / IMAGES, size, count)]
    name = IMAGES.replace(".", "-{:05}.")
    starts = range(0, count, rows)
    return [ImageFile(folder / name.format(i), size, min(rows, count - s)) for i, s in enumerate(starts)]


def checksums(files: Sequence[ImageFile], *, progress: bool) -> list[int]:
    """The CRC-32 of each block of ``CHECKSUM_BLOCK_BYTES`` of all images as one file, including its header.

    They do not depend on how the images are divided into files.

    Raises:
        OtherContent: the header of a file is another than its length needs.
    """
    found: list[int] = []
    checksum, left = 0, CHECKSUM_BLOCK_BYTES
    whole = _whole(files)
    total = len(whole.header) + whole.count * whole.row_bytes
    shown = progress and total > PROGRESS_BYTES
    with progress_bar(total=total, shown=shown, desc="Checking the pictures", unit="B", unit_scale=True) as bar:
        for piece in _pieces(files):
            bar.update(len(piece))
            while piece:
                checksum = zlib.crc32(piece[:left], checksum)
                taken = min(left, len(piece))
                piece, left = piece[taken:], left - taken
                if not left:
                    found.append(checksum)
                    checksum, left = 0, CHECKSUM_BLOCK_BYTES
    return [*found, checksum] if left < CHECKSUM_BLOCK_BYTES else found


def opened(folder: Path, size: int, expected: list[int], *, progress: bool) -> Images | str:
    """The images in a store's folder, (M, S, S, 3) uint8, read-only and memory-mapped, if they have the ``expected``
    checksums. Else the name of the damaged file, of several of the first.

    Raises:
        FileNotFoundError: there are none.
        InputError: a file is a folder or a device.
        OSError: a file cannot be read.
    """
    try:
        files = _present_files(folder, size)
        found = checksums(files, progress=progress)
    except OtherContent as error:
        return str(error)
    if found != expected:
        return _first_damaged(files, found, expected)
    parts = [np.load(file.path, mmap_mode="r") for file in files]
    return parts[0] if len(parts) == 1 else JoinedImages(parts)


def _present_files(folder: Path, size: int) -> list[ImageFile]:
    """The files in order. Raises ``OtherContent`` if the length of one is that of no such file."""
    paths = [folder / IMAGES]
    if not os.path.lexists(paths[0]):
        paths = sorted(folder.glob(IMAGES.replace(".", "-*."))) or paths
    found = []
    for path in paths:
        with open_regular(path) as file:
            total = os.fstat(file.fileno()).st_size
        empty = ImageFile(path, size, 0)
        count, rest = divmod(total - len(empty.header), empty.row_bytes)
        if count < 0 or rest:
            raise OtherContent(path.name)
        found.append(ImageFile(path, size, count))
    return found


def _first_damaged(files: Sequence[ImageFile], found: Sequence[int], expected: Sequence[int]) -> str:
    """The name of the file in which the first block begins that has another checksum than ``expected``."""
    if len(found) != len(expected):
        return files[-1].path.name
    position = next(i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
    start = position * CHECKSUM_BLOCK_BYTES - len(files[0].header)
    for file in files:
        start -= file.count * file.row_bytes
        if start < 0:
            return file.path.name
    raise AssertionError("a block begins before the end of the last file")


def _whole(files: Sequence[ImageFile]) -> ImageFile:
    """All images as one file, which does not exist."""
    return ImageFile(Path(), files[0].size, sum(file.count for file in files))


def _pieces(files: Sequence[ImageFile]) -> Iterator[memoryview]:
    """The content of all images as one file."""
    buffer = memoryview(bytearray(CHECKSUM_BLOCK_BYTES))
    yield memoryview(_whole(files).header)
    for each in files:
        with open_regular(each.path) as file:
            if file.read(len(each.header)) != each.header:
                raise OtherContent(each.path.name)
            while read := file.readinto(buffer):
                yield buffer[:read]

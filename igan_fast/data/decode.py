"""The heavy half of building a store: processes decode pictures and write them into one file, each its own rows."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from igan_fast.cores import usable_cores
from igan_fast.data.source import FaceSource
from igan_fast.errors import InputError

__all__ = ["Broken", "ImageFile", "available_cores", "decode_all"]

#: Pictures per task and per write: about a tenth of a second of decoding, and 3 MB at 128².
CHUNK = 64

#: A new process takes as long to start and import as decoding this many pictures takes.
PICTURES_PER_WORKER = 512

#: The position of a picture that cannot be decoded, and why.
Broken: TypeAlias = tuple[int, str]


@dataclass(frozen=True)
class ImageFile:
    """An ``.npy`` file of (count, S, S, 3) uint8 that several processes fill.

    Rows are written with ``write``, not through a memory map: on a full disk that is an ``OSError``, not a crash.
    """

    path: Path
    size: int
    count: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one picture."""
        return self.size * self.size * 3

    def create(self) -> None:
        """Write the header and reserve the space of every row, so that a full disk shows before the work."""
        header = self._header(self.count)
        total = len(header) + self.count * self.row_bytes
        with self.path.open("wb") as file:
            file.write(header)
            file.flush()
            try:
                os.posix_fallocate(file.fileno(), 0, total)
            except (AttributeError, OSError) as error:  # not on macOS, nor on every file system
                if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                file.truncate(total)

    def write(self, row: int, images: NDArray[np.uint8]) -> None:
        """Put ``images``, (n, S, S, 3), at ``row`` and the rows after it."""
        with self.path.open("r+b", buffering=0) as file:
            file.seek(len(self._header(self.count)) + row * self.row_bytes)
            rest = np.ascontiguousarray(images).data.cast("B")
            while rest:  # the last write before the disk is full is a short one, the next one raises
                rest = rest[file.write(rest) :]

    def drop(self, rows: Sequence[int]) -> None:
        """Take ``rows`` (ascending) out of the file; those after them move up."""
        if not rows:
            return
        kept = np.delete(np.arange(self.count), rows)
        images = np.lib.format.open_memmap(self.path, mode="r+")
        for start in range(rows[0], len(kept), CHUNK):  # the rows before the first one stay where they are
            chunk = kept[start : start + CHUNK]
            images[start : start + len(chunk)] = images[chunk]  # rows only move up: what is overwritten was read
        images.flush()
        del images
        header = self._header(len(kept))  # of the same length: NumPy pads it so that the first axis can grow in place
        with self.path.open("r+b") as file:
            file.write(header)
            file.truncate(len(header) + len(kept) * self.row_bytes)

    def _header(self, count: int) -> bytes:
        buffer = io.BytesIO()
        description = {"descr": "|u1", "fortran_order": False, "shape": (count, self.size, self.size, 3)}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()


def available_cores() -> int:
    """The cores that this process may use."""
    return usable_cores()


def decode_all(
    source: FaceSource, file: ImageFile, *, workers: int | None, strict: bool, report: Callable[[int], object]
) -> list[Broken]:
    """Fill ``file`` with every picture of ``source``; ``report`` hears how many more are done.

    Returns the broken pictures in order; their rows stay black.

    Raises:
        InputError: a broken picture (``strict``), or a worker that died.
        OSError: the file cannot be written, for one because the disk is full.
    """
    chunks = [range(start, min(start + CHUNK, file.count)) for start in range(0, file.count, CHUNK)]
    broken: list[Broken] = []
    if workers is None:
        workers = min(available_cores(), -(-file.count // PICTURES_PER_WORKER))
    workers = min(workers, len(chunks))
    if workers == 1:
        for chunk in chunks:
            broken += _decode_chunk(source, file, strict, chunk)
            report(len(chunk))
        return broken

    # Spawned, not forked: a fork copies the locks of PyTorch's threads in whatever state they are.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(source, file, strict)
    )
    try:
        with _quiet_launch(source):
            tasks = {pool.submit(_decode_in_worker, chunk): len(chunk) for chunk in chunks}
        for task in as_completed(tasks):
            broken += task.result()
            report(tasks[task])
    except BrokenProcessPool as error:
        raise InputError(
            "a process that decodes pictures died (out of memory?); use fewer of them: workers=1 uses none"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(broken)


def _decode_chunk(source: FaceSource, file: ImageFile, strict: bool, positions: range) -> list[Broken]:
    images = np.zeros((len(positions), file.size, file.size, 3), dtype=np.uint8)
    broken: list[Broken] = []
    for image, position in zip(images, positions, strict=True):
        try:
            image[:] = source.image(position, file.size)
        except InputError as error:
            if strict:
                raise
            broken.append((position, str(error)))
    file.write(positions.start, images)
    return broken


#: What a worker process decodes from and into: sent once, not with every task.
_job: tuple[FaceSource, ImageFile, bool] | None = None


def _start_worker(source: FaceSource, file: ImageFile, strict: bool) -> None:
    global _job
    _job = (source, file, strict)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent is gone: after a ``kill -9`` it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode_in_worker(positions: range) -> list[Broken]:
    assert _job is not None
    return _decode_chunk(*_job, positions)


@contextmanager
def _quiet_launch(source: FaceSource) -> Iterator[None]:
    """Start processes that know neither the caller's script nor Ctrl-C.

    A spawned process imports the caller's script again. Ours need nothing of it, and one without an ``if __name__ ==
    "__main__"`` guard would start to train once more in each of them, so the script is hidden meanwhile. Ctrl-C reaches
    every process of the terminal; it is blocked here, which children inherit, so that only the parent acts on it.
    """
    main = vars(sys.modules["__main__"])
    hidden: dict[str, object] = {}
    if type(source).__module__ != "__main__":
        hidden = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    can_block = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else None
    try:
        main.update(dict.fromkeys(hidden))
        yield
    finally:
        main.update(hidden)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Decodes the images of a dataset in parallel: worker processes write into one file, each of them its own rows."""

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

__all__ = ["BrokenImage", "ImageFile", "decode_all"]

#: Images per task and per write. Decoding them takes about 0.1 s; at 128² they take 3 MB.
CHUNK = 64

#: Starting a worker process takes as long as decoding this many images.
IMAGES_PER_WORKER = 512

#: The position of an image that cannot be decoded, and the error message.
BrokenImage: TypeAlias = tuple[int, str]


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

    def create(self) -> None:
        """Write the header and reserve disk space for all images, so that a full disk raises before any decoding."""
        header = self._header(self.count)
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
            file.seek(len(self._header(self.count)) + row * self.row_bytes)
            rest = np.ascontiguousarray(images).data.cast("B")
            while rest:  # when the disk fills up, one write is short and the next one raises
                rest = rest[file.write(rest) :]

    def remove(self, rows: Sequence[int]) -> None:
        """Remove ``rows`` (ascending) from the file. The rows after them move up."""
        if not rows:
            return
        kept = np.delete(np.arange(self.count), rows)
        images = np.lib.format.open_memmap(self.path, mode="r+")
        for start in range(rows[0], len(kept), CHUNK):  # rows before the first removed one stay in place
            chunk = kept[start : start + CHUNK]
            images[start : start + len(chunk)] = images[chunk]  # rows only move up, so no unread row is overwritten
        images.flush()
        del images
        header = self._header(len(kept))  # as long as before: NumPy pads headers so that the first axis can change
        with self.path.open("r+b") as file:
            file.write(header)
            file.truncate(len(header) + len(kept) * self.row_bytes)

    def _header(self, count: int) -> bytes:
        buffer = io.BytesIO()
        description = {"descr": "|u1", "fortran_order": False, "shape": (count, self.size, self.size, 3)}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()


def decode_all(
    source: FaceSource, file: ImageFile, *, workers: int | None, strict: bool, report: Callable[[int], object]
) -> list[BrokenImage]:
    """Decode every image of ``source`` into ``file``.

    Args:
        workers: number of processes. None takes the number of usable cores, or fewer for a small dataset. 1 decodes in
            this process.
        strict: raise an error at a broken image. Otherwise its row stays black.
        report: called with the number of images that were finished since the last call.

    Returns:
        The broken images, by ascending position.

    Raises:
        InputError: an image is broken (``strict``), or a worker process died.
        OSError: the file cannot be written, for example because the disk is full.
    """
    chunks = [range(start, min(start + CHUNK, file.count)) for start in range(0, file.count, CHUNK)]
    broken: list[BrokenImage] = []
    if workers is None:
        workers = min(usable_cores(), -(-file.count // IMAGES_PER_WORKER))
    workers = min(workers, len(chunks))
    if workers == 1:
        for chunk in chunks:
            broken += _decode_chunk(source, file, strict, chunk)
            report(len(chunk))
        return broken

    # Spawned and not forked: a fork would copy locks that PyTorch's threads hold at that moment.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(source, file, strict)
    )
    try:
        with _hidden_script_and_blocked_sigint(source):
            tasks = {pool.submit(_decode_in_worker, chunk): len(chunk) for chunk in chunks}
        for task in as_completed(tasks):
            broken += task.result()
            report(tasks[task])
    except BrokenProcessPool as error:
        raise InputError(
            "a process that decodes pictures died (out of memory?); use fewer (workers=1 decodes in this process)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(broken)


def _decode_chunk(source: FaceSource, file: ImageFile, strict: bool, positions: range) -> list[BrokenImage]:
    images = np.zeros((len(positions), file.size, file.size, 3), dtype=np.uint8)
    broken: list[BrokenImage] = []
    for image, position in zip(images, positions, strict=True):
        try:
            image[:] = source.image(position, file.size)
        except InputError as error:
            if strict:
                raise
            broken.append((position, str(error)))
    file.write(positions.start, images)
    return broken


#: The arguments of ``_decode_chunk`` that stay the same: each worker process gets them once, when it starts.
_job: tuple[FaceSource, ImageFile, bool] | None = None


def _start_worker(source: FaceSource, file: ImageFile, strict: bool) -> None:
    global _job
    _job = (source, file, strict)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent ends. After ``kill -9`` of the parent it would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode_in_worker(positions: range) -> list[BrokenImage]:
    assert _job is not None
    return _decode_chunk(*_job, positions)


@contextmanager
def _hidden_script_and_blocked_sigint(source: FaceSource) -> Iterator[None]:
    """Processes spawned inside this block neither import the caller's script nor react to Ctrl-C.

    A spawned process imports the caller's script. A script without an ``if __name__ == "__main__"`` guard would then
    start training in every worker. The workers need nothing from the script, so it is hidden in this block; only a
    source whose class the script defines needs it. Ctrl-C sends SIGINT to every process of the terminal. The workers
    inherit that it is blocked here, so only the parent handles it.
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

"""Decodes the images of a dataset in parallel: worker processes write into one file, each of them its own rows."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import numpy as np

from igan_fast.cores import usable_cores
from igan_fast.data.image_files import ImageFile
from igan_fast.data.source import FaceSource
from igan_fast.errors import InputError

__all__ = ["BrokenImage", "decode_all"]

#: Images per task and per write. Decoding them takes about 0.1 s; at 128² they take 3 MB.
CHUNK = 64

#: Starting a worker process takes as long as decoding this many images.
IMAGES_PER_WORKER = 512

#: The position of an image that cannot be decoded, and the error message.
BrokenImage: TypeAlias = tuple[int, str]


class _Chunk(NamedTuple):
    """The images at ``positions`` of the source, and the first of their rows in the file."""

    file: ImageFile
    row: int
    positions: range


def decode_all(
    source: FaceSource,
    files: Sequence[ImageFile],
    *,
    workers: int | None,
    strict: bool,
    report: Callable[[int], object],
) -> list[BrokenImage]:
    """Decode every image of ``source`` into ``files``, which exist and have a row for each.

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
    chunks, count = [], 0
    for file in files:
        for row in range(0, file.count, CHUNK):
            chunks.append(_Chunk(file, row, range(count + row, count + min(row + CHUNK, file.count))))
        count += file.count
    broken: list[BrokenImage] = []
    if workers is None:
        workers = min(usable_cores(), -(-count // IMAGES_PER_WORKER))
    workers = min(workers, len(chunks))
    if workers == 1:
        for chunk in chunks:
            broken += _decode_chunk(source, strict, chunk)
            report(len(chunk.positions))
        return broken

    # Spawned and not forked: a fork would copy locks that PyTorch's threads hold at that moment.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(source, strict)
    )
    try:
        with _hidden_script_and_blocked_sigint(source):
            tasks = {pool.submit(_decode_in_worker, chunk): len(chunk.positions) for chunk in chunks}
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


def _decode_chunk(source: FaceSource, strict: bool, chunk: _Chunk) -> list[BrokenImage]:
    file, row, positions = chunk
    images = np.zeros((len(positions), file.size, file.size, 3), dtype=np.uint8)
    broken: list[BrokenImage] = []
    for image, position in zip(images, positions, strict=True):
        try:
            image[:] = source.image(position, file.size)
        except InputError as error:
            if strict:
                raise
            broken.append((position, str(error)))
    file.write(row, images)
    return broken


#: The arguments of ``_decode_chunk`` that stay the same: each worker process gets them once, when it starts.
_job: tuple[FaceSource, bool] | None = None


def _start_worker(source: FaceSource, strict: bool) -> None:
    global _job
    _job = (source, strict)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent ends. After ``kill -9`` of the parent it would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode_in_worker(chunk: _Chunk) -> list[BrokenImage]:
    assert _job is not None
    return _decode_chunk(*_job, chunk)


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

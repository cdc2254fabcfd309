"""Ends a process whose CUDA graphs wait for another process that is lost."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import torch

from igan_fast.distributed.process import Process

__all__ = ["ReplayWatch"]

#: Seconds between two looks.
PERIOD = 1.0


class ReplayWatch:
    """Watches whether replays of CUDA graphs end, in a thread.

    A graph that sums gradients waits on the GPU until all processes take part. PyTorch watches the collective
    operations that it launches itself, but not those in a graph, and the main thread may be waiting for the GPU. So a
    process whose replay has not ended in time says so, and ends with status 1. ``torchrun`` then ends the others.

    Args:
        process: this process.
        timeout: seconds from a launch after which the replay must have ended.
        end: called with the message; by default it ends the process.
    """

    def __init__(self, process: Process, timeout: float, end: Callable[[str], None] | None = None) -> None:
        self._process, self._timeout, self._end = process, timeout, end or _end
        self._replays: deque[tuple[float, torch.cuda.Event]] = deque()
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch of replays", daemon=True)
        self._thread.start()

    def launched(self) -> None:
        """A replay was launched on the current stream."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        with self._lock:
            self._replays.append((time.monotonic(), event))

    def capturing(self) -> AbstractContextManager[object]:
        """Do not look while the block runs: CUDA ends a capture if another thread asks for an event."""
        return self._lock

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(PERIOD, self._timeout / 4)):
            try:
                with self._lock:
                    late = self._is_late()
            except RuntimeError:  # CUDA has failed, which the main thread is told as well
                return
            if late:
                self._end(
                    f"{self._process}: an iteration has not ended within {self._timeout:g} s: another process has "
                    "ended, or does not answer; --resume continues the run from its last checkpoint"
                )
                return

    def _is_late(self) -> bool:
        while self._replays and self._replays[0][1].query():  # type: ignore[no-untyped-call]
            self._replays.popleft()
        return bool(self._replays) and time.monotonic() - self._replays[0][0] > self._timeout


def _end(message: str) -> None:
    """Print the message, and end the process at once: its main thread cannot be reached."""
    with suppress(OSError):
        print(f"igan-fast: error: {message}", file=sys.stderr, flush=True)
    os._exit(1)

"""Handles Ctrl-C during an iteration: the iteration is finished and saved before the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["graceful_stop"]


@contextmanager
def graceful_stop() -> Iterator[threading.Event]:
    """Return an event that the first SIGINT or SIGTERM sets. A second signal has its usual effect.

    A signal that is ignored, as under ``nohup`` or ``trap '' INT``, stays ignored.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread receives signals
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None means that the handler is not Python's and could not be restored.
    before = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}

    def on_signal(number: int, frame: object) -> None:
        stop.set()
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

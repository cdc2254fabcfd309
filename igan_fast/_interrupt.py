"""Ctrl-C while the command line is still being loaded: one line and status 130, instead of a traceback of imports."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from igan_fast._start import is_command

__all__ = ["quiet", "usual"]


def quiet() -> None:
    """End the process at Ctrl-C from now on. There is nothing to clean up yet, and an import may take the exception for
    its own failure. A Ctrl-C that is ignored, as under ``nohup``, stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def usual() -> None:
    """Ctrl-C is a ``KeyboardInterrupt`` again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"igan-fast: interrupted\n")
    os._exit(130)


if is_command(sys.argv, sys.orig_argv):
    quiet()

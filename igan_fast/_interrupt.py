"""Ctrl-C while the command line is still being loaded: one line and status 130, instead of a traceback of imports."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

__all__ = ["is_command", "quiet", "usual"]

_MODULES = ("igan_fast", "igan_fast.__main__", "igan_fast.train", "igan_fast.train.__main__")


def is_command(argv: Sequence[str], original: Sequence[str]) -> bool:
    """Whether this process is the command line.

    Args:
        argv: ``sys.argv``; while Python looks for the module of ``-m``, its first word is ``-m``.
        original: ``sys.orig_argv``: as Python itself was started.
    """
    if not argv:
        return False
    if argv[0] == "-m" and len(original) >= len(argv):
        return original[-len(argv)].removeprefix("-m") in _MODULES
    return Path(argv[0]).name in ("igan-fast", "igan-fast.exe", "igan-fast-script.py")


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

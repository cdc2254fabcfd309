"""Handles Ctrl-C while the command line is still importing: it prints one line and exits with status 130.

This module imports only what Python has loaded already. Until it has run, Ctrl-C ends in a traceback.
"""

import _signal  # type: ignore[import-not-found]  # ``signal`` itself is written in Python
import os
import sys

__all__ = ["is_command", "quiet", "usual"]

_MODULES = ("igan_fast", "igan_fast.__main__", "igan_fast.train", "igan_fast.train.__main__")


def is_command(argv: list[str], original: list[str]) -> bool:
    """Whether this process is the command line.

    Args:
        argv: ``sys.argv``. Its first word is ``-m`` while Python searches for the module that follows ``-m``.
        original: ``sys.orig_argv``, the words that Python was started with.
    """
    if not argv:
        return False
    if argv[0] == "-m" and len(original) >= len(argv):
        return original[-len(argv)].removeprefix("-m") in _MODULES
    return os.path.basename(argv[0]) in ("igan-fast", "igan-fast.exe", "igan-fast-script.py")  # noqa: PTH119


def quiet() -> None:
    """Make Ctrl-C end the process from now on. There is nothing to clean up yet, and code that is being imported could
    catch a ``KeyboardInterrupt`` as its own failure. If Ctrl-C is ignored, as under ``nohup``, it stays ignored."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _end)


def usual() -> None:
    """Make Ctrl-C raise ``KeyboardInterrupt`` again."""
    if _signal.getsignal(_signal.SIGINT) is _end:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    os.write(2, b"igan-fast: interrupted\n")
    os._exit(130)


if is_command(sys.argv, sys.orig_argv):
    quiet()

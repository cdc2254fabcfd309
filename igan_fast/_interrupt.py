"""Ctrl-C while the command line is still being loaded: one line and status 130, instead of a traceback of imports.

It imports nothing that Python has not loaded by itself: until it has run, Ctrl-C is a traceback.
"""

import _signal  # type: ignore[import-not-found]  # ``signal`` itself is written in Python
import os
import sys

__all__ = ["is_command", "quiet", "usual"]

_MODULES = ("igan_fast", "igan_fast.__main__", "igan_fast.train", "igan_fast.train.__main__")


def is_command(argv: list[str], original: list[str]) -> bool:
    """Whether this process is the command line.

    Args:
        argv: ``sys.argv``; while Python looks for the module of ``-m``, its first word is ``-m``.
        original: ``sys.orig_argv``: as Python itself was started.
    """
    if not argv:
        return False
    if argv[0] == "-m" and len(original) >= len(argv):
        return original[-len(argv)].removeprefix("-m") in _MODULES
    return os.path.basename(argv[0]) in ("igan-fast", "igan-fast.exe", "igan-fast-script.py")  # noqa: PTH119


def quiet() -> None:
    """End the process at Ctrl-C from now on. There is nothing to clean up yet, and an import may take the exception for
    its own failure. A Ctrl-C that is ignored, as under ``nohup``, stays so."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _end)


def usual() -> None:
    """Ctrl-C is a ``KeyboardInterrupt`` again."""
    if _signal.getsignal(_signal.SIGINT) is _end:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    os.write(2, b"igan-fast: interrupted\n")
    os._exit(130)


if is_command(sys.argv, sys.orig_argv):
    quiet()

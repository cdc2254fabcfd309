"""Where a test expects that nothing is warned of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_warning"]


@contextmanager
def no_warning() -> Iterator[None]:
    """Inside the block each warning is an error, but for those of files and sockets that were not closed: Python may
    free what another test has left at any time."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        yield

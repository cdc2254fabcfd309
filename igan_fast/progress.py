"""How far a long job is."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["LINE_EVERY", "progress_bar"]

#: Seconds between two signs of progress where there is no terminal to draw a bar on: a log keeps each of them.
LINE_EVERY = 30.0


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm[Any]:
    """tqdm's bar on stderr, which a terminal sees move.

    Args:
        items: what to go through, as for ``tqdm``.
        shown: whether there is to be one.
        options: tqdm's own.
    """
    if sys.stderr is None:  # closed before Python began
        shown = False
    interval = 0.1 if shown and sys.stderr.isatty() else LINE_EVERY
    return tqdm(items, disable=not shown, mininterval=interval, maxinterval=max(interval, 10.0), **options)

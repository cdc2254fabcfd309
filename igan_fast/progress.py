"""Progress bars of long jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["LINE_EVERY", "progress_bar"]

#: Seconds between two updates if stderr is not a terminal. It is long because a log file keeps every update.
LINE_EVERY = 30.0


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm[Any]:
    """Return tqdm's progress bar on stderr.

    Args:
        items: what to iterate over, as for ``tqdm``.
        shown: whether the bar is shown.
        options: passed to ``tqdm``.
    """
    if sys.stderr is None:  # closed before Python started
        shown = False
    interval = 0.1 if shown and sys.stderr.isatty() else LINE_EVERY
    return tqdm(items, disable=not shown, mininterval=interval, maxinterval=max(interval, 10.0), **options)

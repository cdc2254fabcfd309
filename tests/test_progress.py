"""Progress bars: lively on a terminal, rare in a log."""

from __future__ import annotations

import io
import time

import pytest

from igan_fast.progress import progress_bar


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_log_is_not_filled(terminal, monkeypatch):
    stream = Stream(terminal)
    monkeypatch.setattr("sys.stderr", stream)
    for _ in progress_bar(range(30), desc="Working"):
        time.sleep(0.03)
    updates = stream.getvalue().count("Working")
    assert updates >= 5 if terminal else updates <= 2
    assert "30/30" in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_none_where_none_is_wanted(terminal, monkeypatch):
    stream = Stream(terminal)
    monkeypatch.setattr("sys.stderr", stream)
    assert list(progress_bar(range(3), shown=False)) == [0, 1, 2]
    assert stream.getvalue() == ""


def test_none_where_nobody_could_see_it(monkeypatch):
    """Python has no stderr where it was closed before the start (``2>&-``)."""
    monkeypatch.setattr("sys.stderr", None)
    assert list(progress_bar(range(3))) == [0, 1, 2]

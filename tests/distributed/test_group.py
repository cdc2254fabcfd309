"""Processes that are started again meet anew."""

from __future__ import annotations

import signal

import process_groups
from process_groups import Started


def test_after_a_death_processes_meet_at_the_same_store() -> None:
    """torchrun keeps its store, which still holds the addresses of the processes before the restart."""
    first = Started(2, process_groups.meet, 1)
    assert first.ends()[1] == -signal.SIGKILL
    assert Started(2, process_groups.meet, None, before=first).ends() == [0, 0]

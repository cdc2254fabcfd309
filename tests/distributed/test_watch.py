"""A process whose replays do not end is ended, with a message; others are left alone."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from igan_fast.distributed.process import Process
from igan_fast.distributed.watch import ReplayWatch

PROCESS = Process(1, 2, 1, 2)


class Event:
    """In the place of a CUDA event. All are done when ``done`` says so."""

    done = False
    asked = 0

    def record(self) -> None:
        pass

    def query(self) -> bool:
        type(self).asked += 1
        return type(self).done


@pytest.fixture
def event(monkeypatch: pytest.MonkeyPatch) -> type[Event]:
    monkeypatch.setattr(Event, "done", False)
    monkeypatch.setattr(Event, "asked", 0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return Event


def test_a_replay_that_does_not_end_ends_the_process(event: type[Event]) -> None:
    told: list[str] = []
    watch = ReplayWatch(PROCESS, 0.2, told.append)
    watch.launched()
    until(lambda: bool(told))
    watch.close()
    assert "process 1 of 2" in told[0]
    assert "an iteration has not ended within 0.2 s: another process has ended, or does not answer" in told[0]


def test_replays_that_end_are_no_matter(event: type[Event]) -> None:
    told: list[str] = []
    watch = ReplayWatch(PROCESS, 0.2, told.append)
    for _ in range(3):
        watch.launched()
    event.done = True
    until(lambda: event.asked >= 3)
    time.sleep(0.4)
    watch.close()
    assert event.asked == 3  # nothing is left to look at
    assert told == []


def test_nobody_looks_while_a_graph_is_captured(event: type[Event]) -> None:
    """An event that is asked for in another thread ends the capture."""
    watch = ReplayWatch(PROCESS, 60, lambda _: None)
    watch._timeout = 0.2
    watch.launched()
    with watch.capturing():
        before = event.asked
        time.sleep(1.2)
        assert event.asked == before
    until(lambda: event.asked > before)
    watch.close()


def test_an_error_of_cuda_ends_the_watch_quietly(event: type[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(_: Event) -> bool:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(Event, "query", failed)
    told: list[str] = []
    watch = ReplayWatch(PROCESS, 0.2, told.append)
    watch.launched()
    watch._thread.join(10)
    assert not watch._thread.is_alive()
    assert told == []


def test_the_process_ends_with_a_message_and_status_1_while_its_main_thread_waits() -> None:
    script = """
import time, torch
from igan_fast.distributed.process import Process
from igan_fast.distributed.watch import ReplayWatch
torch.cuda.Event = type("Event", (), {"record": lambda self: None, "query": lambda self: False})
ReplayWatch(Process(1, 2, 1, 2), 0.2).launched()
time.sleep(600)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("igan-fast: error: process 1 of 2 (")
    assert ended.stderr.count("\n") == 1


def until(reached: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)

"""Lists what a training process exchanges with others in an iteration, on a machine without any, in seconds.

The iteration is the one of ``igan_fast.distributed``, on fake tensors (``fake_step``). In place of the functions of
``torch.distributed`` stand some that only note their call, and how many operator calls came before. So the order of
computing and exchanging is that of the code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch.distributed as dist
from torch import Tensor

from bench.counting import Call, Counter
from bench.fake_step import fake_iteration
from igan_fast.distributed.plan import BatchPlan
from igan_fast.distributed.process import Process

__all__ = ["GRADIENTS", "STATISTICS", "Event", "Exchange", "Share", "share_of_an_iteration"]

#: The kinds of exchanges. Gradients are summed, and everything else is gathered.
GRADIENTS, STATISTICS = "all-reduce", "all-gather"


class Exchange(NamedTuple):
    """A collective operation, as one process calls it.

    Attributes:
        number: counts those of an iteration.
        kind: ``GRADIENTS`` or ``STATISTICS``.
        size: the bytes that the process contributes.
        shared: whether only those processes take part that share a norm group.
    """

    number: int
    kind: str
    size: int
    shared: bool


class Event(NamedTuple):
    """An exchange begins, or the process waits for its end.

    Attributes:
        exchange: which one.
        calls: how many operator calls came before.
        waits: whether the process waits for its end.
    """

    exchange: Exchange
    calls: int
    waits: bool


class Share(NamedTuple):
    """What one process does in an iteration: operator calls, and events between them, both in order."""

    calls: list[Call]
    events: list[Event]

    @property
    def exchanges(self) -> list[Exchange]:
        """Each exchange once."""
        return [event.exchange for event in self.events if not event.waits]


def share_of_an_iteration(
    image_size: int, width: int, rows: int, precision: str, *, world: int, norm_groups: int, preset: str = "default"
) -> Share:
    """What the first process does in an iteration without gradient penalty and extra updates.

    Args:
        image_size, width, precision, preset: as of ``calls_of_an_iteration``.
        rows: the photos of each process.
        world, norm_groups: W, more than 1, and S.

    Raises:
        RuntimeError: as ``calls_of_an_iteration``.
    """
    plan = BatchPlan(world * rows, norm_groups, Process(0, world, 0, world))
    noted = _Noted(dist.ProcessGroup(0, world))
    with _replaced(noted), fake_iteration(image_size, width, world * rows, precision, preset=preset, plan=plan) as step:
        noted.counter, noted.events = Counter(), []
        with noted.counter:
            step()
    return Share(noted.counter.calls, noted.events)


class _Noted:
    """Has functions in place of those of ``torch.distributed``.

    Args:
        world: stands in for the group of all processes.
    """

    def __init__(self, world: dist.ProcessGroup) -> None:
        self.world = world
        self.counter = Counter()
        self.events: list[Event] = []

    def all_reduce(self, tensor: Tensor, *_: Any, group: Any = None, async_op: bool = False) -> _Work:
        work = self._begin(GRADIENTS, tensor, group)
        if not async_op:
            work.wait()
        return work

    def all_gather(self, _: Any, tensor: Tensor, group: Any = None) -> None:
        self._begin(STATISTICS, tensor, group).wait()

    def new_group(self, ranks: Any) -> dist.ProcessGroup:
        return dist.ProcessGroup(0, len(ranks))

    def _begin(self, kind: str, tensor: Tensor, group: Any) -> _Work:
        exchange = Exchange(len(self.events), kind, tensor.nbytes, group not in (None, self.world))
        self.note(exchange, waits=False)
        return _Work(self, exchange)

    def note(self, exchange: Exchange, *, waits: bool) -> None:
        self.events.append(Event(exchange, len(self.counter.calls), waits))


class _Work:
    """Stands in for ``torch.distributed.Work``."""

    def __init__(self, noted: _Noted, exchange: Exchange) -> None:
        self._noted, self._exchange = noted, exchange

    def wait(self) -> None:
        self._noted.note(self._exchange, waits=True)


@contextlib.contextmanager
def _replaced(noted: _Noted) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(dist, "group", SimpleNamespace(WORLD=noted.world)))
        for name, function in (
            ("all_reduce", noted.all_reduce),
            ("all_gather", noted.all_gather),
            ("all_gather_into_tensor", noted.all_gather),
            ("all_gather_single", noted.all_gather),  # its name since PyTorch 2.13
            ("new_group", noted.new_group),
        ):
            stack.enter_context(mock.patch.object(dist, name, function, create=True))
        yield

"""Decisions that all processes take alike, so that none waits for another that goes another way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from igan_fast.distributed.process import Process, ToldElsewhere
from igan_fast.errors import InputError, option

__all__ = ["Processes", "StopVote", "copy_to_all"]

_Result = TypeVar("_Result")


class Processes:
    """All processes of a run, as one of them sees them. All must call its methods in the same order.

    Args:
        process: this process.
        group: a process group of all on their CPUs, which waits as long as a preparation may take; None for the only
            process.
        store: a ``torch.distributed.Store`` of all; None for the only process.
    """

    def __init__(self, process: Process, group: dist.ProcessGroup | None, store: Any = None) -> None:
        self.process, self._group, self._store = process, group, store

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and the messages of the run."""
        return self.process.is_first

    def collect(self, value: _Result) -> list[_Result]:
        """Return the values of all processes, by rank. They are Python objects, which other processes unpickle."""
        if self.process.is_alone:
            return [value]
        values: list[Any] = [None] * self.process.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def together(self, action: Callable[[], _Result]) -> _Result:
        """Do the same in all processes. If it fails in one of them, it fails in all.

        Raises:
            InputError: in the first process; the message is that of the first that failed.
            ToldElsewhere: in the others.
        """
        failure: InputError | None = None
        result: _Result | None = None
        try:
            result = action()
        except InputError as error:
            if self.process.is_alone:
                raise
            failure = error
        failures = self.collect(None if failure is None else (str(self.process), str(failure)))
        self._raise(failure, failures)
        return result  # type: ignore[return-value]  # of the action's type, because it did not fail

    def from_first(self, action: Callable[[], _Result]) -> _Result:
        """Do something in the first process, and return its result in all.

        Raises:
            InputError: it failed; in the first process.
            ToldElsewhere: it failed; in the others.
        """
        if self.process.is_alone:
            return action()
        message: list[Any] = [None, None]
        failure: InputError | None = None
        if self.is_first:
            try:
                message[1] = action()
            except InputError as error:
                failure, message[0] = error, (str(self.process), str(error))
        dist.broadcast_object_list(message, src=0, group=self._group)
        self._raise(failure, [message[0]])
        result: _Result = message[1]
        return result

    def settle(self, name: str, choose: Callable[[], str]) -> str:
        """Return the same text in all processes: what the first of them chose that had chosen.

        This alone may be called in another order, or not at all, by some of the processes: none waits for another.

        Args:
            name: of what is chosen.
            choose: called if none has chosen yet. Others may choose at the same time.
        """
        if self.process.is_alone:
            return choose()
        if self._store.check([name]):
            return str(self._store.get(name).decode())
        return str(self._store.compare_set(name, "", choose()).decode())

    def _raise(self, own: InputError | None, failures: list[tuple[str, str] | None]) -> None:
        """Raise the first of the failures, if there is one."""
        found = next((failure for failure in failures if failure is not None), None)
        if found is None:
            return
        if not self.is_first:
            raise ToldElsewhere(found[1])
        raise own if own is not None else InputError(f"{found[1]} ({found[0]})")

    def expect_alike(self, values: Mapping[str, Any], problem: Callable[[str, Any, Any], str]) -> None:
        """Compare values of all processes.

        Args:
            values: by name; the names are the same in all processes.
            problem: the message about a value that differs, from its name, and what this process and the first have.

        Raises:
            InputError: a value differs; in the first process.
            ToldElsewhere: a value differs; in the others.
        """
        theirs = self.from_first(lambda: dict(values))

        def compare() -> None:
            for name, value in values.items():
                if value != theirs[name]:
                    raise InputError(problem(name, value, theirs[name]))

        self.together(compare)

    def expect_same_options(self, options: Mapping[str, Any]) -> None:
        """Check that all processes were started with the same options.

        Raises:
            InputError, ToldElsewhere: as ``expect_alike``.
        """
        self.expect_alike(
            options, lambda name, own, first: f"{option(name)}: found {own}, but the first process has {first}"
        )


class StopVote:
    """Whether one of the processes was asked to stop. The answer is the same in all, in the same iteration.

    Args:
        processes: all of them.
        stop: is set where a process is asked to stop.
    """

    def __init__(self, processes: Processes, stop: threading.Event) -> None:
        self._alone, self._stop = processes.process.is_alone, stop
        self._asked = torch.zeros(1, dtype=torch.int32)
        self._work: dist.Work | None = None

    def ask(self) -> None:
        """Begin to ask, before the work of an iteration, so that nothing waits for the answer after it."""
        if not self._alone:
            self._asked.fill_(self._stop.is_set())
            self._work = dist.all_reduce(self._asked, op=dist.ReduceOp.MAX, async_op=True)

    def answer(self) -> bool:
        """Whether to stop. With several processes, a signal that came after ``ask`` counts in the next iteration."""
        if self._work is None:
            return self._stop.is_set()
        self._work.wait()
        return bool(self._asked)


def copy_to_all(module: nn.Module, process: Process) -> None:
    """Give all processes the parameters and buffers of the first one's ``module``."""
    if process.is_alone:
        return
    tensors: list[Tensor] = [each.detach() for each in (*module.parameters(), *module.buffers())]
    for tensor in tensors:
        copy = tensor.contiguous()
        dist.broadcast(copy, src=0)
        tensor.copy_(copy)

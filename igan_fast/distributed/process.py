"""Which of the processes that ``torchrun`` has started this one is. Needs no PyTorch."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from igan_fast.errors import InputError

__all__ = ["Process", "ProcessLost", "ToldElsewhere", "first_tells", "this_process"]


@dataclass(frozen=True)
class Process:
    """One of the processes of a training run."""

    rank: int = 0
    """Its number among all, from 0."""
    world_size: int = 1
    """W, the number of all processes."""
    local_rank: int = 0
    """Its number among those of its machine, from 0."""
    local_world_size: int = 1
    """The number of processes on its machine."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and the messages of the run."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether the run has no other process."""
        return self.world_size == 1

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size} ({socket.gethostname()})"


class ToldElsewhere(InputError):
    """Bad input, about which another process has printed the message."""


class ProcessLost(RuntimeError):
    """Another process has ended, or does not answer. The message names it where it is known."""


#: The variables that torchrun sets, and the least value of each.
_VARIABLES = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}


def this_process(environment: Mapping[str, str] | None = None) -> Process:
    """Return what torchrun's environment variables say; without them, the only process.

    Args:
        environment: by default that of the process.

    Raises:
        InputError: a variable is missing, is no number, or contradicts another.
    """
    environment = os.environ if environment is None else environment
    # Other launchers set some of these, but only for torchrun (or one like it) is there a place to meet.
    if "RANK" not in environment or "MASTER_ADDR" not in environment:
        return Process()
    values = []
    for name, least in _VARIABLES.items():
        found = environment.get(name, "")
        if not (found.isascii() and found.isdigit()) or int(found) < least:
            raise InputError(f"{name}: found {found!r}, expected the whole number from {least} up that torchrun sets")
        values.append(int(found))
    process = Process(*values)
    if process.rank >= process.world_size or process.local_rank >= process.local_world_size:
        raise InputError(
            f"RANK {process.rank} of WORLD_SIZE {process.world_size}, LOCAL_RANK {process.local_rank} of "
            f"LOCAL_WORLD_SIZE {process.local_world_size}: expected ranks below these sizes, as torchrun sets them"
        )
    return process


@contextmanager
def first_tells(process: Process) -> Iterator[None]:
    """Run a block that fails alike in all processes. Only the first one's ``InputError`` is to be printed.

    Raises:
        ToldElsewhere: in the other processes, instead of the ``InputError``.
    """
    try:
        yield
    except InputError as error:
        if process.is_first:
            raise
        raise ToldElsewhere(str(error)) from None

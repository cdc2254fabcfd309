"""Joins the processes that ``torchrun`` has started, and ends with a clear message if one of them is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from igan_fast.distributed.agreement import Processes
from igan_fast.distributed.process import Process, ProcessLost, ToldElsewhere
from igan_fast.errors import InputError

__all__ = ["joined"]

#: Seconds within which each process that is alive notices that another is lost, after the first one has noticed. It is
#: less than the 30 seconds that torchrun leaves the others.
NOTICED = 20.0

#: Setting up may take long: one process prepares the images of all. A dead process is noticed at once all the same.
PATIENCE = timedelta(days=7)

#: What PyTorch's messages about a lost connection hold; gloo raises plain RuntimeErrors.
_LOST = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "NCCL", "Socket Timeout", "wait timeout")


@contextmanager
def joined(process: Process, timeout: float, *, on_gpu: bool) -> Iterator[Processes]:
    """Join the other processes while the block runs. All must come within ``timeout``.

    GPUs exchange tensors by NCCL, and CPUs by gloo. Each process takes the GPU of its number on its machine.

    Args:
        process: this process. If it is the only one, nothing is done.
        timeout: seconds after which a process that does not answer counts as lost.
        on_gpu: whether each process computes on a GPU.

    Raises:
        InputError: a machine has fewer GPUs than processes, or not all processes came.
        ProcessLost: another process has ended, or has not answered in time.
        ToldElsewhere: another process has ended with a message.
    """
    if process.is_alone:
        yield Processes(process, None)
        return
    if on_gpu:
        _take_gpu(process)
    limit = timedelta(seconds=timeout)
    try:
        store, _, _ = next(rendezvous("env://", timeout=limit))
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
            rank=process.rank,
            world_size=process.world_size,
            timeout=limit,
        )
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{process} could not join the others within {timeout:g} s: {next(iter(str(error).splitlines()), '')}"
        ) from error
    try:
        yield Processes(process, patient)
    except ToldElsewhere:
        raise
    except InputError as error:
        store.set("told", str(error))
        raise
    except RuntimeError as error:
        if not _tells_of_a_loss(error):
            raise
        raise _lost(process, store, on_gpu, timeout) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _take_gpu(process: Process) -> None:
    count = torch.cuda.device_count()
    if process.local_world_size > count:
        raise InputError(f"--nproc-per-node: found {process.local_world_size}, but this machine has {count} GPUs")
    torch.cuda.set_device(process.local_rank)


def _tells_of_a_loss(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(words in str(error) for words in _LOST)


def _lost(process: Process, store: Any, on_gpu: bool, timeout: float) -> Exception:
    """Find out which processes are lost: those that do not say in time that they have noticed a loss."""
    if not on_gpu:
        # Closes the connections, so that processes that wait for this one notice too. NCCL may wait for the lost one.
        dist.destroy_process_group()
    try:
        store.set(f"alive/{process.rank}", "yes")
        began = time.monotonic()
        while True:
            if store.check(["told"]):
                return ToldElsewhere(store.get("told").decode(errors="replace"))
            lost = [rank for rank in range(process.world_size) if not store.check([f"alive/{rank}"])]
            if len(lost) <= 1 or time.monotonic() - began > NOTICED:
                break
            time.sleep(0.1)
    except (dist.DistError, RuntimeError):  # the store has ended with the process that held it
        lost = []
    if not lost:
        return ProcessLost(f"{process} has lost the connection to another process, or none came within {timeout:g} s")
    names = ", ".join(map(str, lost))
    called = f"process {names} has" if len(lost) == 1 else f"processes {names} have"
    return ProcessLost(
        f"{called} ended, or did not answer within {timeout:g} s; --resume continues the run from its last checkpoint"
    )

"""Joins the processes that ``torchrun`` has started, and ends with a clear message if one of them is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from igan_fast.distributed.agreement import Processes
from igan_fast.distributed.process import Process, ProcessLost, ToldElsewhere
from igan_fast.errors import InputError

__all__ = ["joined"]

#: Seconds from one sign of life of a process to the next.
BEAT = 1.0

#: Seconds without a sign of life after which a process is lost, where another has noticed that some process is: less
#: than the 30 seconds that torchrun leaves the others after a death.
SILENCE = 20.0

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
        InputError: a machine has fewer GPUs than processes.
        ProcessLost: another process has ended, did not come, or has not answered in time.
        ToldElsewhere: another process has ended with a message.
    """
    if process.is_alone:
        yield Processes(process, None)
        return
    if on_gpu:
        _take_gpu(process)
    limit = timedelta(seconds=timeout)
    try:
        store = _place_to_meet(process, limit)
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
        raise ProcessLost(
            f"{process} could not join the others: one has ended, or did not come within {timeout:g} s; PyTorch says: "
            f"{next(iter(str(error).splitlines()), '')}"
        ) from error
    lost = False
    try:
        with _signs_of_life(process, store):
            yield Processes(process, patient, dist.PrefixStore("settled", store))  # type: ignore[attr-defined]
    except ToldElsewhere:
        raise
    except InputError as error:
        store.set("told", str(error))
        raise
    except RuntimeError as error:
        if not _tells_of_a_loss(error):
            raise
        lost = True
        raise _loss(process, store, timeout) from error
    finally:
        if not lost:  # it may wait for the lost process, and torchrun may end this one before it has told of the loss
            dist.destroy_process_group()


def _place_to_meet(process: Process, limit: timedelta) -> Any:
    """The store of these processes. torchrun's outlives them, and still has the addresses of those that a restart
    replaced, so each start has a part of its own."""
    store, _, _ = next(rendezvous("env://", timeout=limit))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"start {start} of {process.world_size} processes", store)  # type: ignore[attr-defined]


def _take_gpu(process: Process) -> None:
    count = torch.cuda.device_count()
    if process.local_world_size > count:
        raise InputError(f"--nproc-per-node: found {process.local_world_size}, but this machine has {count} GPUs")
    torch.cuda.set_device(process.local_rank)


def _tells_of_a_loss(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(words in str(error) for words in _LOST)


@contextmanager
def _signs_of_life(process: Process, store: Any) -> Iterator[None]:
    """Give signs of life in the store from a thread, also while this process waits for others."""
    ended = threading.Event()

    def beat() -> None:
        with suppress(dist.DistError, RuntimeError):  # the store has ended, and nobody will look
            while not ended.wait(BEAT):
                store.add(f"beats/{process.rank}", 1)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _loss(process: Process, store: Any, timeout: float) -> Exception:
    """Find out which processes are lost: those that give no sign of life, and have not noticed a loss themselves."""
    try:
        store.set(f"noticed/{process.rank}", "yes")
        silent = {rank: store.add(f"beats/{rank}", 0) for rank in range(process.world_size) if rank != process.rank}
        began = time.monotonic()
        # One is lost, so if only one is silent it is that one.
        while len(silent) > 1 and time.monotonic() - began < SILENCE:
            time.sleep(BEAT / 10)
            silent = {
                rank: beats
                for rank, beats in silent.items()
                if store.add(f"beats/{rank}", 0) == beats and not store.check([f"noticed/{rank}"])
            }
        if store.check(["told"]):
            return ToldElsewhere(store.get("told").decode(errors="replace"))
    except (dist.DistError, RuntimeError):  # the store has ended with the process that held it
        silent = {}
    if not silent:
        return ProcessLost(f"{process} has lost the connection to another process, or none came within {timeout:g} s")
    names = ", ".join(map(str, silent))
    called = f"process {names} has" if len(silent) == 1 else f"processes {names} have"
    return ProcessLost(
        f"{called} ended, or did not answer within {timeout:g} s; --resume continues the run from its last checkpoint"
    )

"""Starts the processes of a test as torchrun does, from a server that has imported the package once.

What they run is in modules that can be imported, because each process imports it again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.distributed import TCPStore

from igan_fast.distributed.process import Process, this_process

#: What the server imports, so that no process has to. PyTorch's optimisers import ``torch._dynamo`` when they are made.
PRELOADED = ["igan_fast.app.cli", "igan_fast.train.loop", "torch._dynamo", "torch.distributed"]

#: Seconds after which the processes of a test are ended.
LIMIT = 600


class Started:
    """Processes that were started, and the store at which they meet. It outlives them, as torchrun's."""

    def __init__(self, world: int, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes: list[BaseProcess] = []
        for rank in range(world):
            variables = {
                "RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.store.port, "TORCHELASTIC_USE_AGENT_STORE": True,
            }  # fmt: skip
            self.processes.append(context.Process(target=_run, args=(variables, target, arguments)))
            self.processes[-1].start()

    def ends(self) -> list[int | None]:
        """Wait for all of them. Returns the exit status of each, negative after a signal."""
        for each in self.processes:
            each.join(LIMIT)
        late = [rank for rank, each in enumerate(self.processes) if each.is_alive()]
        for rank in late:
            self.processes[rank].kill()
        assert not late, f"the processes {late} did not end"
        return [each.exitcode for each in self.processes]


def run_processes(world: int, target: Callable[..., None], *arguments: Any) -> None:
    """Call ``target(process, *arguments)`` in each of ``world`` processes, which have made a process group.

    Raises:
        AssertionError: one of them failed; its traceback is on stderr.
    """
    assert Started(world, _in_group, target, arguments).ends() == [0] * world


def _run(variables: dict[str, object], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    target(*arguments)


def _in_group(target: Callable[[Process], None], arguments: tuple[Any, ...]) -> None:
    torch.distributed.init_process_group("gloo")
    target(this_process(), *arguments)
    torch.distributed.destroy_process_group()

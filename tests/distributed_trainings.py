"""Trainings by several processes, for tests: as ``igan-fast train`` under torchrun, with one killed or stopped."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from igan_fast.app.cli import main
from igan_fast.distributed.process import this_process
from igan_fast.train.iterative_gan import IterativeGANMethod

#: A tiny run of 16 rows in 4 norm groups, in which both networks get extra updates.
OPTIONS = {
    "data": "drawn", "drawn-count": 48, "image-size": 32, "width": 2, "latent": 5, "batch-size": 16, "norm-groups": 4,
    "log-every": 2, "sample-every": 100, "checkpoint-every": 2, "validation-images": 7, "lr": 1e-3, "device": "cpu",
    "balance-ratio": 1.05, "threads": 1, "seed": 1,
}  # fmt: skip


def words(run: Path, cache: Path, **more: Any) -> list[str]:
    """The command line of a tiny run. An option that is True is a switch."""
    options = OPTIONS | {name.replace("_", "-"): value for name, value in more.items()}
    given = [[f"--{name}"] if value is True else [f"--{name}", str(value)] for name, value in options.items()]
    return ["train", *(word for each in given for word in each), "--run", str(run), "--cache", str(cache)]


def command(arguments: list[str], output: Path, signals: dict[int, tuple[int, int]] | None = None) -> None:
    """Run the command line, and exit with its status. Output and errors go to OUTPUT-RANK.txt.

    Args:
        arguments: the words.
        output: the file's name without its end.
        signals: for some ranks, an iteration (from 1) in which the process sends itself a signal.
    """
    rank = this_process().rank
    with Path(f"{output}-{rank}.txt").open("w") as file:
        sys.stdout = sys.stderr = file
        if signals and rank in signals:
            send_in_iteration(*signals[rank])
        status = main(arguments)
        file.flush()
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    sys.exit(status)


def send_in_iteration(iteration: int, number: int) -> None:
    """Make this process send itself a signal at the beginning of an iteration, counted from 1 in this process."""
    iterate, calls = IterativeGANMethod.iterate, 0

    def counted(self: IterativeGANMethod) -> Any:
        nonlocal calls
        calls += 1
        if calls == iteration:
            os.kill(os.getpid(), signal.Signals(number))
        return iterate(self)

    IterativeGANMethod.iterate = counted  # type: ignore[method-assign]

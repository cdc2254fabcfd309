"""What several processes do in tests of choices by measurement."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from distributed_trainings import words
from measuring import FirstIs, give_choices, offer_exact

from igan_fast.app.cli import main
from igan_fast.distributed.group import joined
from igan_fast.distributed.process import this_process
from igan_fast.ops import tuning
from igan_fast.train.tuning import RunChoices

NAMES = ("a", "b", "c")


def settle(folder: Path) -> None:
    """Settle some names, each process in another order, and one that is the last process's alone. Write the results,
    and for which names this process chose, to RANK.json."""
    process = this_process()
    chosen = []

    def choose(name: str) -> str:
        chosen.append(name)
        return f"{name} of {process.rank}"

    with joined(process, 60, on_gpu=False) as processes:
        order = [*NAMES[process.rank :], *NAMES[: process.rank]] * 2
        found = {name: processes.settle(name, lambda name=name: choose(name)) for name in order}  # type: ignore[misc]
        if process.rank == process.world_size - 1:
            found["own"] = processes.settle("own", lambda: "mine")
        (folder / f"{process.rank}.json").write_text(json.dumps([found, chosen]))
        processes.collect(None)  # the first process holds no store, but the others should find it


def train_tuned(run: Path, cache: Path) -> None:
    """Train as ``igan-fast train --tune measure`` where each process has a cache folder of its own, as machines have,
    and measures the opposite of its neighbour. Write what each has taken to RANK.json."""
    rank = this_process().rank
    os.environ["IGAN_FAST_CACHE"] = f"{run}-cache-{rank}"
    state = RunChoices.state

    def noted(self: RunChoices) -> Any:
        Path(f"{run}-{rank}.json").write_text(json.dumps(tuning.taken()))
        return state(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunChoices, "state", noted)
        offer_exact(patch)
        give_choices(patch, FirstIs(faster=rank == 1))
        assert main(words(run, cache, tune="measure", iterations=2)) == 0

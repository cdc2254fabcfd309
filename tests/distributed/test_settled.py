"""What several processes choose alike, without waiting for each other."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from process_groups import Started
from tuned_trainings import NAMES, settle, train_tuned

from igan_fast.checkpoint import load_model
from igan_fast.distributed.agreement import Processes
from igan_fast.distributed.process import Process


def test_a_process_alone_chooses() -> None:
    assert Processes(Process(), None).settle("name", lambda: "value") == "value"


def test_the_first_that_chooses_decides(tmp_path: Path) -> None:
    assert Started(2, settle, tmp_path).ends() == [0, 0]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    found, chosen = zip(*results, strict=True)
    assert found[1].pop("own") == "mine"
    assert found[0] == found[1]
    for name in NAMES:
        decided = int(found[0][name].removeprefix(f"{name} of "))
        assert name in chosen[decided]
    assert all(len(set(each)) == len(each) for each in chosen)  # nobody chooses what is settled


def test_processes_with_caches_of_their_own_take_the_same_choices(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert Started(2, train_tuned, run, tmp_path / "images").ends() == [0, 0]
    taken = [json.loads(Path(f"{run}-{rank}.json").read_text()) for rank in range(2)]
    first, second = (each["H100"] for each in taken)
    both = first.keys() & second.keys()  # their shares of the validation photos differ in size
    assert len(both) > 3
    assert all(first[key] == second[key] for key in both)
    state = json.loads((run / "checkpoints" / "step-00000002" / "state.json").read_text())["state"]
    assert state["tuning"] == {"H100": first | second}
    assert all(t.isfinite().all() for t in load_model(run).model.state_dict().values() if isinstance(t, torch.Tensor))

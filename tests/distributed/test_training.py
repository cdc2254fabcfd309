"""``igan-fast train`` with several processes: the run of one process, after stops and deaths too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import distributed_trainings
import pytest
import torch
from process_groups import Started
from safetensors.torch import load_file

ITERATIONS = 6

#: Seconds in which processes end by themselves after a death.
GRACE = 10


class Trainings:
    """Runs trainings in one folder, which share their prepared images."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0

    def __call__(
        self,
        run: str,
        world: int,
        signals: dict[int, tuple[int, int]] | None = None,
        killed: tuple[int, float] | None = None,
        **options: Any,
    ) -> tuple[list[int | None], list[str]]:
        """Train. Returns the exit status of each process, and what it printed.

        Args:
            signals: as of ``distributed_trainings.command``.
            killed: a process, and the seconds after which it is killed, if it still runs. Those that wait for it when
                they start are then ended too, as torchrun does.
        """
        self._count += 1
        output = self.folder / f"output-{self._count}"
        words = distributed_trainings.words(self.folder / run, self.folder / "cache", **options)
        started = Started(world, distributed_trainings.command, words, output, signals)
        if killed is not None:
            rank, seconds = killed
            started.processes[rank].join(seconds)
            started.processes[rank].kill()
            for each in started.processes:
                each.join(GRACE)
                each.kill()
        printed = [Path(f"{output}-{rank}.txt") for rank in range(world)]
        return started.ends(), [path.read_text() if path.exists() else "" for path in printed]

    def tensors(self, run: str, iteration: int = ITERATIONS) -> dict[str, torch.Tensor]:
        folder = self.folder / run / "checkpoints" / f"step-{iteration:08d}"
        return {f"{file.stem}/{k}": v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}

    def differing(self, run: str, other: str) -> list[str]:
        ours, theirs = self.tensors(run), self.tensors(other)
        assert len(ours) > 100
        assert ours.keys() == theirs.keys()
        return [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """One process has trained the run "alone" with ``--exact``."""
    made = Trainings(tmp_path_factory.mktemp("trainings"))
    statuses, output = made("alone", 1, iterations=ITERATIONS, exact=True)
    assert statuses == [0], output
    return made


@pytest.mark.parametrize(("before", "after", "killed", "iteration"), [(2, 1, 0, 3), (4, 2, 2, 6)])
def test_a_killed_process_is_named_and_others_go_on_with_the_same_run(
    trainings: Trainings, before: int, after: int, killed: int, iteration: int
) -> None:
    run, dead = f"killed-{killed}", {killed: (iteration, int(signal.SIGKILL))}
    statuses, output = trainings(run, before, dead, iterations=ITERATIONS, exact=True)
    for rank, (status, text) in enumerate(zip(statuses, output, strict=True)):
        if rank == killed:
            assert status == -signal.SIGKILL
        else:
            assert status == 1
            assert f"igan-fast: error: process {killed} has ended, or did not answer within 600 s" in text
            assert "Traceback" not in text
    statuses, output = trainings(run, after, iterations=ITERATIONS, exact=True, resume=True)
    assert statuses == [0] * after, output
    assert trainings.differing(run, "alone") == []


@pytest.mark.slow
def test_twenty_processes_killed_at_any_moment_change_nothing(trainings: Trainings) -> None:
    """A process is killed wherever it is: while it starts, computes, waits, or writes a checkpoint. Every start has
    another number of processes."""
    random, kills, runs = Random(0), 0, 0
    while kills < 20:
        runs += 1
        statuses: list[int | None] = [None]
        world = 1
        while statuses != [0] * world:
            world = random.choice([number for number in (1, 2, 4) if number != world])
            killed = random.randrange(world), random.uniform(0, 6)
            statuses, output = trainings(
                f"random-{runs}", world, killed=killed, iterations=ITERATIONS, exact=True, resume=True
            )
            kills += -signal.SIGKILL in statuses
            assert all(status in (0, 1, -signal.SIGKILL) for status in statuses), output
            assert not any("Traceback" in text for text in output), output
        assert trainings.differing(f"random-{runs}", "alone") == []


def test_a_process_that_never_came_is_told_of(trainings: Trainings) -> None:
    statuses, output = trainings("lonely", 2, killed=(1, 0), iterations=2, process_timeout=2)
    assert statuses == [1, -signal.SIGKILL]
    assert "process 0 of 2" in output[0]
    assert "could not join the others: one has ended, or did not come within 2 s; PyTorch says: " in output[0]
    assert output[0].count("\n") == 1
    assert not (trainings.folder / "lonely").exists()


def test_ctrl_c_at_one_process_stops_all_after_the_same_iteration(trainings: Trainings) -> None:
    interrupted = {1: (2, int(signal.SIGINT))}
    statuses, output = trainings("stopped", 2, interrupted, iterations=ITERATIONS, exact=True)
    assert statuses == [130, 130]
    assert "stopped at iteration" in output[0]
    assert output[0].endswith("igan-fast: interrupted\n")
    assert output[1] == ""
    iterations = [int(folder.name[5:]) for folder in (trainings.folder / "stopped/checkpoints").glob("step-*")]
    assert max(iterations) in (2, 3)
    statuses, output = trainings("stopped", 4, iterations=ITERATIONS, exact=True, resume=True)
    assert statuses == [0] * 4, output
    assert trainings.differing("stopped", "alone") == []


@pytest.mark.every_build
def test_without_exact_the_run_is_the_same_up_to_rounding(trainings: Trainings) -> None:
    """Three iterations: the extra updates are decided by the losses of earlier ones."""
    statuses, output = trainings("fast-2", 2, iterations=3)
    assert statuses == [0, 0], output
    statuses, output = trainings("fast-1", 1, iterations=3)
    assert statuses == [0], output
    ours, theirs = trainings.tensors("fast-2", 3), trainings.tensors("fast-1", 3)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].double(), value.double(), rtol=1e-2, atol=2e-3, msg=name)
    assert torch.equal(ours["rng/noise"], theirs["rng/noise"])


def test_only_the_first_process_prints_and_tells_of_errors(trainings: Trainings) -> None:
    statuses, output = trainings("alone", 2, iterations=ITERATIONS, exact=True)
    assert statuses == [2, 2]
    assert "already holds a run; continue it with --resume" in output[0]
    assert output[1] == ""


def test_numbers_that_do_not_fit_are_refused_once(trainings: Trainings) -> None:
    statuses, output = trainings("refused", 2, iterations=2, norm_groups=3)
    assert statuses == [2, 2]
    assert "--norm-groups: found 3 for 2 processes, expected a multiple or a divisor of 2" in output[0]
    assert output[0].count("\n") == 1
    assert output[1] == ""
    assert not (trainings.folder / "refused").exists()


@pytest.mark.slow
def test_torchrun_starts_all_processes_again_after_a_death(trainings: Trainings) -> None:
    """The fifth iteration of the second process is its last. They go on from iteration 4, and end as if nothing was."""
    program = Path(__file__).resolve().parents[1] / "distributed_death.py"
    run = trainings.folder / "restarted"
    words = distributed_trainings.words(run, trainings.folder / "cache", iterations=ITERATIONS, exact=True, resume=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "--max-restarts", "1", "--", str(program), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(program.parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    # The survivor tells of the death too, unless torchrun has ended it before.
    assert "(exitcode: -9) local_rank: 1 " in done.stderr, done.stderr
    assert f"continuing {run} at iteration 4 of {ITERATIONS}" in done.stdout
    assert trainings.differing("restarted", "alone") == []

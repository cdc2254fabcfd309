"""The iteration in parts, by 1, 2 and 4 processes, against the reference's on the whole batch, in float64."""

from __future__ import annotations

import shutil
from pathlib import Path

import parted_runs
import pytest
import torch
from parted_runs import Case
from process_groups import run_processes

import igan_fast
from igan_fast.distributed.plan import BatchPlan
from igan_fast.distributed.process import Process
from igan_fast.distributed.step import PartedStep
from igan_fast.errors import InputError

#: Every case has extra updates of both networks, and 10 iterations.
CASES = {
    "default": Case(),
    "paper": Case(beyond=False),
    "uneven": Case(batch_size=11),
    "shared by all": Case(norm_groups=1),
    "shared by two": Case(norm_groups=2, batch_size=10),
    "exact": Case(exact=True),
    "exact32": Case(exact=True, dtype=torch.float32),
}

#: The number of parts of a process depends on that of the processes, so these run with fewer of them.
ACCUMULATED = {"accumulated": Case(accumulate=2, norm_groups=8, batch_size=16)}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the processes end with, and the reference. Groups of different sizes are beyond it: one
    process, which computes them one by one, takes its place."""
    folder, cases = tmp_path_factory.mktemp("ends"), CASES | ACCUMULATED
    for world in (1, 2, 4):
        run_processes(world, parted_runs.in_parts, folder, cases)
    run_processes(1, parted_runs.wholes, folder, {name: cases[name] for name in cases if name != "uneven"})
    shutil.copy(folder / "uneven-1-0.pt", folder / "uneven-whole.pt")
    return folder


def end_of(folder: Path, name: str, world: int, rank: int = 0) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / f"{name}-{world}-{rank}.pt")
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("name", [name for name, case in (CASES | ACCUMULATED).items() if case.dtype == torch.float64])
def test_weights_statistics_average_and_losses_are_those_of_one_process(ends, name, world):
    expected = torch.load(ends / f"{name}-whole.pt")
    ended = end_of(ends, name, world)  # the other processes end with the same bits
    assert ended.keys() == expected.keys()
    assert [key for key, value in ended.items() if not torch.allclose(value, expected[key], 1e-10, 1e-10)] == []


@pytest.mark.parametrize("name", [*CASES, *ACCUMULATED])
def test_all_processes_end_with_the_same_bits(ends, name):
    for world in (2, 4):
        first = end_of(ends, name, world)
        for rank in range(1, world):
            assert all(torch.equal(value, first[key]) for key, value in end_of(ends, name, world, rank).items())


@pytest.mark.parametrize("name", ["exact", "exact32"])
def test_exact_has_the_same_bits_with_any_number_of_processes(ends, name):
    one = end_of(ends, name, 1)
    assert len(one) > 100
    for world in (2, 4):
        other = end_of(ends, name, world)
        assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []


def test_the_losses_of_an_uneven_batch_are_means_over_its_rows():
    """Of each group's loss, counted as often as the group has rows; here against a batch whose rows are all alike in
    what is compared: the groups' losses differ, and a plain mean of theirs would be another number."""
    torch.manual_seed(3)
    config = Case(batch_size=5, norm_groups=2, beyond=False).step_config
    model = igan_fast.IterativeGAN(**parted_runs.SIZES).double()
    step = PartedStep(model, config, BatchPlan(5, 2))
    images, labels = torch.rand(5, 3, 32, 32).double() * 2 - 1, (torch.rand(5, 3) < 0.5).double()
    noise = torch.rand(5, 4).double() * 2 - 1
    separately = []
    for rows in (slice(0, 2), slice(2, 5)):
        torch.manual_seed(3)
        model = igan_fast.IterativeGAN(**parted_runs.SIZES).double()
        alone = igan_fast.TrainStep(model, Case(norm_groups=1, beyond=False).step_config)
        separately.append(torch.stack(alone(images[rows], labels[rows], noise[rows])))
    found = torch.stack(step(images, labels, noise))
    # The first four terms are those before any update.
    torch.testing.assert_close(found[:4], ((2 * separately[0] + 3 * separately[1]) / 5)[:4], rtol=1e-12, atol=0)


def test_a_plan_with_other_groups_is_refused():
    model = igan_fast.IterativeGAN(**parted_runs.SIZES)
    with pytest.raises(ValueError, match="plan: has 2 norm groups, expected 4, as config"):
        PartedStep(model, Case().step_config, BatchPlan(8, 2))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ((8, 5), "--norm-groups: found 5, expected from 1 to half of --batch-size 8"),
        ((8, 0), "--norm-groups: found 0"),
        ((16, 3, Process(0, 4, 0, 4)), "--norm-groups: found 3 for 4 processes, expected a multiple or a divisor of 4"),
        (
            (16, 2, Process(0, 4, 0, 4), 1, True),
            "found 2 for 4 processes, expected a multiple of 4 with --exact",
        ),
        (
            (5, 2, Process(0, 8, 0, 8)),
            "found 5 for 8 processes, expected at least a photo for each of the 4",
        ),
        ((16, 2, Process(0, 4, 0, 4), 2), "--accumulate: found 2, expected a divisor of 1"),
        ((16, 4, Process(0, 2, 0, 2), 3), "--accumulate: found 3, expected a divisor of 2"),
        ((16, 4, Process(), 0), "--accumulate: found 0"),
        ((16, 4, Process(), 2, True), "--accumulate: found 2, expected 1 with --exact"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(plan, message):
    with pytest.raises(InputError, match=message):
        BatchPlan(*plan)


@pytest.mark.parametrize("size", [8, 9, 11, 64])
@pytest.mark.parametrize("world", [4, 8])
def test_the_parts_of_many_processes_that_share_groups_are_all_rows_once(size, world):
    plans = [BatchPlan(size, 2, Process(rank, world, rank, world)) for rank in range(world)]
    assert [row for plan in plans for part in plan.own for row in range(size)[part.rows]] == list(range(size))
    assert plans[0].sharing == world // 2
    halves = [plans[0].parts[: world // 2], plans[0].parts[world // 2 :]]
    assert [sum(part.size for part in half) for half in halves] == [size // 2, size - size // 2]


@pytest.mark.parametrize("size", [8, 9, 11, 16, 64])
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("exact", [False, True])
def test_the_parts_are_all_rows_once_whatever_the_number_of_processes(size, world, exact):
    plans = [BatchPlan(size, 4, Process(rank, world, rank, world), exact=exact) for rank in range(world)]
    rows = [row for plan in plans for part in plan.own for row in range(size)[part.rows]]
    assert rows == list(range(size))
    assert all(plan.parts == plans[0].parts for plan in plans)
    assert sum(part.groups for part in plans[0].parts) == 4
    assert sum(plans[0].weight(part) for part in plans[0].parts) == pytest.approx(1)
    assert all(part.size % part.groups == 0 for part in plans[0].parts)
    assert not exact or len(plans[0].parts) == 4

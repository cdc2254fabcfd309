"""The iteration in parts, by 1, 2 and 4 processes, against the reference's on the whole batch, in float64."""

from __future__ import annotations

from collections.abc import Iterator
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

#: Every case has extra updates of both networks, and 10 iterations unless it says otherwise. The numbers: how many
#: processes are compared with one.
CASES = {
    "default": (Case(), (2, 4)),
    "paper": (Case(beyond=False, iterations=4), (2,)),
    "uneven": (Case(batch_size=11), (2, 4)),
    "shared by all": (Case(norm_groups=1), (2, 4)),
    "shared by two": (Case(norm_groups=2, batch_size=10), (2, 4)),
    "accumulated": (Case(accumulate=2, norm_groups=8, batch_size=16), (2, 4)),
    "exact": (Case(exact=True, iterations=6), (2, 4)),
    "exact in float32": (Case(exact=True, dtype=torch.float32, iterations=4), (4,)),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes, whose bits are compared with those of this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_processes_ends_as_one(name: str, tmp_path: Path) -> None:
    """Weights, running statistics, averaged weights, codes and losses."""
    case, worlds = CASES[name]
    alone = parted_runs.parted(case, Process())
    assert len(alone) > 100
    if case.batch_size % case.norm_groups == 0 and case.dtype == torch.float64:
        # Groups of different sizes are beyond the reference, and rounding is large in float32.
        expected = parted_runs.whole(case)
        assert alone.keys() == expected.keys()
        assert differing(alone, expected) == []
    for world in worlds:
        run_processes(world, parted_runs.in_parts, tmp_path, {name: case})
        ends = [torch.load(tmp_path / f"{name}-{world}-{rank}.pt") for rank in range(world)]
        for ended in ends:
            assert ended.keys() == alone.keys()
            assert [key for key, value in ended.items() if not torch.equal(value, ends[0][key])] == []
        if case.exact:
            assert [key for key, value in alone.items() if not torch.equal(value, ends[0][key])] == []
        else:
            assert differing(ends[0], alone) == []


@pytest.mark.parametrize("name", ["default", "shared by two", "accumulated", "exact"])
def test_iterations_as_graphs_are_those_without(name: str, tmp_path: Path) -> None:
    """With stand-ins for the graphs: warm-ups exchange too, and leave no trace. Bit for bit; also for one process."""
    case = CASES[name][0]._replace(iterations=6)
    cases = {"plain": case, "graphed": case._replace(graphed=True)}
    for world in (1, 2):
        if world == 1:
            parted_runs.in_parts(Process(), tmp_path, cases)
        else:
            run_processes(world, parted_runs.in_parts, tmp_path, cases)
        for rank in range(world):
            plain, graphed = (torch.load(tmp_path / f"{kind}-{world}-{rank}.pt") for kind in cases)
            assert graphed.keys() == plain.keys()
            assert [key for key, value in plain.items() if not torch.equal(value, graphed[key])] == []


def differing(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    return [key for key, value in found.items() if not torch.allclose(value, expected[key], 1e-10, 1e-10)]


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

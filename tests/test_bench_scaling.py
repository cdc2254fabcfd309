"""``bench.exchanges`` and ``bench.scaling``: what processes exchange, and the model of their time, by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

from bench import scaling  # noqa: E402
from bench.counting import Call  # noqa: E402
from bench.exchanges import GRADIENTS, STATISTICS, Event, Exchange, Share, share_of_an_iteration  # noqa: E402
from igan_fast import reference  # noqa: E402
from igan_fast.ops import backend  # noqa: E402
from igan_fast.reference.layers import NormAct2d  # noqa: E402

if not (backend.has_native_cpu() or backend._triton_can_load()):
    pytest.skip("there is no implementation of the fused operators", allow_module_level=True)

CALL = Call("mm", (), (), torch.float32, 0, 0)


def times(events: list[Event], calls: int) -> scaling.Iteration:
    """Each call takes 1 s, and an exchange as many as it has bytes."""
    return scaling.simulated(Share([CALL] * calls, events), lambda _: 1.0, lambda exchange: float(exchange.size))


def test_a_sum_goes_on_beside_the_calls_until_it_is_waited_for() -> None:
    of_d = Exchange(0, GRADIENTS, 5, False)
    assert times([Event(of_d, 2, False), Event(of_d, 9, True)], 10) == (10, 0, 0)
    assert times([Event(of_d, 2, False), Event(of_d, 4, True)], 10) == (10, 3, 0)
    assert times([Event(of_d, 10, False), Event(of_d, 10, True)], 10) == (10, 5, 0)


def test_exchanges_of_all_processes_go_on_one_after_the_other() -> None:
    first, second = Exchange(0, GRADIENTS, 5, False), Exchange(1, GRADIENTS, 4, False)
    events = [Event(first, 0, False), Event(second, 1, False), Event(first, 2, True), Event(second, 2, True)]
    assert times(events, 3) == (3, 7, 0)


def test_those_of_a_shared_group_go_on_beside_them() -> None:
    sums, statistics = Exchange(0, GRADIENTS, 5, False), Exchange(1, STATISTICS, 2, True)
    events = [Event(sums, 0, False), Event(statistics, 1, False), Event(statistics, 1, True), Event(sums, 2, True)]
    assert times(events, 3) == (3, 1, 2)


def test_the_time_of_an_exchange() -> None:
    inside, between = scaling.INSIDE, scaling.BETWEEN
    large = Exchange(0, GRADIENTS, 10**9, False)
    assert scaling.seconds(large, 2, 2) == pytest.approx(inside.large + 1e9 / inside.bandwidth)
    assert scaling.seconds(large, 8, 8) == pytest.approx(inside.large + 1.75e9 / inside.bandwidth)
    assert scaling.seconds(large, 64, 64) == pytest.approx(between.large + 2e9 * 63 / 64 / between.bandwidth)
    small = Exchange(0, STATISTICS, 1000, True)
    assert scaling.seconds(small, 64, 8) == pytest.approx(inside.small + 7000 / inside.bandwidth)
    assert scaling.seconds(small, 64, 1) == pytest.approx(between.small + 63_000 / between.bandwidth)


@pytest.mark.parametrize("norm_groups", [2, 1])
def test_what_processes_exchange(norm_groups: int) -> None:
    share = share_of_an_iteration(32, 8, 4, "fp32", world=2, norm_groups=norm_groups, preset="paper")
    model = reference.IterativeGAN(image_size=32, width=8)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert sum(each.size for each in share.exchanges if each.kind == GRADIENTS) == weights
    layers = {
        name: [each for each in part.modules() if isinstance(each, NormAct2d)] for name, part in model.named_children()
    }
    # D sees photos, generated images twice, and rebuilt ones; G makes two batches. Backward, D's pass over the photos
    # and three more; and G's two.
    passes = 2 * (4 * len(layers["discriminator"]) + 2 * len(layers["generator"]))
    assert sum(each.shared for each in share.exchanges) == (passes if norm_groups == 1 else 0)
    assert [each.kind for each in share.exchanges if not each.shared].count(STATISTICS) == 1
    assert {event.exchange for event in share.events if event.waits} == set(share.exchanges)


def test_sums_of_gradients_go_on_beside_the_backward_pass() -> None:
    share = share_of_an_iteration(128, 64, 2, "bf16", world=2, norm_groups=2, preset="paper")
    largest = max(share.exchanges, key=lambda each: each.size)
    began, waited = (event.calls for event in share.events if event.exchange == largest)
    assert largest.kind == GRADIENTS
    assert sum(call.operator == "convolution_backward" for call in share.calls[began:waited]) >= 6


def test_other_numbers_of_photos_follow_from_two() -> None:
    few, many, other = (
        share_of_an_iteration(32, 8, rows, "fp32", world=2, norm_groups=2, preset="paper") for rows in (64, 128, 96)
    )
    found = scaling.scaled(few, many, 96)
    assert found.events == other.events
    for ours, theirs in zip(found.calls, other.calls, strict=True):
        assert (ours.read, ours.written, ours.flops) == (theirs.read, theirs.written, theirs.flops)


def test_the_table_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.main(["--picture", str(tmp_path / "scaling.png")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("**Model, not measured.**")
    assert printed.count("\n| 64 | 8 |") == len(scaling.ROWS)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert scaling.main(["--picture", str(tmp_path / "missing" / "scaling.png")]) == 2
    assert "bench.scaling: " in capsys.readouterr().err

"""Timings, with a clock that is moved by hand. No test depends on how fast the machine is."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from igan_fast.app.paper import timing
from igan_fast.app.paper.jobs import Job, editing, generating, rebuilding, recognising
from igan_fast.app.paper.methods import NoEdit, Ours
from igan_fast.app.paper.timing import Seconds, Training, measure, training_times, use_times
from igan_fast.data import to_float


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, *seconds: float):
        left = list(seconds)

        def run() -> None:
            self.order.append(name)
            self.now += left.pop(0)

        return run


def test_calls_are_measured_in_turn_after_a_warm_up() -> None:
    clock = Clock()
    runs = [clock.call("a", 100, 1, 2, 3, 4), clock.call("b", 50, 9, 7, 7, 7)]
    first, second = measure(runs, repeats=4, warm_up=1, clock=clock)
    assert clock.order == ["a", "b"] * 5
    assert first == Seconds(2.5, (1.75, 3.25), 4)
    assert second == Seconds(7, (7, 7.5), 4)
    assert measure([clock.call("c", 5)], repeats=1, warm_up=0, clock=clock) == [Seconds(5, (5, 5), 1)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (Seconds(1.5, (1.25, 2), 3), "1.5 s (1.25–2)"),
        (Seconds(0.0123, (0.012, 0.5), 3), "12.3 ms (12–500)"),
        (Seconds(2.5e-6, (2e-6, 0.0123), 3), "2.5 µs (2–12,300)"),
        (Seconds(4567.8, (4000, 5000), 3), "4,568 s (4,000–5,000)"),
    ],
)
def test_a_duration_as_text(seconds: Seconds, text: str) -> None:
    assert seconds.text() == text


def test_an_epoch_takes_as_many_iterations_as_its_photos_need(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "measure", functools.partial(measure, clock=clock))
    trainings = [
        Training("ours", [2, 2], 64, ours=True),
        Training("CycleGAN", [3, 5], 1, networks=3),
    ]
    found = training_times(trainings, image_size=64, photos=6400)
    ours, cycle = found.methods
    assert ours.iteration == Seconds(2, (2, 2), 2)
    assert ours.epoch.median == pytest.approx(2 * 6400 / 64)
    assert (cycle.iteration.median, cycle.iteration.quartiles) == (4, (3.5, 4.5))
    assert cycle.epoch.quartiles == pytest.approx((3.5 * 6400, 4.5 * 6400))
    (table,) = found.tables()
    assert table.rows[0] == ("▶ ours (ours)", "1", "64", "2 s (2–2)", "200 s (200–200)")
    assert table.rows[1][:3] == ("CycleGAN", "3", "1")
    assert "6,400 photos" in found.shown


def test_use_is_timed_for_an_image_of_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "measure", functools.partial(measure, clock=clock))
    photos = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    labels = np.array([[0, 1], [1, 1], [0, 0]], np.uint8)
    seen: list[tuple[Tensor, Tensor]] = []

    def run(x: Tensor, c: Tensor) -> None:
        seen.append((x, c))
        clock.now += len(x) + 1

    jobs = [Job("m", False, "edit", torch.device("cpu"), run), Job("m", True, "edit", torch.device("cpu"), run)]
    found = use_times(jobs, photos, labels, batches=(1, 4), repeats=1, warm_up=0)
    assert [(time.batch_size, time.image.median) for time in found.times] == [(1, 2), (1, 2), (4, 1.25), (4, 1.25)]
    assert [len(x) for x, _ in seen] == [1, 1, 4, 4]
    torch.testing.assert_close(seen[2][0], to_float(torch.from_numpy(photos[[0, 1, 2, 0]])))
    assert seen[3][1].tolist() == [[0, 1], [1, 1], [0, 0], [0, 1]]
    (table,) = found.tables()
    assert table.header == ("method", "job", "batches of 1", "batches of 4")
    assert table.rows == (("m", "edit", "2 s (2–2)", "1.25 s (1.25–1.25)"),
                          ("▶ m (ours)", "edit", "2 s (2–2)", "1.25 s (1.25–1.25)"))  # fmt: skip


def test_jobs_are_those_of_the_methods(drawn) -> None:
    calls: list[tuple[str, object]] = []

    class Editor(NoEdit):
        def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
            calls.append(("edit", (labels.tolist(), dict(changes))))
            return images

    editor = Editor(5)
    editor.editable = (3, 4)
    x, c = to_float(torch.from_numpy(drawn.photos[:2])), torch.from_numpy(drawn.labels[:2]).float()
    assert editing(editor).run(x, c) is x
    assert calls == [("edit", (c.tolist(), {3: 1.0}))]
    ours = Ours(drawn.model)
    jobs = [rebuilding(ours), editing(ours), generating(ours), recognising(ours)]
    assert [(job.name, job.method, job.ours) for job in jobs] == [
        (name, "iterative GAN", True) for name in ("rebuild", "edit", "generate", "recognise")
    ]
    assert torch.equal(jobs[0].run(x, c), ours.rebuild(x))
    assert torch.equal(jobs[1].run(x, c), ours.edit(x, c, {0: 1.0}))
    noise = ours.draw_noise(2, torch.Generator().manual_seed(0))
    assert torch.equal(jobs[2].run(x, c), ours.generate(noise, c))
    assert torch.equal(jobs[3].run(x, c), ours.recognise(x))

"""What a run leaves for people to read: exact means, each iteration once, and NaN named by iteration and term."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from igan_fast.errors import InputError
from igan_fast.train.curves import plot_losses
from igan_fast.train.monitor import Monitor, TrainingDiverged
from igan_fast.train.run_log import RunLog, read_log


class Losses(NamedTuple):
    d_adversarial: Tensor
    g_pixel: Tensor


def losses(iteration: int) -> Losses:
    return Losses(torch.tensor(1.0 + iteration), torch.tensor(0.5 / iteration))


def lines(run: Path, kind: str = "losses") -> list[dict[str, object]]:
    """Read without the code under test: every line has to be JSON as the standard has it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    records = [json.loads(line, parse_constant=refuse) for line in (run / "log.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def monitor(run: Path, *, total: int = 100, start: int = 0, log_every: int = 4) -> Monitor:
    return Monitor(run, total=total, batch_size=8, start=start, log_every=log_every)


def test_each_line_holds_the_means_of_its_interval(tmp_path: Path) -> None:
    with monitor(tmp_path, total=10) as watch:
        for iteration in range(1, 11):
            watch.record(iteration, losses(iteration), {"extra_d": iteration % 2})
            if iteration == 6:
                watch.flush()
                watch.flush()
    found = lines(tmp_path)
    intervals = [(1, 4), (5, 6), (7, 8), (9, 10)]
    assert [(line["iteration"], line["iterations"]) for line in found] == [(b, b - a + 1) for a, b in intervals]
    for line, (first, last) in zip(found, intervals, strict=True):
        span = range(first, last + 1)
        assert line["losses"] == pytest.approx(
            {
                "d_adversarial": np.mean([1.0 + i for i in span]),
                "g_pixel": np.mean([0.5 / i for i in span]),
            },
            rel=1e-6,
        )
        assert line["extra_d"] == sum(i % 2 for i in span)
        assert float(str(line["images_per_second"])) > 0


def test_losses_may_be_a_mapping_and_carry_a_graph_and_change_afterwards(tmp_path: Path) -> None:
    value = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    with monitor(tmp_path, total=2, log_every=2) as watch:
        watch.record(1, {"a": value * 1, "b": value})
        value.data.fill_(4.0)
        watch.record(2, {"a": value * 1, "b": value})
    assert lines(tmp_path)[0]["losses"] == {"a": 3.0, "b": 3.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("broken", [5, 6, 7, 8])
def test_not_finite_names_the_first_iteration_and_the_term(tmp_path: Path, value: float, broken: int) -> None:
    def run() -> None:
        with monitor(tmp_path) as watch:
            for iteration in range(1, 9):
                terms = losses(iteration)
                if iteration >= broken:
                    terms = terms._replace(g_pixel=torch.tensor(value))
                if iteration > broken:
                    terms = terms._replace(d_adversarial=torch.tensor(value))
                watch.record(iteration, terms)

    with pytest.raises(TrainingDiverged) as caught:
        run()
    assert isinstance(caught.value, InputError)
    assert caught.value.iteration == broken
    assert list(caught.value.values) == ["g_pixel"]
    assert f"iteration {broken}: g_pixel is {value}" in str(caught.value)
    assert "d_adversarial" not in str(caught.value)
    assert [line["iteration"] for line in lines(tmp_path)] == [4]
    assert [line["iteration"] for line in lines(tmp_path, "diverged")] == [broken]


def test_flush_before_a_checkpoint_sees_what_no_line_has_shown_yet(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    watch.record(1, losses(1))
    watch.record(2, losses(2)._replace(d_adversarial=torch.tensor(math.nan)))
    with pytest.raises(TrainingDiverged, match="iteration 2: d_adversarial is nan"):
        watch.flush()
    watch.close()


def test_the_last_good_checkpoint_ends_the_message() -> None:
    error = TrainingDiverged(7, {"g_pixel": math.nan, "g_latent": math.inf}, Path("runs/a/checkpoints/step-00000004"))
    assert str(error) == (
        "training diverged at iteration 7: g_pixel is nan, g_latent is inf; "
        "the last good checkpoint is runs/a/checkpoints/step-00000004"
    )


def test_the_device_is_read_once_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    real = torch.Tensor.cpu

    def cpu(tensor: Tensor) -> Tensor:
        nonlocal reads
        reads += 1
        return real(tensor)

    def refuse(*_: object) -> float:
        raise AssertionError("a scalar was read")

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    for name in ("item", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    watch = monitor(tmp_path)
    for iteration in range(1, 4):
        watch.record(iteration, losses(iteration))
    assert reads == 0
    watch.record(4, losses(4))
    assert reads == 1
    monkeypatch.undo()
    watch.close()


def test_a_line_that_is_far_holds_few_rows_and_the_same_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igan_fast.train.monitor._BUFFERED", 3)
    with Monitor(tmp_path, total=10**15, batch_size=4, log_every=10**12) as watch:
        for iteration in range(1, 9):
            watch.record(iteration, losses(iteration), {"extra_d": 1})
            assert len(watch._buffer) == 3
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["losses"] == pytest.approx(
        {"d_adversarial": sum(1 + i for i in range(1, 9)) / 8, "g_pixel": sum(0.5 / i for i in range(1, 9)) / 8}
    )
    assert (line["iteration"], line["iterations"], line["extra_d"]) == (8, 8, 8)


def test_a_loss_that_is_not_finite_is_found_before_a_line_that_is_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igan_fast.train.monitor._BUFFERED", 3)
    with Monitor(tmp_path, total=100, batch_size=4, log_every=50) as watch:
        for iteration in (1, 2, 3, 4):
            watch.record(iteration, losses(iteration))
        watch.record(5, {"d_adversarial": torch.tensor(float("nan")), "g_pixel": torch.tensor(1.0)})
        with pytest.raises(TrainingDiverged, match="iteration 5: d_adversarial is nan"):
            watch.record(6, losses(6))


def test_misuse_is_named(tmp_path: Path) -> None:
    with monitor(tmp_path, start=3) as watch:
        with pytest.raises(ValueError, match="iteration 5 was recorded after 3"):
            watch.record(5, losses(5))
        watch.record(4, losses(4))
        with pytest.raises(ValueError, match="they were"):
            watch.record(5, {"other": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="log_every is 0"):
        monitor(tmp_path, log_every=0)


def test_a_resumed_log_is_that_of_a_run_that_never_stopped(tmp_path: Path) -> None:
    def go(run: Path, start: int, stop: int) -> None:
        with monitor(run, start=start, total=20) as watch:
            for iteration in range(start + 1, stop + 1):
                watch.record(iteration, losses(iteration))
                if iteration % 6 == 0:
                    watch.flush()
                    watch.event("checkpoint", hamming_loss=1.0 / iteration)

    go(tmp_path / "whole", 0, 20)
    go(tmp_path / "stopped", 0, 15)  # its checkpoint of 12 is the newest
    with (tmp_path / "stopped" / "log.jsonl").open("a") as file:
        file.write('{"kind": "losses", "iterat')  # the kill came in the middle of a line
    go(tmp_path / "stopped", 12, 20)

    def timeless(run: Path) -> list[dict[str, object]]:
        return [
            {name: value for name, value in line.items() if name not in ("seconds", "images_per_second")}
            for kind in ("losses", "checkpoint")
            for line in lines(run, kind)
        ]

    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "whole")
    covered = [
        i
        for line in lines(tmp_path / "stopped")
        for i in range(int(str(line["iteration"])) - int(str(line["iterations"])) + 1, int(str(line["iteration"])) + 1)
    ]
    assert covered == list(range(1, 21))


def test_starting_from_nothing_empties_the_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"kind": "losses", "iteration": 0}\n')
    monitor(tmp_path).close()
    assert (tmp_path / "log.jsonl").read_bytes() == b""


WRITER = """
import itertools, sys, torch
from pathlib import Path
from igan_fast.train.monitor import Monitor
watch = Monitor(Path(sys.argv[1]), total=10**9, batch_size=1, start=int(sys.argv[2]), log_every=1)
for iteration in itertools.count(int(sys.argv[2]) + 1):
    watch.record(iteration, {"a": torch.tensor(float(iteration))})
    print(iteration, flush=True)
"""


def test_kill_9_loses_no_line_that_was_written(tmp_path: Path) -> None:
    start = 0
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, str(start)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert writer.stdout is not None
        for _ in range(30):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.stdout.close()
        writer.wait()
        found = [record["iteration"] for record in read_log(tmp_path / "log.jsonl")]
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= start + 30
        start = len(found) - 5


def test_a_number_that_json_lacks_is_written_as_text(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.jsonl") as log:
        log.write({"kind": "score", "iteration": 1, "psnr": math.inf, "table": {"a": math.nan}})
    assert lines(tmp_path, "score") == [
        {"kind": "score", "iteration": 1, "psnr": "Infinity", "table": {"a": "NaN"}},
    ]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    with monitor(tmp_path, log_every=1) as watch:
        for iteration in (1, 2, 3):
            watch.record(iteration, losses(iteration), {"extra_d": 2})
        path = watch.image("samples", picture)
        watch.event("checkpoint", hamming_loss=0.25, note="kept")
    with monitor(tmp_path, start=2, log_every=1) as watch:
        watch.record(3, losses(30))

    assert path == tmp_path / "samples" / "samples-00000003.png"
    with Image.open(path) as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(picture))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("losses/d_adversarial")]
    assert found == [(1, 2.0), (2, 3.0), (3, 31.0)]  # the third as the resumed run saw it
    assert [event.value for event in events.Scalars("counts/extra_d")] == [2.0, 2.0]
    first_file = min(tmp_path.glob("events.out.tfevents.*"))
    events = EventAccumulator(str(first_file))
    events.Reload()
    assert [event.value for event in events.Scalars("checkpoint/hamming_loss")] == [0.25]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (3, 30, 20)
    (text,) = events.Tensors("checkpoint/text_summary")
    assert b'"note": "kept"' in text.tensor_proto.string_val[0]


def test_a_run_that_is_started_anew_hides_the_events_of_the_start_that_failed(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for offset, count in ((10, 3), (20, 1)):
        with monitor(tmp_path, log_every=1) as watch:
            for iteration in range(1, count + 1):
                watch.record(iteration, losses(offset))
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("losses/d_adversarial")] == [(1, 21.0)]


def test_curves_are_drawn_at_the_end_and_matplotlib_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from igan_fast.train.monitor import Monitor\n"
        "with Monitor(Path(sys.argv[1]), total=6, batch_size=1, log_every=2) as watch:\n"
        "    for i in range(1, 7): watch.record(i, {'d_a': torch.tensor(1.0 / i), 'g_b': torch.tensor(0.0)})\n"
        "    watch.event('checkpoint', hamming_loss=0.2)\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.width == 1500
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    # not a terminal: plain lines, each whole
    assert re.fullmatch(r"(iteration \d+/6 · \d+ img/s · d_a [\d.]+ · g_b 0.000 · \d\d:\d\d left\n)+", done.stderr)
    assert done.stderr.splitlines()[-1].startswith("iteration 6/6")


def test_no_curves_of_nothing(tmp_path: Path) -> None:
    monitor(tmp_path).close()
    assert not (tmp_path / "losses.png").exists()
    (tmp_path / "log.jsonl").write_text('{"kind": "losses", "iteration": 1, "losses": {"g_x": "NaN"}}\n')
    assert plot_losses(tmp_path / "log.jsonl", tmp_path / "losses.png") is False


def test_an_exception_passes_through_and_files_are_closed(tmp_path: Path) -> None:
    watch = monitor(tmp_path)

    def run() -> None:
        with watch:
            watch.record(1, losses(1))
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run()
    assert not (tmp_path / "losses.png").exists()
    with pytest.raises(ValueError, match="closed"):
        watch.event("late")


def test_a_file_size_limit_stops_a_run_with_one_clear_error(tmp_path: Path) -> None:
    """Whichever file is the first to fail (the log, the events), nothing but the one error is seen."""
    script = (
        "import resource, sys, torch; from pathlib import Path; from igan_fast.train.monitor import Monitor\n"
        "from igan_fast.errors import InputError\n"
        "try:\n"
        "    with Monitor(Path(sys.argv[1]), total=10**6, batch_size=1, log_every=1) as watch:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "        for i in range(1, 10**6): watch.record(i, {'a': torch.tensor(1.0)})\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        monitor(tmp_path / "file")

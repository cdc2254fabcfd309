"""How a run begins and ends beside what else may be in its folder: failed starts, damaged logs, odd names, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import run_files
from PIL import Image

from igan_fast import TrainStep
from igan_fast.app.cli import main
from igan_fast.errors import InputError
from igan_fast.train import TrainConfig, save, train
from igan_fast.train.curves import plot_losses
from igan_fast.train.monitor import Monitor
from igan_fast.train.run_log import RunLog, read_log
from igan_fast.train.signals import graceful_stop


def options(tiny: dict[str, Any], run: Path, **more: Any) -> TrainConfig:
    return TrainConfig(**tiny | {"run": run, "iterations": 1} | more)


def diverging(monkeypatch: pytest.MonkeyPatch) -> None:
    call = TrainStep.__call__

    def poisoned(self: TrainStep, *batch: torch.Tensor) -> Any:
        losses = call(self, *batch)
        return losses._replace(g_pixel=losses.g_pixel * float("nan"))

    monkeypatch.setattr(TrainStep, "__call__", poisoned)


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(save, "write_durably", full)


@pytest.mark.parametrize("fail", [diverging, full_disk])
@pytest.mark.parametrize("resume", [False, True])
def test_a_first_start_that_failed_does_not_block_the_corrected_command(
    tiny: dict[str, Any], tmp_path: Path, fail: Callable[[pytest.MonkeyPatch], None], resume: bool
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        fail(monkeypatch)
        with pytest.raises(InputError, match=r"diverged|disk is full"):
            train(options(tiny, run, lr=1e-2))
    assert not list(run.glob("checkpoints/*"))
    result = train(options(tiny, run, lr=1e-5, width=3, resume=resume))
    assert result.iteration == 1
    assert (TrainConfig.load(run).lr, TrainConfig.load(run).width) == (1e-5, 3)
    records = list(read_log(run / "log.jsonl"))
    assert [record["kind"] for record in records].count("start") == 1
    assert "diverged" not in {record["kind"] for record in records}


@pytest.mark.parametrize("content", ['{"name": "somebody else\'s"}', "[1]", "not JSON", "{}"])
def test_a_config_that_is_not_ours_is_kept(tiny: dict[str, Any], tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for resume in (False, True):
        with pytest.raises(InputError, match=r"its config\.json belongs to no run that can start again") as caught:
            train(options(tiny, tmp_path, resume=resume))
        assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}
    assert (tmp_path / "config.json").read_text() == content


def test_a_dangling_link_as_config_is_not_followed(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="name another folder"):
        train(options(tiny, tmp_path))
    assert not (tmp_path / "victim").exists()


def test_what_a_killed_start_left_is_removed_and_nothing_else(tiny: dict[str, Any], tmp_path: Path) -> None:
    leftover, mine = tmp_path / ".tmp-config.json-0123456789abcdef", tmp_path / ".tmp-mine"
    for path in (leftover, mine):
        path.write_text("half")
    train(options(tiny, tmp_path))
    assert not leftover.exists()
    assert mine.read_text() == "half"


@pytest.fixture(scope="module")
def trained(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    train(options(tiny, run))
    return run


NESTED = b'{"iteration": 1, "a": ' + b"[" * 1000 + b"]" * 1000 + b"}\n"
DAMAGES: dict[str, bytes] = {
    "nothing": b"",
    "binary": bytes(range(256)) * 50,
    "nested": NESTED,
    "deep": b"[" * 300_000 + b"\n",
    "not UTF-8": b'{"iteration": 1, "kind": "\xe9"}\n',
    "NaN": b'{"iteration": 1, "kind": "losses", "losses": {"g": NaN}}\n',
    "1e999": b'{"iteration": 1, "kind": "losses", "losses": {"g": 1e999}}\n',
    "huge": b'{"iteration": 1, "kind": "losses", "losses": {"g": ' + b"9" * 299 + b"}}\n",
    "more digits": b'{"iteration": 1, "kind": "losses", "losses": {"g": ' + b"9" * 5000 + b"}}\n",
    "no losses": b'{"iteration": 1, "kind": "losses"}\n',
    "a list of losses": b'{"iteration": 1, "kind": "losses", "losses": [1]}\n',
    "losses in losses": b'{"iteration": 1, "kind": "losses", "losses": {"g": {"h": 1}, "d": null, "e": [1]}}\n',
    "a late iteration": b'{"iteration": 9000000000000000000, "kind": "losses", "losses": {"g": 1}}\n',
    "no iteration": b'{"kind": "losses"}\n{"iteration": "1"}\n{"iteration": true}\n{"iteration": -1}\n',
    "twice": b'{"iteration": 1, "iteration": 0}\n',
    "no line end": b'{"iteration": 1, "kind": "losses", "losses": {"g": 1}}',
    "a long line": b'{"iteration": 1, "kind": "' + b"x" * 3_000_000 + b'"}\n{"iteration": 1, "kind": "kept"}\n',
}


@pytest.mark.usefixtures("drawn_curves")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_no_damage_of_the_log_ends_a_run(tmp_path: Path, damage: bytes) -> None:
    whole = b'{"kind": "losses", "iteration": 1, "losses": {"d": 2.5}}\n'
    log = tmp_path / "log.jsonl"
    # What has no line end takes the line after it along.
    for content in (whole + damage, *([damage + whole, whole + damage + whole] if damage.endswith(b"\n") else [])):
        log.write_bytes(content)
        assert plot_losses(log, tmp_path / "losses.png")
        with Monitor(tmp_path, total=2, start=1, batch_size=4, log_every=1) as monitor:
            monitor.record(2, {"d": torch.tensor(1.0)})
        records = list(read_log(log))
        assert {"kind": "losses", "iteration": 1, "losses": {"d": 2.5}} in records
        assert records[-1]["losses"] == {"d": 1.0}
        for line in log.read_text(encoding="utf-8").splitlines():
            assert json.loads(line)["iteration"] <= 2


@pytest.mark.usefixtures("drawn_curves")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_curves_are_drawn_from_a_damaged_log(tmp_path: Path, damage: bytes) -> None:
    log, image = tmp_path / "log.jsonl", tmp_path / "losses.png"
    log.write_bytes(b'{"kind": "losses", "iteration": 1, "losses": {"d": 2.5}}\n' + damage)
    assert plot_losses(log, image)
    with Image.open(image) as picture:
        assert picture.width == 1500


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to a device", "dangling link", "link in a circle"])
@pytest.mark.parametrize("start", [0, 1])
def test_what_is_no_log_is_set_aside(tmp_path: Path, kind: str, start: int) -> None:
    path = tmp_path / "log.jsonl"
    if kind == "folder":
        path.mkdir()
        (path / "precious").write_text("x")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link to a device": "/dev/zero", "dangling link": "victim", "link in a circle": path}[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with RunLog(path, start=start) as log:
            log.write({"iteration": start + 1})
    assert list(read_log(path)) == [{"iteration": start + 1}]
    assert not (tmp_path / "victim").exists()
    if kind == "folder":
        assert (tmp_path / "log.jsonl.damaged-1" / "precious").read_text() == "x"


def test_a_log_that_cannot_be_read_is_set_aside_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"iteration": 1}\n')
    real = os.open

    def refused(name: Any, *more: Any) -> int:
        if name == path:
            raise PermissionError(13, os.strerror(13))
        return real(name, *more)

    monkeypatch.setattr("igan_fast.files.os.open", refused)
    with pytest.warns(UserWarning, match=r"cannot be read .*kept as log\.jsonl\.damaged-1") as caught:
        RunLog(path, start=1).close()
    assert len(caught) == 1
    assert (tmp_path / "log.jsonl.damaged-1").read_text() == '{"iteration": 1}\n'


def test_a_log_that_was_taken_away_costs_only_the_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor(tmp_path, total=1, batch_size=4, log_every=1) as monitor:
        monitor.record(1, {"d": torch.tensor(1.0)})
        (tmp_path / "log.jsonl").unlink()
    assert "no curves are drawn" in capsys.readouterr().out


@pytest.mark.parametrize("name", [b"caf\xe9", b"new\nline", b"\x1b[31mred", "ü ’quoted’ $HOME".encode()])
def test_odd_names_of_runs_work_and_are_printed_as_one_line(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    run = tmp_path / os.fsdecode(name)
    train(options(tiny, run))
    assert TrainConfig.load(run).run == run
    train(options(tiny, run, iterations=2, resume=True))
    assert json.loads((run / "config.json").read_text())["run"] == str(run)
    assert main(["recognise", "--model", str(run), str(tmp_path / "no photo.jpg")]) == 2
    told = capsys.readouterr()
    for text in (told.out, told.err):
        text.encode("utf-8")  # no lone surrogate
        assert "\x1b" not in text
        assert "new\nline" not in text
    with pytest.raises(InputError, match="already holds a run") as caught:
        train(options(tiny, run))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with graceful_stop() as stop:
            assert signal.getsignal(number) is signal.SIG_IGN
            os.kill(os.getpid(), number)
            assert not stop.is_set()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_handler_of_the_caller_comes_back_and_the_other_signal_stops() -> None:
    seen: list[int] = []
    before = [signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda n, _: seen.append(n))]
    try:
        with graceful_stop() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.is_set()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)  # the second acts as it usually does
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_another_thread_trains_without_signals() -> None:
    found: list[bool] = []

    def run() -> None:
        with graceful_stop() as stop:
            found.append(stop.is_set())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_refusal_leaves_the_run_as_it_was(tiny: dict[str, Any], trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = run_files(run)
    for change in ({"width": 5}, {"resume": False}, {"drawn_count": 47}):
        with pytest.raises(InputError):
            train(options(tiny, run, **{"iterations": 2, "resume": True, **change}))
    assert run_files(run) == before


@pytest.mark.parametrize("call", range(1, 12))
def test_a_write_that_fails_anywhere_is_one_line_and_leaves_no_half_file(
    tiny: dict[str, Any], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The disk is full at one of the writes of a run that goes on for one iteration."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    calls, real = [0], os.fsync

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == call:
            raise OSError(28, os.strerror(28))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match="disk is full") as caught:
        train(options(tiny, run, iterations=2, resume=True))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert not list(run.rglob(".tmp-*"))
    TrainConfig.load(run)
    assert train(options(tiny, run, iterations=3, resume=True)).iteration == 3

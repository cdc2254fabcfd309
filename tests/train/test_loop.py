"""Training as a whole: what a run leaves behind, exact resume after a kill, and how it stops."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from igan_fast import IterativeGAN, TrainStep
from igan_fast.checkpoint import load_checkpoint, load_model
from igan_fast.checkpoint.find import newest_checkpoint
from igan_fast.data import open_source
from igan_fast.errors import InputError
from igan_fast.train import TrainConfig, curves, iterative_gan, loop, save, train, trainer
from igan_fast.train.run import locked
from igan_fast.train.run_log import read_log


def options(tiny: dict[str, Any], run: Path, **more: Any) -> TrainConfig:
    return TrainConfig(**tiny | {"run": run} | more)


def tensors_of(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{iteration:08d}"
    return {f"{file.stem}/{k}": v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert a
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def unbroken(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, quick_curves: Any) -> Path:
    """A run of six iterations without a stop, in which both networks get extra updates. Its curves are drawn."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_draw", quick_curves)
        train(options(tiny, run, iterations=6, balance_ratio=1.05))
    return run


@pytest.mark.every_build
def test_what_a_run_leaves_behind(unbroken: Path) -> None:
    config = TrainConfig.load(unbroken)
    assert (config.width, config.iterations, config.sample_attributes) == (
        2,
        6,
        ("Smiling", "Male", "Eyeglasses", "Blond_Hair"),
    )
    assert sorted(p.name for p in (unbroken / "checkpoints").iterdir()) == [
        "best.json",
        "step-00000003",
        "step-00000006",
    ]
    assert len(list((unbroken / "samples").glob("*.png"))) == 2
    with Image.open(unbroken / "losses.png") as picture:
        assert picture.width > 100
    assert list(unbroken.glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "losses"]
    assert losses[-1]["iteration"] == 6
    assert sum(line["iterations"] for line in losses) == 6
    assert sum(line["extra_d_updates"] + line["extra_g_updates"] for line in losses) > 0
    assert [line["iteration"] for line in lines if line["kind"] == "checkpoint"] == [3, 6]


def test_a_checkpoint_holds_the_model_with_its_names_and_some_label_rows(unbroken: Path) -> None:
    loaded = load_model(unbroken)
    assert isinstance(loaded.model, IterativeGAN)
    assert len(loaded.attributes) == 40
    assert loaded.label_samples.shape[1] == 40
    assert len(loaded.label_samples.unique(dim=0)) > 10


def test_a_checkpoint_holds_the_counts_of_its_training_labels(unbroken: Path) -> None:
    config = TrainConfig.load(unbroken)
    source = open_source("drawn", drawn_count=config.drawn_count, seed=config.seed)
    labels = source.labels[source.splits["train"]].astype(int)
    for folder in (unbroken / "checkpoints").glob("step-*"):
        counts = load_checkpoint(folder).tensors["labels"]
        assert int(counts["photos"]) == len(labels)
        assert counts["together"].tolist() == (labels.T @ labels).tolist()
    companions = load_model(unbroken).companions
    assert companions is not None
    expected = np.cov(labels.T.astype(float), bias=True)
    np.testing.assert_allclose(companions.covariance, expected, atol=1e-12)


KILLED = """
import json, os, signal, sys
from igan_fast import TrainStep
from igan_fast.train import TrainConfig, train
calls, call = 0, TrainStep.__call__
def killed(self, *batch):
    global calls
    calls += 1
    if calls == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, *batch)
TrainStep.__call__ = killed
train(TrainConfig.from_json(json.loads(sys.argv[1])))
"""


@pytest.mark.every_build
def test_resume_after_a_kill_is_exact(tiny: dict[str, Any], unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = options(tiny, run, iterations=6, balance_ratio=1.05)
    command = [sys.executable, "-c", KILLED, json.dumps(config.to_json())]
    killed = subprocess.run(command, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert newest_checkpoint(run, report=pytest.fail).iteration == 3
    result = train(options(tiny, run, iterations=6, balance_ratio=1.05, resume=True))
    assert result.iteration == 6
    assert_same_bits(tensors_of(run, 6), tensors_of(unbroken, 6))
    states = [load_checkpoint(r / "checkpoints/step-00000006").state for r in (run, unbroken)]
    for key in ("loader", "balance", "ema_count", "metrics"):
        assert states[0][key] == states[1][key], key


def test_resume_from_an_earlier_end_is_exact_too(tiny: dict[str, Any], unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(options(tiny, run, iterations=3, balance_ratio=1.05))
    train(options(tiny, run, iterations=6, balance_ratio=1.05, resume=True))
    assert_same_bits(tensors_of(run, 6), tensors_of(unbroken, 6))


def test_resume_from_python_where_the_folder_was_chosen_by_itself(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = train(TrainConfig(**tiny, iterations=1))
    moved = first.run.rename("elsewhere")
    for run, iterations in ((str(moved), 2), (moved, 3)):
        result = train(dataclasses.replace(TrainConfig.load(run), iterations=iterations, resume=True))
        assert (result.run, result.iteration) == (Path("elsewhere"), iterations)
    assert not first.run.exists()


@pytest.mark.every_build
@pytest.mark.parametrize("first", ["auto", "reference"])
def test_a_run_can_go_on_in_the_other_wing(tiny: dict[str, Any], tmp_path: Path, first: str) -> None:
    """Weights, statistics and the optimisers' state move; what differs is rounding."""
    second = {"auto": "reference", "reference": "auto"}[first]
    runs = {}
    for impl in (first, second):
        run = tmp_path / impl
        train(options(tiny, run, iterations=3, impl=first, lr=1e-5))
        train(options(tiny, run, iterations=4, impl=impl, lr=1e-5, resume=True))
        runs[impl] = tensors_of(run, 4)
    assert runs[first].keys() == runs[second].keys()
    for name, ours in runs[first].items():
        if ours.is_floating_point() and name.startswith("model"):
            torch.testing.assert_close(
                ours, runs[second][name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.every_build
def test_says_what_it_computes_on(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "has_bfloat16", lambda: False)
    for impl, words in (("auto", "fused operators"), ("reference", "plain PyTorch")):
        train(options(tiny, tmp_path / impl, iterations=1, impl=impl, precision="bf16"))
        told = capsys.readouterr().out
        assert "CPU threads in bf16: " + words in told
        assert "this CPU has no bfloat16 instructions: --precision fp32 is faster here" in told
        (start,) = (line for line in read_log(tmp_path / impl / "log.jsonl") if line["kind"] == "start")
        assert words in start["computing_on"]


def test_a_run_can_go_on_in_another_precision(tiny: dict[str, Any], tmp_path: Path) -> None:
    train(options(tiny, tmp_path / "run", iterations=1))
    assert train(options(tiny, tmp_path / "run", iterations=2, precision="bf16", resume=True)).iteration == 2


@pytest.mark.parametrize("fails", [False, True])
def test_the_method_is_closed_before_the_processes_part(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """NCCL's end waits for that of the graphs that hold its operations."""
    happened, joined = [], loop.joined

    @contextmanager
    def parting(*given: Any, **more: Any) -> Iterator[Any]:
        with joined(*given, **more) as processes:
            try:
                yield processes
            finally:
                happened.append("parted")

    def failing(_: object) -> None:
        raise InputError("failed")

    monkeypatch.setattr(loop, "joined", parting)
    monkeypatch.setattr(iterative_gan.IterativeGANMethod, "close", lambda _: happened.append("closed"))
    if fails:
        monkeypatch.setattr(iterative_gan.IterativeGANMethod, "iterate", failing)
    with pytest.raises(InputError, match="failed") if fails else nullcontext():
        train(options(tiny, tmp_path / "run", iterations=1))
    assert happened == ["closed", "parted"]


def test_another_seed_gives_another_model(tiny: dict[str, Any], unbroken: Path, tmp_path: Path) -> None:
    train(options(tiny, tmp_path / "run", iterations=3, seed=1, balance_ratio=1.05))
    ours, theirs = tensors_of(tmp_path / "run", 3), tensors_of(unbroken, 3)
    assert not torch.equal(ours["model/generator.project.weight"], theirs["model/generator.project.weight"])


def test_a_finished_run_has_nothing_to_train(
    tiny: dict[str, Any], unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (unbroken / "log.jsonl").read_bytes()
    result = train(options(tiny, unbroken, iterations=6, balance_ratio=1.05, resume=True))
    assert result.iteration == 6
    assert result.samples.suffix == ".png"
    assert "already at iteration 6 of 6" in capsys.readouterr().out
    assert (unbroken / "log.jsonl").read_bytes() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_on_a_gpu_goes_on_where_it_was(tiny: dict[str, Any], tmp_path: Path, precision: str) -> None:
    """There the iterations are graphs; the order in which its libraries sum may differ between two runs."""
    pytest.importorskip("typeguard", reason="typeguard is not installed, which a saved config is read with")
    settings: dict[str, Any] = {"device": "cuda", "precision": precision, "balance_ratio": 1.05, "lr": 1e-5}
    train(options(tiny, tmp_path / "whole", iterations=6, **settings))
    train(options(tiny, tmp_path / "parts", iterations=3, **settings))
    train(options(tiny, tmp_path / "parts", iterations=6, resume=True, **settings))
    whole, parts = (tensors_of(tmp_path / name, 6) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        difference = (parts[name].double() - value.double()).norm()
        assert difference <= 1e-3 * value.double().norm().clamp_min(1e-6), name


def test_resume_starts_a_run_where_there_is_none(tiny: dict[str, Any], tmp_path: Path) -> None:
    assert train(options(tiny, tmp_path / "new", iterations=1, resume=True)).iteration == 1


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_taken(
    tiny: dict[str, Any], unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(options(tiny, run, iterations=6, balance_ratio=1.05))
    damaged = run / "checkpoints/step-00000006/model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    capsys.readouterr()
    train(options(tiny, run, iterations=6, balance_ratio=1.05, resume=True))
    told = capsys.readouterr().out
    assert "step-00000006/model.safetensors" in told
    assert "at iteration 3 of 6" in told
    assert_same_bits(tensors_of(run, 6), tensors_of(unbroken, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 4}, "--width is 4, but this run was started with 2"),
        ({"seed": 9}, "--seed is 9"),
        ({"lambdas": (1.0, 1.0, 1.0)}, "--lambdas"),
        ({"data": "/nowhere"}, "/nowhere"),
    ],
)
def test_resume_refuses_what_would_change_the_run(
    tiny: dict[str, Any], unbroken: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(options(tiny, unbroken, iterations=7, balance_ratio=1.05, resume=True, **change))


def test_a_second_run_in_the_same_folder_is_refused(tiny: dict[str, Any], unbroken: Path) -> None:
    with pytest.raises(InputError, match="already holds a run"):
        train(options(tiny, unbroken, iterations=6))


@pytest.mark.every_build
def test_ctrl_c_finishes_the_iteration_saves_and_says_how_to_resume(
    tiny: dict[str, Any], unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "igan_fast.train", "--run", str(run), "--iterations", "100000"]
    for name, value in (tiny | {"balance_ratio": 1.05, "checkpoint_every": 100_000}).items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "log.jsonl").exists() or '"losses"' not in (run / "log.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"igan-fast train --run {run} --resume" in out
    stopped_at = newest_checkpoint(run, report=pytest.fail).iteration
    assert f"stopped at iteration {stopped_at} of 100000" in out


def test_a_signal_while_samples_are_drawn_loses_nothing(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = iterative_gan.draw_samples
    signals = [signal.SIGINT]

    def interrupted(*args: Any, **options: Any) -> Image.Image:
        if signals:
            os.kill(os.getpid(), signals.pop())
        return draw(*args, **options)

    monkeypatch.setattr(iterative_gan, "draw_samples", interrupted)
    result = train(options(tiny, tmp_path / "run", iterations=50, sample_every=1, checkpoint_every=100))
    assert result.interrupted
    assert result.checkpoint.name == f"step-{result.iteration:08d}"
    assert result.iteration == 2


@pytest.mark.every_build
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_the_run_and_names_iteration_term_and_last_good_checkpoint(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    call, calls = TrainStep.__call__, []

    def poisoned(self: TrainStep, *batch: torch.Tensor) -> Any:
        calls.append(1)
        losses = call(self, *batch)
        return losses._replace(g_pixel=losses.g_pixel * value) if len(calls) == 5 else losses

    monkeypatch.setattr(TrainStep, "__call__", poisoned)
    with pytest.raises(InputError, match=r"iteration 5: g_pixel is (nan|inf).*step-00000003"):
        train(options(tiny, tmp_path / "run", iterations=9))
    assert [p.name for p in (tmp_path / "run/checkpoints").glob("step-*")] == ["step-00000003"]


def test_weights_that_an_update_broke_are_never_saved(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, calls = TrainStep.__call__, []

    def breaking(self: TrainStep, *batch: torch.Tensor) -> Any:
        calls.append(1)
        losses = call(self, *batch)
        if len(calls) == 6:
            with torch.no_grad():
                self.model.generator.project.weight[0, 0] = float("nan")
        return losses

    monkeypatch.setattr(TrainStep, "__call__", breaking)
    with pytest.raises(InputError, match=r"diverged at iteration 6: .*nan.*step-00000003"):
        train(options(tiny, tmp_path / "run", iterations=9))
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir() if p.name != "best.json"] == ["step-00000003"]


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_photos_than_a_batch_and_none_held_out(tiny: dict[str, Any], tmp_path: Path, count: int) -> None:
    result = train(options(tiny, tmp_path / "run", iterations=2, drawn_count=count, image_size=48))
    assert load_model(result.run).iteration == 2
    assert bool(result.metrics) == (count > 1)
    assert result.samples.suffix == ".png"


def test_a_full_disk_stops_with_a_clear_message_and_leaves_the_old_checkpoint_whole(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = save.write_durably

    def full(path: Path, data: bytes) -> None:
        if "00000006" in str(path) and path.name == "optimizer_g.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(save, "write_durably", full)
    run = tmp_path / "run"
    with pytest.raises(InputError, match="disk is full"):
        train(options(tiny, run, iterations=9))
    assert newest_checkpoint(run, report=pytest.fail).iteration == 3
    assert [p.name for p in (run / "checkpoints").glob("step-*")] == ["step-00000003"]


def test_only_the_last_k_and_the_best_are_kept(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(options(tiny, run, iterations=6, checkpoint_every=1, sample_every=6, keep=2))
    kept = {int(p.name[5:]) for p in (run / "checkpoints").glob("step-*")}
    best = json.loads((run / "checkpoints/best.json").read_text())["iteration"]
    assert kept == {5, 6, best}


def test_epochs_are_passes_over_the_training_pictures(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = train(options(tiny, tmp_path / "run", epochs=0.5))
    pictures = load_checkpoint(result.checkpoint).state["loader"]["count"]
    assert result.iterations == -(-pictures // 16)  # half of them, eight at a time


def test_runs_without_average_balance_or_all_attributes(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = train(
        options(
            tiny,
            tmp_path / "run",
            iterations=2,
            ema_decay=0.0,
            balance=False,
            attributes=("Bald", "Young"),
            precision="bf16",
            preset="paper",
        )
    )
    loaded = load_model(result.run)
    assert loaded.attributes == ("Bald", "Young")
    assert loaded.config["sample_attributes"] == ["Bald", "Young"]
    assert loaded.config["precision"] == "bf16"
    assert not loaded.model.arguments()["signed_labels"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": ("Smilling",)}, "Smilling.*Smiling"),
        ({"sample_attributes": ("Nose",)}, "--sample-attributes: unknown attribute 'Nose'"),
        ({"data": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_bad_data_options_leave_nothing_behind(
    tiny: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(options(tiny, tmp_path / "run", iterations=2, **change))
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_train_in_one_folder(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run), pytest.raises(InputError, match="another process is training there"):
        train(options(tiny, run, iterations=1))
    assert train(options(tiny, run, iterations=1)).iteration == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_came_to_be_while_the_data_were_opened(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    """It is not written over: refused, or with ``resume`` continued."""
    run, open_data, others = tmp_path / "run", loop.open_data, []

    def slowly(config: TrainConfig, **more: Any) -> Any:
        if not others:
            others.append(options(tiny, run, iterations=2))
            train(others[0])
        return open_data(config, **more)

    monkeypatch.setattr(loop, "open_data", slowly)
    ours = options(tiny, run, iterations=3, resume=resume)
    if resume:
        assert train(ours).iteration == 3
        assert [record["kind"] for record in read_log(run / "log.jsonl")].count("start") == 2
        return
    with pytest.raises(InputError, match="already holds a run; continue it with --resume"):
        train(ours)
    assert TrainConfig.load(run).iterations == 2
    assert newest_checkpoint(run, report=pytest.fail).iteration == 2
    assert any(record["kind"] == "losses" for record in read_log(run / "log.jsonl"))


@pytest.mark.parametrize(
    ("edit", "message"), [({"width": 4}, "--width is 4"), ({"attributes": ["Male"]}, "--attributes is")]
)
def test_resume_refuses_a_config_that_was_edited(
    tiny: dict[str, Any], unbroken: Path, tmp_path: Path, edit: dict[str, Any], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    config = json.loads((run / "config.json").read_text()) | {"iterations": 9, "sample_attributes": None} | edit
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(TrainConfig.load(run), resume=True))

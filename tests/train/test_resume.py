"""A run goes on with what it was trained on and with nothing else, whatever the folder is called."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import edit_state, edit_tensors, remove_group, run_files
from PIL import Image

from igan_fast.checkpoint import load_checkpoint, load_model
from igan_fast.checkpoint.find import newest_checkpoint
from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError
from igan_fast.train import TrainConfig, train
from igan_fast.train.resume import check_data, data_fingerprint

NAMES = ("Smiling", "Male", "Young")
#: Of the photos: train, val and test, as CelebA's partition file counts them.
PARTITION = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2]


def write_faces(
    folder: Path,
    *,
    seed: int = 0,
    labels: Callable[[np.ndarray], np.ndarray] = lambda labels: labels,
    partition: list[int] = PARTITION,
    names: tuple[str, ...] = NAMES,
) -> Path:
    """Twelve photos of noise with labels, in CelebA's form."""
    folder.mkdir(parents=True)
    photos = folder / "img_align_celeba"
    photos.mkdir()
    rng = np.random.default_rng(seed)
    marks = labels(np.random.default_rng(7).integers(0, 2, (len(PARTITION), len(names))))
    rows = []
    for index in range(len(PARTITION)):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(photos / f"{index:03d}.png")
        rows.append(f"{index:03d}.png " + " ".join(str(2 * mark - 1) for mark in marks[index]))
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), " ".join(names), *rows]) + "\n")
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{index:03d}.png {part}\n" for index, part in enumerate(partition))
    )
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "faces")


@pytest.fixture(scope="module")
def trained(tiny: dict[str, Any], faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one iteration on ``faces``."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train(TrainConfig(**tiny | {"data": str(faces), "run": run, "iterations": 1, "batch_size": 4}))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def go_on(run: Path, **changes: Any) -> Any:
    return train(dataclasses.replace(TrainConfig.load(run), iterations=2, resume=True, **changes))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"seed": 1}, "photos"),
        ({"labels": lambda labels: 1 - labels}, "labels"),
        ({"labels": lambda labels: labels ^ (np.arange(labels.size).reshape(labels.shape) == 31)}, "labels"),
        ({"partition": [0] * 7 + [2, 1, 1, 2, 2]}, "train"),
        ({"partition": [0] * 8 + [2, 2, 1, 1]}, "val"),
    ],
    ids=["other photos", "inverted labels", "one label", "other partition", "other validation photos"],
)
def test_other_data_of_the_same_number_are_refused(
    run: Path, faces: Path, tmp_path: Path, change: dict[str, Any], part: str
) -> None:
    before = run_files(run)
    other = write_faces(tmp_path / "other", **change)
    with pytest.raises(InputError, match="not those that this run was trained on") as caught:
        go_on(run, data=str(other))
    message = str(caught.value)
    assert message.startswith(f"--data {other}: ")
    assert f"expected {faces}: 12 photos, {part} " in message
    assert "found 12 photos" in message
    assert "\n" not in message
    assert run_files(run) == before


def test_labels_that_changed_in_the_same_folder_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "faces")
    options = tiny | {"data": str(folder), "run": tmp_path / "run", "batch_size": 4}
    train(TrainConfig(**options, iterations=1))
    table = folder / "list_attr_celeba.txt"
    table.write_text("".join(line.replace("-1", "+").replace(" 1", " -1").replace("+", "1") if "png" in line else line
                             for line in table.read_text().splitlines(keepends=True)))  # fmt: skip
    with pytest.raises(InputError, match="its labels are not those"):
        train(TrainConfig(**options, iterations=2, resume=True))


def test_other_order_of_the_attributes_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_faces(tmp_path / "other", names=("Male", "Smiling", "Young"))
    with pytest.raises(InputError, match="its attributes are Male, Smiling, Young, but this run learns Smiling, Male"):
        go_on(run, data=str(other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "paper"}, "--split is paper"),
        ({"image_size": 48}, "--image-size is 48"),
        ({"attributes": ("Male", "Smiling", "Young")}, "--attributes is"),
        ({"drawn_count": 49}, "--drawn-count is 49"),
        ({"seed": 3}, "--seed is 3"),
        ({"validation_images": 3}, "--validation-images is 3, but this run was started with 4"),
    ],
)
def test_options_that_decide_the_data_are_refused_before_any_photo_is_prepared(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("igan_fast.train.loop.open_data", lambda config: pytest.fail("the data were opened"))
    with pytest.raises(InputError, match=message):
        go_on(run, **change)


@pytest.mark.parametrize("form", ["moved", "zip"])
def test_the_same_photos_elsewhere_and_in_another_form_go_on(run: Path, faces: Path, tmp_path: Path, form: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(faces, other)
    if form == "zip":
        with zipfile.ZipFile(other / "img_align_celeba.zip", "w") as archive:
            for photo in sorted((other / "img_align_celeba").iterdir()):
                archive.write(photo, f"img_align_celeba/{photo.name}")
        shutil.rmtree(other / "img_align_celeba")
    assert go_on(run, data=str(other)).iteration == 2


def test_a_checkpoint_without_a_fingerprint_goes_on_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_state(run / "checkpoints" / "step-00000001", lambda state: state.pop("data"))
    assert go_on(run).iteration == 2
    assert capsys.readouterr().out.count("kept no fingerprint of its data") == 1
    newest = newest_checkpoint(run, report=pytest.fail)
    assert newest is not None
    assert newest.state["data"]["count"] == 12


def test_the_fingerprint_reads_no_photo() -> None:
    class Unread(np.ndarray[Any, Any]):
        def tobytes(self, order: Any = "C") -> bytes:
            raise AssertionError("the photos were read")

    images = np.zeros((3, 4, 4, 3), np.uint8).view(Unread)
    rows = np.arange(3)
    store = FaceStore(
        images, np.eye(3, dtype=np.uint8), None, {"train": rows[:2], "val": rows[2:]}, ("a", "b", "c"), rows, 4,
        digest="ab" * 32,
    )  # fmt: skip
    assert data_fingerprint(store, "here")["photos"] == "ab" * 32


def test_what_differs_is_named_with_both_sides() -> None:
    saved = {"photos": "a" * 64, "labels": "b" * 64, "train": "c" * 64, "val": "d" * 64, "count": 1000, "named": "/old"}
    check_data(saved, saved | {"named": "/new"}, Path("step"))
    with pytest.raises(InputError) as caught:
        check_data(saved, saved | {"named": "/new", "count": 7, "photos": "e" * 64}, Path("step"))
    assert str(caught.value) == (
        "--data /new: its photos are not those that this run was trained on: found 7 photos, photos eeeeeeeeeeee; "
        "expected /old: 1,000 photos, photos aaaaaaaaaaaa"
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("balance"), "state.json: damaged: balance is missing"),
        (lambda state: state.update(loader=[]), r"state.json: damaged: loader is \[\]"),
        (lambda state: state.update(ema_count=-1), "ema_count is -1"),
        (lambda state: state.update(ema_count=1.5), "ema_count is 1.5"),
        (lambda state: state.update(metrics={"rebuild_l1": "x"}), "metrics.rebuild_l1 is 'x', expected a number"),
        (lambda state: state.update(data={}), "data.photos is missing"),
        (lambda state: state.update(config={}), "state.json: damaged: attributes is missing"),
        (lambda state: state["config"].update(width="2"), "state.json: width is '2'"),
        (lambda state: state["model"]["arguments"].update(image_size=2048), "has image_size 2048, its config 32"),
        (lambda state: state["model"]["arguments"].update(width=None), "width is null"),
        (lambda state: state["model"].update(attributes="abc"), "model.attributes is 'abc', expected a list"),
        (lambda state: state["loader"].update(position=-1), "state.json: damaged: loader.position is -1, expected"),
        (lambda state: state["loader"].update(position=True), "loader.position is True, expected"),
        (lambda state: state["balance"].update(pending=[1]), "state.json: damaged: balance state: pending"),
        (lambda state: state["loader"].update(count=9), "state.json: damaged: loader state: its number of training"),
        (lambda state: state["balance"].update(d_sum=[]), r"balance.d_sum is \[\], expected a number"),
    ],
)
def test_a_state_with_a_wrong_value_is_one_line(run: Path, edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    folder = run / "checkpoints" / "step-00000001"
    edit_state(folder, edit)
    before = run_files(run)
    with pytest.raises(InputError, match=message) as caught:
        go_on(run)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert run_files(run) == before


@pytest.mark.parametrize(
    ("group", "edit", "message"),
    [
        ("optimizer_d", lambda t: t.clear(), "discriminator.down1.weight/step is missing"),
        ("optimizer_g", lambda t: t.pop("generator.project.weight/exp_avg"), "project.weight/exp_avg is missing"),
        ("optimizer_g", lambda t: t["generator.project.weight/exp_avg_sq"].sub_(1), "no mean of squares below 0"),
        ("optimizer_g", lambda t: t["generator.project.weight/step"].fill_(0.5), "is 0.5, expected a whole number"),
        ("model", lambda t: t.update({"generator.project.weight": t["generator.project.weight"].int()}),
         "generator.project.weight is int32"),
        ("model", lambda t: t.update({"generator.project.weight": t["generator.project.weight"].cfloat()}),
         "generator.project.weight is complex64"),
        ("model", lambda t: t.update({"generator.project.weight": t["generator.project.weight"].double()}),
         "generator.project.weight is float64"),
        ("model", lambda t: t["generator.project.weight"].view(-1)[3].fill_(float("nan")),
         "generator.project.weight holds nan"),
        ("ema", lambda t: t["generator.project.weight"].view(-1)[3].fill_(float("-inf")),
         "generator.project.weight holds -inf"),
        ("model", lambda t: t.pop("classifier.labels.bias"), "classifier.labels.bias is missing"),
        ("model", lambda t: t.update(extra=torch.zeros(1)), "holds extra, which is not expected"),
        ("model", lambda t: t.update({"classifier.labels.bias": torch.zeros(4)}),
         r"classifier.labels.bias is float32 \(4,\), expected float32 \(3,\)"),
        ("ema", lambda t: t["discriminator.down2.norm.running_var"].sub_(9), "no variance below 0"),
        ("rng", lambda t: t["noise"].fill_(255), "rng.safetensors"),
        ("rng", lambda t: t.update(noise=torch.zeros(3, dtype=torch.uint8)), r"noise is uint8 \(3,\)"),
        ("rng", lambda t: t.clear(), "noise is missing"),
        ("labels", lambda t: t.pop("photos"), "photos is missing"),
        ("edited", lambda t: t["z"].fill_(1.5), "holds codes beyond −1 and 1"),
        ("edited", lambda t: t["labels"].view(-1)[0].fill_(0.5), "labels other than 0 and 1"),
        ("edited", lambda t: t["z"].view(-1)[0].fill_(float("nan")), "z holds nan"),
        ("edited", lambda t: t.update(z=torch.zeros(3, 5)), r"z is float32 \(3, 5\), expected float32 \(4, 5\)"),
        ("edited", lambda t: t.pop("labels"), "labels is missing"),
        ("optimizer_z", lambda t: t.pop("classifier.latent.bias/step"), "classifier.latent.bias/step is missing"),
        ("optimizer_z", lambda t: t["classifier.latent.bias/exp_avg_sq"].sub_(1), "no mean of squares below 0"),
        ("labels", lambda t: t.update(together=torch.zeros(2, 2).long()), r"together is int64 \(2, 2\), expected"),
    ],
)  # fmt: skip
def test_tensors_that_no_run_of_ours_saves_are_refused_by_name(
    run: Path, group: str, edit: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    folder = run / "checkpoints" / "step-00000001"
    edit_tensors(folder, group, edit)
    before = run_files(run)
    with pytest.raises(InputError, match=message) as caught:
        go_on(run)
    assert f"{folder / group}.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert run_files(run) == before
    if group in ("ema", "labels"):
        with pytest.raises(InputError, match=message):
            load_model(run)


def test_a_checkpoint_without_counts_of_labels_goes_on_and_gets_them(run: Path) -> None:
    remove_group(run / "checkpoints" / "step-00000001", "labels")
    assert "labels" not in load_checkpoint(run / "checkpoints" / "step-00000001").tensors
    assert go_on(run).iteration == 2
    counts = load_checkpoint(run / "checkpoints" / "step-00000002").tensors["labels"]
    assert int(counts["photos"]) == PARTITION.count(0)
    assert counts["together"].shape == (3, 3)


def test_a_group_that_is_missing_is_named(run: Path) -> None:
    folder = run / "checkpoints" / "step-00000001"
    remove_group(folder, "optimizer_g")
    with pytest.raises(InputError, match=r"optimizer_g\.safetensors: missing"):
        go_on(run)
    assert load_checkpoint(folder).iteration == 1

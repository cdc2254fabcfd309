"""``FaceEditor`` on an export, against itself on the run; the example that needs no PyTorch; damaged exports."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import NAMES, needs_onnx, photos
from PIL import Image

from igan_fast import FaceEditor
from igan_fast.app import cli
from igan_fast.checkpoint import LoadedModel
from igan_fast.errors import InputError, PackageMissing
from igan_fast.export import export_model, files
from igan_fast.export.folder import check_folder
from igan_fast.export.networks import Generator
from igan_fast.export.onnx_model import OnnxModel

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnx_edit.py"

pytestmark = needs_onnx


def assert_same(found: list[Image.Image], expected: list[Image.Image]) -> None:
    """Equal, except where a value lies between two levels."""
    difference = np.abs(np.stack(found).astype(int) - np.stack(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert np.stack(expected).std() > 20


@pytest.mark.every_build
def test_the_editor_gives_the_results_of_the_run(run: Path, onnx_folder: Path) -> None:
    exported, plain = FaceEditor.load(onnx_folder, batch_size=2), FaceEditor.load(run)
    assert exported.attributes == NAMES
    images = list(photos(5))
    for found, expected in zip(exported.recognise(images), plain.recognise(images), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    assert_same(exported.rebuild(images), plain.rebuild(images))
    assert exported.companions_of(NAMES[:2]) == plain.companions_of(NAMES[:2]) != {}
    for changes, how in (
        ({"Smiling": 1, "Bangs": "flip"}, {}),
        ({"Eyeglasses": 0.25}, {"strength": 0.5}),
        ({"Eyeglasses": 1}, {"strength": 1, "companions": False}),
    ):
        assert_same(exported.transform(images, changes, **how), plain.transform(images, changes, **how))
    assert_same(exported.generate(5, {"Bangs": 1}, seed=3), plain.generate(5, {"Bangs": 1}, seed=3))
    assert exported.face_search()._align == plain.face_search()._align == "off", "its faces are drawn"


def test_commands_take_an_export(run: Path, onnx_folder: Path, tmp_path: Path) -> None:
    Image.fromarray(photos(1)[0]).save(tmp_path / "a.png")
    for name, model in (("onnx", onnx_folder), ("run", run)):
        words = ["transform", tmp_path / "a.png", "--set", "Bangs=1", "--model", model, "--out", tmp_path / name]
        assert cli.main([str(word) for word in words]) == 0
    pictures = [Image.open(tmp_path / name / "a-edited.png") for name in ("onnx", "run")]
    assert_same(pictures[:1], pictures[1:])


def test_the_methods_of_a_model(onnx_folder: Path, run: Path) -> None:
    model, plain = OnnxModel(onnx_folder), FaceEditor.load(run).model
    x = torch.from_numpy(photos(3)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        assert torch.allclose(model.rebuild(x), plain.rebuild(x), atol=2e-5)
        assert torch.allclose(model.transform(x, {1: 1.0}), plain.transform(x, {1: 1.0}), atol=2e-5)
        assert torch.allclose(model.encode(x).label_logits, plain.encode(x).label_logits, atol=1e-3)
    assert list(model.parameters()) == []


def test_a_folder_whose_name_is_no_text(onnx_folder: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/f\xfcr"))
    shutil.copytree(onnx_folder, folder)
    assert FaceEditor.load(folder).recognise(photos(1)[0]) == FaceEditor.load(onnx_folder).recognise(photos(1)[0])


def test_weights_in_a_second_file(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a large model have to be."""
    monkeypatch.setattr(files, "_ONE_FILE", 1000)
    monkeypatch.setattr("igan_fast.export.folder.NETWORKS", (Generator,))
    export_model(loaded, tmp_path / "out")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert sizes.keys() == {"generator.onnx", "generator.onnx.data", "model.json"}
    assert sizes["generator.onnx"] < sizes["generator.onnx.data"] / 2
    assert check_folder(tmp_path / "out", force=True) == tmp_path / "out", "an export as any other"


def test_what_an_export_does_not_have(onnx_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^device: found 'cuda', expected 'cpu' or 'auto': an exported model runs on"):
        FaceEditor.load(onnx_folder, device="cuda")
    with pytest.raises(InputError, match=r"^weights: found 'model', expected 'ema': .* is an export"):
        FaceEditor.load(onnx_folder, weights="model")


def set_entry(name: str, value: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "model.json").read_text())
        content[name] = value
        (folder / "model.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "generator.onnx").unlink(), r"generator.onnx: missing; expected the ONNX files"),
        (lambda folder: (folder / "recogniser.onnx").write_bytes(b"cut"), r"recogniser.onnx: ONNX Runtime cannot read"),
        (lambda folder: (folder / "model.json").write_bytes(b"{"), r"model.json: damaged: not JSON"),
        (
            set_entry("format", "igan_fast export 9"),
            r"its format is 'igan_fast export 9', expected 'igan_fast export 1",
        ),
        (set_entry("image_size", 64), r"recogniser.onnx: does not fit model.json \("),
        (set_entry("latent", 7), r"recogniser.onnx: does not fit model.json: found the outputs \{'probabil"),
        (set_entry("latent", None), r"model.json: damaged: latent is null"),
        (set_entry("attributes", ["A", "B", "C", "C"]), r"found 4 attributes, expected different names"),
        (set_entry("attributes", list("ABCDE")), r"label_samples: found '0001', expected 5 of 0 and 1"),
        (set_entry("label_samples", ["0102"]), r"label_samples: found '0102', expected 4 of 0 and 1"),
        (set_entry("companions", {"least": 0.3, "covariance": [[1.0, 2.0], [3.0]]}), r"companions: "),
        (set_entry("companions", {"least": 0.3, "covariance": [[1.0]]}), r"companions are of 1 attributes, expected 4"),
    ],
)
def test_a_damaged_export_is_one_line(
    onnx_folder: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(onnx_folder, folder)
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        FaceEditor.load(folder)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_without_onnx_runtime(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(files.importlib, "import_module", missing)
    with pytest.raises(PackageMissing, match=r"No module named 'onnxruntime'\); pip install onnxruntime$"):
        FaceEditor.load(onnx_folder)


def test_the_example_edits_as_the_editor_and_imports_no_pytorch(
    run: Path,
    onnx_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(photos(1)[0]).resize((90, 60), Image.Resampling.BICUBIC).save(photo)
    out = tmp_path / "edited.png"
    monkeypatch.setattr(sys, "argv", ["onnx_edit.py", *map(str, (onnx_folder, photo, out)), "Smiling=1"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "igan_fast"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises an error
    runpy.run_path(os.fspath(EXAMPLE))
    monkeypatch.undo()
    editor = FaceEditor.load(run)
    assert editor.companions_of(["Smiling"])["Smiling"]
    assert_same([Image.open(out)], [editor.transform(photo, {"Smiling": 1}, keep="nothing")])
    recognised = editor.recognise(photo)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("%  ")[1] for line in printed] == sorted(recognised, key=lambda name: -recognised[name])

"""The folder of an export is complete and checked, or not there; nothing else is ever written over."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import needs_onnx

from igan_fast.app import cli
from igan_fast.checkpoint import LoadedModel
from igan_fast.errors import InputError, PackageMissing
from igan_fast.export import export_model, files, folder

FILES = ["editor.pt2", "generator.pt2", "model.json", "recogniser.pt2"]


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def fake_write(graph: Any, path: Path, extra: Any) -> None:
    """In place of ``write_torch``, for tests of the folder alone."""
    path.write_text("new")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks are neither traced nor compared."""
    monkeypatch.setattr(folder, "program", lambda network: None)
    monkeypatch.setattr(folder, "write_torch", fake_write)
    monkeypatch.setattr(folder, "open_torch", lambda path, outputs: None)
    monkeypatch.setattr(folder, "check_network", lambda *_: 0.0)


def run_cli(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@needs_onnx
def test_the_command(onnx_folder: Path, onnx_output: str) -> None:
    """It was run by the fixture ``onnx_folder``, without a message on stderr."""
    *each, last = onnx_output.splitlines()
    assert [line.split(":")[0] for line in each] == ["recogniser.onnx", "generator.onnx", "editor.onnx"]
    assert all("of the model" in line for line in each)
    assert last == f"wrote 4 files to {onnx_folder}"
    assert names(onnx_folder.parent) == ["onnx"]
    assert names(onnx_folder) == ["editor.onnx", "generator.onnx", "model.json", "recogniser.onnx"]
    assert not logging.root.manager.disable


def test_the_random_numbers_of_the_caller_go_on(loaded: LoadedModel, tmp_path: Path, quick: None) -> None:
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    export_model(loaded, tmp_path / "out", ["torch"])
    assert torch.equal(torch.rand(1), drawn)


def test_both_formats(run: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PACKAGES", ())
    monkeypatch.setattr(folder, "write_onnx", lambda graph, network, path, texts: path.write_text("onnx"))
    monkeypatch.setattr(folder, "open_onnx", lambda path: None)
    assert run_cli("export", "--model", run, "--out", tmp_path / "out", "--format", "both") == 0
    assert names(tmp_path / "out") == sorted([*FILES, "editor.onnx", "generator.onnx", "recogniser.onnx"])
    described = json.loads((tmp_path / "out/model.json").read_text())
    assert described["networks"]["editor"]["files"] == ["editor.onnx", "editor.pt2"]


def test_an_earlier_export_is_replaced_with_force_only(
    run: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out, command = tmp_path / "out", ["export", "--model", run, "--format", "torch", "--out"]
    out.mkdir()  # an empty folder is as good as none
    assert run_cli(*command, out) == 0
    (out / "editor.pt2").write_text("old")
    (out / "editor.onnx").write_text("old")
    assert run_cli(*command, out) == 2
    assert capsys.readouterr().err == f"igan-fast: error: {out}: exists already; --force writes over it\n"
    assert (out / "editor.pt2").read_text() == "old"
    (tmp_path / "link").symlink_to(out)
    assert run_cli(*command, tmp_path / "link", "--force") == 0
    assert (tmp_path / "link").is_symlink()
    assert names(out) == FILES, "what the new export does not have is gone"
    assert (out / "editor.pt2").read_text() == "new"
    assert names(tmp_path) == ["link", "out"]


@pytest.mark.parametrize("force", [True, False])
def test_what_is_no_export_is_never_replaced(
    run: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str], force: bool
) -> None:
    home = tmp_path / "home"
    (home / "editor.pt2").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "mine" / "model.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    (checkpoint,) = (run / "checkpoints").iterdir()
    for out, message in (
        (home, "holds editor.pt2, which no export writes; expected a new folder"),
        (tmp_path / "mine", "holds thesis.txt, which no export writes; expected a new folder"),
        (tmp_path / "file", "found a file, expected a folder"),
        (tmp_path / "file" / "out", f"cannot be written: {tmp_path / 'file'} is a file, expected a folder"),
        (run, "holds checkpoints, which no export writes"),
        (checkpoint / "out", f"lies in the model {run / 'checkpoints'}; expected another folder"),
    ):
        words = ["export", "--model", run, "--out", out, "--format", "torch", *["--force"] * force]
        assert run_cli(*words) == 2
        error = capsys.readouterr().err
        assert f"{out}: {message}" in error
        assert error.count("\n") == 1
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"
    assert not (checkpoint / "out").exists()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(
    loaded: LoadedModel, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    export_model(loaded, tmp_path / "out", ["torch"])
    (tmp_path / "out/editor.pt2").write_text("earlier")

    def fail(graph: Any, path: Path, extra: Any) -> None:
        path.write_text("half")
        if path.name == "generator.pt2":
            raise failure

    monkeypatch.setattr(folder, "write_torch", fail)
    expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
    for place in ("out", "new"):
        with pytest.raises(expected, match="disk is full" if expected is InputError else None):
            export_model(loaded, tmp_path / place, ["torch"], force=True)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out/editor.pt2").read_text() == "earlier"


def test_an_earlier_export_returns_if_the_new_one_cannot_take_its_place(
    loaded: LoadedModel, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(loaded, tmp_path / "out", ["torch"])
    (tmp_path / "out/editor.pt2").write_text("earlier")
    rename, renamed = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        renamed.append(target)
        if len(renamed) == 2:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(InputError, match="cannot write"):
        export_model(loaded, tmp_path / "out", ["torch"], force=True)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out/editor.pt2").read_text() == "earlier"


def test_a_file_that_differs_from_the_model_is_not_kept(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from igan_fast.export.check import expected_outputs, sample_inputs
    from igan_fast.export.networks import Generator

    model = folder._reference(loaded)
    network, exact = Generator(model).eval(), copy.deepcopy(model).double()
    assert expected_outputs(network, exact, sample_inputs(network, 3))["pictures_float"].std() > 0.05
    for change, message in (
        (2e-5, r"^generator.pt2: differs from the model by 2.0e-05 in pictures_float, in a batch of 1; expected at mo"),
        (np.nan, r"differs from the model by nan in pictures_float"),
        (0.0, r"pictures are off by \d+.\d\d of 255 levels"),
    ):

        def wrong(inputs: Any, change: float = change) -> dict[str, Any]:
            floats = expected_outputs(network, exact, inputs)["pictures_float"] + change
            return {"pictures_float": floats, "pictures": np.floor(255 * floats - 1)}

        with monkeypatch.context() as patch:
            patch.setattr(folder, "NETWORKS", (Generator,))
            patch.setattr(folder, "program", lambda network: None)
            patch.setattr(folder, "write_torch", fake_write)
            patch.setattr(folder, "open_torch", lambda path, outputs, wrong=wrong: wrong)
            with pytest.raises(InputError, match=message):
                export_model(loaded, tmp_path / "out", ["torch"])
    assert names(tmp_path) == []


def test_missing_packages_are_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.import_module

    def without(name: str, *package: str) -> Any:
        if name == "onnxscript":
            raise ModuleNotFoundError("No module named 'onnxscript'")
        return None if name in files.PACKAGES else find(name, *package)

    monkeypatch.setattr(importlib, "import_module", without)
    assert run_cli("export", "--model", run, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        "igan-fast: error: export: ONNX files cannot be written (No module named 'onnxscript'); "
        "pip install onnx onnxscript onnxruntime\n"
    )
    assert names(tmp_path) == []
    with pytest.raises(PackageMissing):
        files.check_packages()


def test_other_bad_input(run: Path, loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (
            ["--model", run, "--out", tmp_path / "out", "--format", "tflite"],
            "--format: found 'tflite', expected onnx, ",
        ),
        (["--model", tmp_path / "none", "--out", tmp_path / "out", "--format", "torch"], "none"),
        (["--model", run], "export needs --out FOLDER too"),
    ):
        assert run_cli("export", *words) == 2
        assert message in capsys.readouterr().err
    for formats in ((), ("onnx", "tflite")):
        with pytest.raises(InputError, match=r"^formats: found .*, expected of onnx, torch"):
            export_model(loaded, tmp_path / "out", formats)  # type: ignore[arg-type]
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(loaded: LoadedModel, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no permission to write"):
        export_model(loaded, tmp_path / "out", ["torch"])

"""A small model with vivid pictures, and its export, which is written once for all tests."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from export_cases import NAMES, photos
from vivid_models import vivid

from igan_fast import IterativeGAN
from igan_fast.app import cli
from igan_fast.checkpoint import LoadedModel, load_model
from igan_fast.checkpoint.labels import counted_labels
from igan_fast.data import to_float
from igan_fast.export import export_model
from igan_fast.train.save import save_checkpoint


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that is untrained, but has vivid pictures and verdicts on both sides of 0.5."""
    torch.manual_seed(0)
    model = vivid(IterativeGAN(image_size=48, attributes=len(NAMES), latent=6, width=4, film=True, signed_labels=True))
    with torch.no_grad():
        model.classifier.labels.weight.mul_(100)
        logits = model.eval().encode(to_float(torch.from_numpy(photos(8)))).label_logits
        model.classifier.labels.bias.sub_(logits.median(dim=0).values)
    labels = torch.tensor([[0, 0, 0, 1]] * 5 + [[1, 1, 0, 0]] * 4 + [[0, 1, 1, 0]] * 2 + [[1, 0, 0, 1]])
    described = {
        "arguments": model.arguments(),
        "attributes": list(NAMES),
        "label_samples": ["0001", "1100", "0110"],
    }
    folder = tmp_path_factory.mktemp("run")
    tensors = {"model": model.state_dict(), "labels": counted_labels(labels)}
    save_checkpoint(folder, 7, tensors, {"model": described, "config": {"data": "drawn"}})
    return folder


@pytest.fixture(scope="session")
def loaded(run: Path) -> LoadedModel:
    return load_model(run)


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """``igan-fast export`` has written it; a test that asks for ``onnx_output`` sees what it printed."""
    folder = tmp_path_factory.mktemp("export") / "new" / "onnx"
    said, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(errors):
        assert cli.main(["export", "--model", str(run), "--out", str(folder)]) == 0
    assert errors.getvalue() == ""
    (folder.parents[1] / "printed.txt").write_text(said.getvalue())
    return folder


@pytest.fixture
def onnx_output(onnx_folder: Path) -> str:
    return (onnx_folder.parents[1] / "printed.txt").read_text()


@pytest.fixture(scope="session")
def torch_folder(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "torch"
    export_model(loaded, folder, ["torch"])
    return folder

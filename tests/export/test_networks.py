"""The exported networks against PyTorch: the model's own methods are the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import NAMES, needs_onnx, photos
from numpy.typing import NDArray

from igan_fast.checkpoint import LoadedModel
from igan_fast.data import to_uint8
from igan_fast.export.networks import NETWORKS

#: Runs a network of an export by its name: the inputs by name, in order; returns the outputs by name.
Call = Callable[..., dict[str, NDArray[Any]]]


@pytest.fixture(scope="module", params=[pytest.param("onnx", marks=needs_onnx), "torch"])
def call(request: pytest.FixtureRequest) -> Call:
    """Opens the files with nothing but ONNX Runtime and PyTorch themselves."""
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    described = json.loads((folder / "model.json").read_text())["networks"]
    opened: dict[str, Any] = {}

    def run(name: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        (file,) = described[name]["files"]
        assert list(inputs) == list(described[name]["inputs"])
        if request.param == "onnx":
            import onnxruntime

            session = opened.setdefault(file, onnxruntime.InferenceSession(folder / file))
            results = session.run(list(described[name]["outputs"]), inputs)
        else:
            if file not in opened:
                opened[file] = torch.export.load(folder / file).module()
            results = [result.detach().numpy() for result in opened[file](*map(torch.from_numpy, inputs.values()))]
        return dict(zip(described[name]["outputs"], results, strict=True))

    return run


def signed(images: NDArray[np.uint8]) -> torch.Tensor:
    """In [−1, 1], computed in float64."""
    return torch.from_numpy((images.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))


def assert_pictures(found: dict[str, NDArray[Any]], images: torch.Tensor) -> None:
    expected = ((images.double() + 1) / 2).permute(0, 2, 3, 1).numpy()
    assert found["pictures_float"].dtype == np.float32
    np.testing.assert_allclose(found["pictures_float"], expected, rtol=0, atol=1e-5)
    assert found["pictures"].dtype == np.uint8
    np.testing.assert_allclose(found["pictures"], 255 * expected, rtol=0, atol=0.51)
    assert np.mean(found["pictures"] != to_uint8(images).numpy()) < 1e-3  # where a value lies between two levels


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_recogniser(call: Call, loaded: LoadedModel, batch: int) -> None:
    images = photos(batch)
    images[-1] = 255
    z, logits = loaded.model.encode(signed(images))
    found = call("recogniser", photos=images)
    probabilities = torch.sigmoid(logits).numpy()
    np.testing.assert_allclose(found["probabilities"], probabilities, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["latent"], z.numpy(), rtol=0, atol=1e-5)
    assert found["probabilities"].shape == (batch, len(NAMES))


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_generator(call: Call, loaded: LoadedModel, batch: int) -> None:
    rng = np.random.default_rng(batch)
    z = rng.uniform(-1, 1, (batch, 6)).astype(np.float32)
    c = rng.uniform(-1, 2, (batch, len(NAMES))).astype(np.float32)
    found = call("generator", latent=z, attributes=c)
    assert_pictures(found, loaded.model.generate(torch.from_numpy(z), torch.from_numpy(c)))
    assert found["pictures"].shape == (batch, 48, 48, 3)
    assert found["pictures"].std() > 20, "the pictures are vivid, so an error would show"


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_editor(call: Call, loaded: LoadedModel, batch: int) -> None:
    """NaN keeps what is recognised; the numbers of each row are its own."""
    images = photos(batch)
    wanted = np.full((batch, len(NAMES)), np.nan, np.float32)
    wanted[0, 1] = 1.25
    wanted[-1, 0] = 0
    z, logits = loaded.model.encode(signed(images))
    c = torch.sigmoid(logits)
    c[0, 1], c[-1, 0] = 1.25, 0
    found = call("editor", photos=images, attributes=wanted)
    assert_pictures(found, loaded.model.generate(z, c))
    unchanged = call("editor", photos=images, attributes=np.full_like(wanted, np.nan))
    assert_pictures(unchanged, loaded.model.rebuild(signed(images)))
    assert np.abs(found["pictures_float"] - unchanged["pictures_float"])[0].max() > 0.01


def test_the_editor_is_the_recogniser_and_the_generator(call: Call) -> None:
    images = photos(3)
    codes = call("recogniser", photos=images)
    wanted = codes["probabilities"].copy()
    wanted[:, 2] = 1
    expected = call("generator", latent=codes["latent"], attributes=wanted)
    found = call("editor", photos=images, attributes=wanted)
    np.testing.assert_allclose(found["pictures_float"], expected["pictures_float"], rtol=0, atol=1e-6)


@needs_onnx
def test_odd_inputs_of_onnx(onnx_folder: Path) -> None:
    """No photo, photos that are no contiguous array, another size, another type."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_folder / "recogniser.onnx")
    assert [output.shape for output in session.run(None, {"photos": photos(0)})] == [(0, 4), (0, 6)]
    images = photos(4)
    for view in (images[:, ::-1], images[::2], images.transpose(0, 2, 1, 3), np.asfortranarray(images)):
        (found,) = session.run(["probabilities"], {"photos": view})
        (expected,) = session.run(["probabilities"], {"photos": np.ascontiguousarray(view)})
        np.testing.assert_array_equal(found, expected)
    for wrong in (images[:, :32, :32], images.transpose(0, 3, 1, 2), images.astype(np.float32), images[0]):
        with pytest.raises(Exception, match=r"INVALID_ARGUMENT"):
            session.run(None, {"photos": wrong})


@needs_onnx
def test_the_files_say_what_they_are(onnx_folder: Path, loaded: LoadedModel) -> None:
    import onnx
    import onnxruntime

    written = sorted(path.name for path in onnx_folder.iterdir())
    assert written == ["editor.onnx", "generator.onnx", "model.json", "recogniser.onnx"]
    described = json.loads((onnx_folder / "model.json").read_text())
    assert (described["image_size"], described["latent"], described["iteration"]) == (48, 6, 7)
    assert tuple(described["attributes"]) == NAMES
    assert described["label_samples"] == ["0001", "1100", "0110"]
    assert described["strength"] == 2.0
    for network in NETWORKS:
        path = onnx_folder / f"{network.NAME}.onnx"
        session = onnxruntime.InferenceSession(path)
        texts = session.get_modelmeta().custom_metadata_map
        assert tuple(json.loads(texts["attributes"])) == NAMES
        assert json.loads(texts["moves"]) == described["moves"]
        assert texts["image_size"] == "48"
        interface = described["networks"][network.NAME]
        for kind, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            assert [value.name for value in values] == list(interface[kind])
            for value in values:
                assert value.shape == interface[kind][value.name]["shape"]
                assert value.shape[0] == "batch"
                assert interface[kind][value.name]["type"].removesuffix("32") in value.type
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert (model.ir_version, [(each.domain, each.version) for each in model.opset_import]) == (8, [("", 18)])
        assert model.doc_string == network.MEANING
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes(), "paths of this machine"


def test_moves_are_those_of_the_companions(torch_folder: Path, loaded: LoadedModel) -> None:
    """By hand, from the 12 labels of the run: cov(j, a) / var(a) where the correlation is at least 0.3."""
    described = json.loads((torch_folder / "model.json").read_text())
    labels = np.array([[0, 0, 0, 1]] * 5 + [[1, 1, 0, 0]] * 4 + [[0, 1, 1, 0]] * 2 + [[1, 0, 0, 1]])
    covariance, correlation = np.cov(labels.T, bias=True), np.corrcoef(labels.T)
    expected = {
        name: {
            other: pytest.approx(covariance[a, j] / covariance[a, a], abs=1e-6)
            for j, other in enumerate(NAMES)
            if j != a and abs(correlation[a, j]) >= 0.3
        }
        for a, name in enumerate(NAMES)
    }
    assert described["moves"] == expected
    np.testing.assert_allclose(described["companions"]["covariance"], covariance, atol=1e-12)


def test_torch_files_hold_the_description(torch_folder: Path) -> None:
    texts = {"model.json": ""}
    torch.export.load(torch_folder / "editor.pt2", extra_files=texts)
    assert json.loads(texts["model.json"]) == json.loads((torch_folder / "model.json").read_text())

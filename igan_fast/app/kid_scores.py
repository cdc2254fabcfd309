"""How far sets of images are from the photos as a whole: the KID, and the FID where an Inception network is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.app.report import KIDReport
from igan_fast.baselines.cnn import AttributeCNN
from igan_fast.data import to_float
from igan_fast.errors import PackageMissing
from igan_fast.metrics import (
    FeatureNetwork,
    efficientnet_features,
    frechet_distance,
    inception_features,
    is_inception,
)
from igan_fast.metrics.kid import kid
from igan_fast.progress import progress_bar

__all__ = ["choose_images", "choose_network", "judge_features", "kid_report", "kid_reports"]


def choose_network(file: str | Path | None, device: torch.device) -> tuple[FeatureNetwork | None, str]:
    """Return the network in whose features sets of images are compared.

    Args:
        file: of an Inception network, or None for EfficientNet-Lite0.
        device: where it runs.

    Returns:
        The network, and a line that says what is missing. One of them is None or empty.

    Raises:
        InputError: see ``igan_fast.metrics.inception_features``.
    """
    if file is not None:
        return inception_features(file, device), ""
    try:
        return efficientnet_features(device), ""
    except PackageMissing as error:
        return None, str(error)


def judge_features(name: str, judge: AttributeCNN) -> FeatureNetwork:
    """Return the pooled last feature map of a judge as the features of images."""

    def compute(images: Tensor) -> Tensor:
        return judge.pooled(to_float(images))

    return FeatureNetwork(name, compute, judge.labels.weight.device)


def choose_images(count: int, most: int, *, seed: int = 0) -> NDArray[np.bool_]:
    """Return (count,): True for at most ``most`` of ``count`` images, chosen at random.

    Evenly spaced ones could all have the same attribute flipped, as the attributes take turns.
    """
    chosen = np.zeros(count, np.bool_)
    chosen[np.random.default_rng(seed).choice(count, min(count, most), replace=False)] = True
    return chosen


def kid_reports(
    network: FeatureNetwork | None, sets: Mapping[str, NDArray[np.uint8]], photos: NDArray[np.uint8], progress: bool
) -> dict[str, KIDReport | None]:
    """Compare sets of images (N, S, S, 3) uint8 with photos (M, S, S, 3) uint8. Without a network all are None."""
    reports: dict[str, KIDReport | None] = dict.fromkeys(sets)
    if network is None or len(photos) < 2:
        return reports
    features = network.features(photos)
    for name in progress_bar(sets, shown=progress, desc="Comparing images with photos", unit="set"):
        reports[name] = kid_report(network, sets[name], features)
    return reports


def kid_report(network: FeatureNetwork, images: NDArray[np.uint8], photos: NDArray[np.float32]) -> KIDReport | None:
    """Compare a set of images with photos.

    Args:
        images: (N, S, S, 3) uint8.
        photos: (M, F), the features of the photos.

    Returns:
        None if a set has fewer than two images.
    """
    if min(len(images), len(photos)) < 2:
        return None
    features = network.features(images)
    found = kid(features, photos)
    return KIDReport(
        features=network.name,
        images=len(images),
        value=found.value,
        interval=None if math.isnan(found.low) else (found.low, found.high),
        subset_size=found.subset_size,
        fid=frechet_distance(features, photos) if is_inception(network) else None,
    )

"""Scores of recognition and of rebuilds, computed from arrays and tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igan_fast.data.loader import to_float
from igan_fast.errors import InputError

__all__ = [
    "AttributeScores",
    "ImageQuality",
    "attribute_scores",
    "finite_results",
    "hamming_loss",
    "image_quality",
    "in_eval_mode",
    "majority_labels",
    "quick_validation",
]

Labels = NDArray[Any]  # (N, A): bool, or any numbers that are 0 or 1


class Autoencoder(Protocol):
    """The methods of a model that this module calls. The reference's and the fused ``IterativeGAN`` both have them."""

    def train(self, mode: bool = True) -> Any: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def generate(self, z: Tensor, c: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class AttributeScores:
    """How well labels are predicted. Each score is (A,) float64, one number per attribute."""

    accuracy: NDArray[np.float64]
    """Share of the images with the right answer."""
    balanced_accuracy: NDArray[np.float64]
    """Mean of the recalls of "present" and "absent"; where one of the two never occurs, the recall of the other."""
    f1: NDArray[np.float64]
    """2TP / (2TP + FP + FN); NaN where the attribute neither occurs nor is ever predicted."""


class ImageQuality(NamedTuple):
    """How similar N images are to N others. Each score is (N,) float32."""

    l1: Tensor
    """mean|a − b| of images in [−1, 1]: the paper's pixel loss (Sec. 3.3.1)."""
    psnr: Tensor
    """Peak signal-to-noise ratio in dB."""
    ssim: Tensor
    """Structural similarity (Wang et al. 2004): Gaussian window 11×11 with σ = 1.5, edges mirrored."""


def hamming_loss(predicted: Labels, labels: Labels) -> float:
    """Return the share of wrong answers over all images and attributes (the paper's Fig. 4).

    Raises:
        ValueError: the shapes differ, are not (N, A), or are empty.
    """
    return float(np.mean(_as_bool(predicted, labels) != _as_bool(labels, predicted)))


def attribute_scores(predicted: Labels, labels: Labels) -> AttributeScores:
    """Return the scores of each attribute. Raises ``ValueError`` as ``hamming_loss``."""
    guess, truth = _as_bool(predicted, labels), _as_bool(labels, predicted)
    true_positives = np.sum(guess & truth, axis=0)
    positives, guessed = np.sum(truth, axis=0), np.sum(guess, axis=0)
    negatives = len(truth) - positives
    true_negatives = np.sum(~guess & ~truth, axis=0)
    with np.errstate(invalid="ignore"):  # 0/0 is NaN: a class that never occurs has no recall
        recalls = np.stack([true_positives / positives, true_negatives / negatives])
        f1 = 2 * true_positives / (positives + guessed)
    return AttributeScores(
        accuracy=np.mean(guess == truth, axis=0),
        balanced_accuracy=np.nanmean(recalls, axis=0),
        f1=f1,
    )


def majority_labels(labels: Labels) -> NDArray[np.bool_]:
    """Return (A,): whether more than half of the (N, A) labels have the attribute. This is the best blind guess."""
    majority: NDArray[np.bool_] = np.mean(labels, axis=0) > 0.5
    return majority


def image_quality(images: Tensor, targets: Tensor) -> ImageQuality:
    """Return L1, PSNR and SSIM of each image (N, 3, S, S) in [−1, 1]. Their means are the usual summary."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    # SSIM compares means, so it needs intensities from 0 up.
    ours, theirs = (images.float() + 1) / 2, (targets.float() + 1) / 2
    each = (1, 2, 3)
    psnr = peak_signal_noise_ratio(ours, theirs, data_range=1.0, reduction="none", dim=each)
    ssim = structural_similarity_index_measure(ours, theirs, data_range=1.0, reduction="none")
    assert isinstance(ssim, Tensor)  # it is a tuple only if other results are requested
    return ImageQuality(2 * (ours - theirs).abs().mean(each), psnr, ssim.reshape(len(ours)))


def quick_validation(model: Autoencoder, images: Tensor, labels: Tensor, *, batch_size: int = 100) -> dict[str, float]:
    """Score a model during its training on held-out photos; fast enough to run at each checkpoint.

    Args:
        model: put into eval mode during the call. Afterwards each module has its previous mode again.
        images: (N, S, S, 3) uint8, on the model's device.
        labels: (N, A) in {0, 1}, on the model's device.
        batch_size: the number of images in a batch; the scores do not depend on it.

    Returns:
        ``hamming_loss``, as the function of this name, and ``rebuild_l1``: mean|rebuilt − real| of images in [−1, 1].

    Raises:
        ValueError: there are no images, or the numbers of images and labels differ.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"found {len(images)} images and {len(labels)} rows of labels; expected as many, at least one")
    wrong = torch.zeros((), dtype=torch.float64, device=images.device)
    distance = torch.zeros_like(wrong)
    with in_eval_mode(model):
        for start in range(0, len(images), batch_size):
            x = to_float(images[start : start + batch_size])
            truth = labels[start : start + batch_size]
            z, logits = model.encode(x)
            wrong += ((logits > 0) != (truth > 0.5)).sum()
            distance += (model.generate(z, torch.sigmoid(logits)) - x).abs().sum(dtype=torch.float64)
    pixels = images.numel()
    return {"hamming_loss": wrong.item() / labels.numel(), "rebuild_l1": distance.item() / pixels}


@contextmanager
def in_eval_mode(model: Autoencoder) -> Iterator[None]:
    """Run the block in eval mode and in inference mode. Afterwards each module has its previous mode again, even if
    some modules were in eval mode and others in training mode."""
    before = [(module, module.training) for module in model.modules()]
    model.train(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in before:
            module.training = training


def _as_bool(labels: Labels, other: Labels) -> NDArray[np.bool_]:
    array = np.asarray(labels)
    if array.shape != np.shape(other) or array.ndim != 2 or array.size == 0:
        raise ValueError(f"found labels of shapes {array.shape} and {np.shape(other)}; expected both (N, A), not empty")
    return array.astype(np.bool_)


def finite_results(results: Tensor) -> Tensor:
    """Return ``results``, of any shape, if all are finite.

    Raises:
        InputError: a result is NaN or infinite. Finite weights that are too large can cause this too.
    """
    if not results.isfinite().all():
        raise InputError(
            "model: its results are NaN or infinite; its weights may be too large; take another checkpoint"
        )
    return results

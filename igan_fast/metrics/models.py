"""Runs a model for its scores: eval mode for the duration, and the few scores of a training run's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from igan_fast.data.loader import to_float
from igan_fast.errors import InputError

__all__ = ["Autoencoder", "finite_results", "in_eval_mode", "quick_validation", "validation_sums"]


class _Modes(Protocol):
    """The methods of any module that ``in_eval_mode`` calls."""

    def train(self, mode: bool = True) -> Any: ...
    def modules(self) -> Iterator[nn.Module]: ...


class Autoencoder(_Modes, Protocol):
    """The methods of a model that are called here. The reference's and the fused ``IterativeGAN`` both have them."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def generate(self, z: Tensor, c: Tensor) -> Tensor: ...


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
    wrong, distance = validation_sums(model, images, labels, batch_size=batch_size).tolist()
    return {"hamming_loss": wrong / labels.numel(), "rebuild_l1": distance / images.numel()}


def validation_sums(model: Autoencoder, images: Tensor, labels: Tensor, *, batch_size: int = 100) -> Tensor:
    """Return the sums of which ``quick_validation`` returns the means, so that several processes can share its work.

    Args:
        model, images, labels, batch_size: as of ``quick_validation``; there may be no images.

    Returns:
        (2,) float64, on the device of the images: the number of wrong attributes, and Σ|rebuilt − real|.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=images.device)
    with in_eval_mode(model):
        for start in range(0, len(images), batch_size):
            x = to_float(images[start : start + batch_size])
            truth = labels[start : start + batch_size]
            z, logits = model.encode(x)
            sums[0] += ((logits > 0) != (truth > 0.5)).sum()
            sums[1] += (model.generate(z, torch.sigmoid(logits)) - x).abs().sum(dtype=torch.float64)
    return sums


@contextmanager
def in_eval_mode(model: _Modes) -> Iterator[None]:
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

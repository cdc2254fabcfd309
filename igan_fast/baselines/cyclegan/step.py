"""One training iteration of CycleGAN (Zhu et al., ICCV 2017, Sec. 3 and 4; code: junyanz/pytorch-CycleGAN-and-pix2pix).

x₀ are photos without the attribute, x₁ photos with it; G₁ adds it, G₀ removes it; D₀ and D₁ judge the photos of each
kind. For (v, u) = (0, 1) and (1, 0), with the edited photo x'ᵥ = Gᵥ(xᵤ):

    1  G₀ and G₁ minimise the sum over v of
       mean (Dᵥ(x'ᵥ) − 1)² + 10 · mean|xᵤ − Gᵤ(x'ᵥ)| + 5 · mean|xᵥ − Gᵥ(xᵥ)|
    2  D₀ and D₁ minimise the sum over v of
       ½ (mean (Dᵥ(xᵥ) − 1)² + mean Dᵥ(x″ᵥ)²), where x″ᵥ are edited photos of this and earlier iterations (``pool.py``)

The third term of 1 is the identity loss. The paper has it only where photos are made from paintings (Sec. 5.2), the
code by default. This follows the code.

The learning rate is constant in the first half of the training and then goes to 0 linearly, as in both paper and code
(100 of 200 epochs). There it changes in each epoch, here in each iteration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast import losses as fused_losses
from igan_fast.baselines.cyclegan.networks import CycleGANNetworks
from igan_fast.baselines.cyclegan.pool import ImagePool
from igan_fast.baselines.interface import BaselineStep, LabelledImages
from igan_fast.baselines.optimizers import adam, linear_decay, set_learning_rate, step
from igan_fast.errors import InputError
from igan_fast.reference.ops import widen
from igan_fast.reference.precision import frozen

__all__ = ["CycleGANStep"]

CYCLE_WEIGHT = 10.0

#: Weight of the identity loss: the code's ``lambda_identity``, 0.5, times the weight of the cycle loss.
IDENTITY_WEIGHT = 0.5 * CYCLE_WEIGHT

LEARNING_RATE = 2e-4


class CycleGANStep(BaselineStep):
    """One update of both generators, and one of both discriminators.

    Args:
        networks, iterations, losses: as of ``BaselineStep``.
        pool_size: the number of earlier edited photos that are kept for each discriminator.

    Raises:
        ValueError: ``pool_size`` is below 1.

    Its losses are not multiplied by their weights. ``NAME_0`` belongs to the domain without the attribute: to the
    discriminator of these photos, to the generator that makes them, and to the cycle from them and back.
    """

    BATCH_SIZE: ClassVar[int] = 1
    SHOWN: ClassVar[tuple[str, ...]] = (
        *("d_adversarial_0", "g_adversarial_0", "g_cycle_0"),
        *("d_adversarial_1", "g_adversarial_1", "g_cycle_1"),
    )

    networks: CycleGANNetworks

    def __init__(
        self,
        networks: CycleGANNetworks,
        *,
        iterations: int,
        losses: ModuleType = fused_losses,
        pool_size: int = 50,
    ) -> None:
        super().__init__(networks, iterations=iterations, losses=losses)
        if pool_size < 1:
            raise ValueError(f"pool_size is {pool_size}; expected at least 1")
        self.optimizers = {
            "optimizer_d": adam(networks.discriminators, LEARNING_RATE),
            "optimizer_g": adam(networks.generators, LEARNING_RATE),
        }
        like = next(networks.parameters())
        self._pools = [ImagePool(pool_size, networks.image_size, like) for _ in range(2)]

    @staticmethod
    def domains(labels: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
        """The photos without the attribute, and those with it, as indices of rows.

        Args:
            labels: (N, 1) of the training photos.

        Raises:
            InputError: ``labels`` has another shape, or a domain is empty.
        """
        if labels.ndim != 2 or labels.shape[1] != 1:
            raise InputError(
                f"CycleGAN: found labels of shape {labels.shape}, expected (photos, 1): it edits 1 attribute"
            )
        rows = [np.flatnonzero(labels[:, 0] == value).astype(np.int64) for value in (0, 1)]
        for name, found in zip(("without", "with"), rows, strict=True):
            if not len(found):
                raise InputError(f"CycleGAN: found no training photo {name} the attribute, expected at least one")
        return rows

    def __call__(self, batches: Sequence[LabelledImages], random: torch.Generator) -> Mapping[str, Tensor]:
        """Train one iteration. ``random`` decides what the pools return, first that of domain 0, then of domain 1."""
        photos = [batch.images for batch in batches]
        decay = linear_decay(self.iteration, self.iterations)
        set_learning_rate(self.optimizers.values(), LEARNING_RATE * decay)
        edited, losses_g = self._train_g(photos)
        losses_d = self._train_d(photos, [pool.query(e, random) for pool, e in zip(self._pools, edited, strict=True)])
        self.iteration += 1
        return losses_d | losses_g

    def tensors(self) -> dict[str, Tensor]:
        """The pools: the edited photos, and their number (2,)."""
        counts = torch.tensor([pool.count for pool in self._pools])
        return {"pool_0": self._pools[0].images, "pool_1": self._pools[1].images, "pool_counts": counts}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``tensors``.

        Raises:
            ValueError: a number of photos is not from 0 to the size of the pool, or a pixel is not in [−1, 1].
        """
        counts = tensors["pool_counts"].tolist()
        size = len(self._pools[0].images)
        if not all(0 <= count <= size for count in counts):
            raise ValueError(f"pool_counts is {counts}; expected numbers from 0 to {size}")
        for name in ("pool_0", "pool_1"):
            if not bool((tensors[name].abs() <= 1).all()):  # also false for NaN
                raise ValueError(f"{name} has pixels outside [−1, 1]; expected edited photos")
        for value, pool in enumerate(self._pools):
            pool.images.copy_(tensors[f"pool_{value}"])
            pool.count = int(counts[value])

    def _train_g(self, photos: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Update the generators.

        Args:
            photos: x₀ and x₁.

        Returns:
            The edited photos x'₀ and x'₁, and the losses, all detached.
        """
        generators = self.networks.generators
        edited: list[Tensor] = []
        terms: list[tuple[Tensor, ...]] = []
        with frozen(self.networks.discriminators):
            for value, other in ((0, 1), (1, 0)):
                # Each image is normalised for itself, so one pass of both batches equals two.
                sizes = [len(photos[other]), len(photos[value])]
                fake, same = generators[value](torch.cat([photos[other], photos[value]])).split(sizes)
                adversarial = _least_squares(self.networks.discriminators[value](fake), 1.0)
                cycle = self.losses.pixel_loss(generators[other](fake), photos[other])
                identity = self.losses.pixel_loss(same, photos[value])
                # The backward pass of each direction frees its graph before the next one runs.
                torch.autograd.backward(adversarial + CYCLE_WEIGHT * cycle + IDENTITY_WEIGHT * identity)
                edited.append(fake.detach())
                terms.append((adversarial.detach(), cycle.detach(), identity.detach()))
        step(self.optimizers["optimizer_g"])
        (adversarial_0, cycle_1, identity_0), (adversarial_1, cycle_0, identity_1) = terms
        return edited, {
            "g_adversarial_0": adversarial_0,
            "g_adversarial_1": adversarial_1,
            "g_cycle_0": cycle_0,
            "g_cycle_1": cycle_1,
            "g_identity_0": identity_0,
            "g_identity_1": identity_1,
        }

    def _train_d(self, photos: Sequence[Tensor], edited: Sequence[Tensor]) -> dict[str, Tensor]:
        """Update the discriminators. Returns their losses, detached."""
        losses: dict[str, Tensor] = {}
        for value, discriminator in enumerate(self.networks.discriminators):
            count = len(photos[value])
            predictions = discriminator(torch.cat([photos[value], edited[value].to(photos[value].dtype)]))
            loss = (_least_squares(predictions[:count], 1.0) + _least_squares(predictions[count:], 0.0)) / 2
            torch.autograd.backward(loss)
            losses[f"d_adversarial_{value}"] = loss.detach()
        step(self.optimizers["optimizer_d"])
        return losses


def _least_squares(predictions: Tensor, target: float) -> Tensor:
    return (widen(predictions) - target).square().mean()

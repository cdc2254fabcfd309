"""What a baseline is: its networks, and the step that trains them with the settings of its authors.

Each baseline is a folder with two files: ``networks.py`` (a ``BaselineNetworks``) and ``step.py`` (a ``BaselineStep``).
Everything else (data, loop, checkpoints, log) is that of ``igan_fast.train``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igan_fast import losses as fused_losses

__all__ = ["BaselineNetworks", "BaselineStep", "LabelledImages"]


class LabelledImages(NamedTuple):
    """One batch of one domain."""

    images: Tensor
    """(N, 3, S, S) float32 in [−1, 1]."""
    labels: Tensor
    """(N, A) float32, 0 and 1."""


class BaselineNetworks(nn.Module):
    """The networks of a baseline in one module. A checkpoint holds its ``state_dict``.

    Args:
        image_size: side S of the square images in pixels, a multiple of 16 from 32 up.
        attributes: number A of attributes.
        width: channels of the widest feature maps of the networks; the authors' is 64.

    Raises:
        ValueError: one of them has another value.
    """

    def __init__(self, image_size: int, attributes: int, *, width: int = 64) -> None:
        super().__init__()
        if image_size < 32 or image_size % 16:
            raise ValueError(f"image_size is {image_size}; expected a multiple of 16 from 32 up")
        for name, value in (("attributes", attributes), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.image_size, self.attributes, self.width = image_size, attributes, width

    @property
    def edits(self) -> bool:
        """Whether the networks edit photos. Otherwise they generate images from noise."""
        return type(self).edit is not BaselineNetworks.edit

    def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw noise (n, ``latent``) from a generator on the CPU, with the dtype and on the device of the networks.

        Raises:
            NotImplementedError: the baseline only edits photos.
        """
        raise NotImplementedError(f"{type(self).__name__} does not generate images from noise")

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        """Generate images (N, 3, S, S) in [−1, 1].

        Args:
            z: noise (N, ``latent``), drawn from the baseline's distribution by its ``draw_noise``.
            c: attributes (N, A), 0 and 1. An unconditional baseline does not use them.

        Raises:
            NotImplementedError: the baseline only edits photos.
        """
        raise NotImplementedError(f"{type(self).__name__} does not generate images from noise")

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        """Edit photos.

        Args:
            images: (N, 3, S, S) in [−1, 1].
            labels: their attributes (N, A), 0 and 1.
            changes: the new values, 0 or 1, by the index of the attribute.

        Returns:
            The edited photos (N, 3, S, S) in [−1, 1].

        Raises:
            NotImplementedError: the baseline only generates images.
        """
        raise NotImplementedError(f"{type(self).__name__} does not edit photos")


class BaselineStep(ABC):
    """One training iteration of a baseline.

    Args:
        networks: the networks, on their device, in training mode. With the fused operators, ``fuse`` was called on it.
        iterations: the length of the training, on which a schedule of the learning rate may depend.
        losses: ``igan_fast.losses`` or ``igan_fast.reference.losses``.

    Attributes:
        iteration: the number of iterations done. A resumed run sets it.
        optimizers: the optimisers by name, ``"optimizer_d"`` and ``"optimizer_g"``.
    """

    #: The authors' batch size.
    BATCH_SIZE: ClassVar[int]

    #: The losses that the progress line shows.
    SHOWN: ClassVar[tuple[str, ...]] = ()
    #: The number of iterations after which their costs repeat.
    PERIOD: ClassVar[int] = 1

    optimizers: dict[str, torch.optim.Adam]

    def __init__(self, networks: BaselineNetworks, *, iterations: int, losses: ModuleType = fused_losses) -> None:
        self.networks = networks
        self.iterations = iterations
        self.losses = losses
        self.iteration = 0

    @staticmethod
    def domains(labels: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
        """The photos of each domain, as indices of rows. The step gets a batch of each. By default one domain has all.

        Args:
            labels: (N, A) of the training photos.

        Raises:
            InputError: a domain is empty.
        """
        return [np.arange(len(labels), dtype=np.int64)]

    @abstractmethod
    def __call__(self, batches: Sequence[LabelledImages], random: torch.Generator) -> Mapping[str, Tensor]:
        """Train one iteration, and add 1 to ``iteration``.

        Args:
            batches: one for each of ``domains``.
            random: a generator on the CPU, the only source of random numbers. So a resumed run draws the same ones.

        Returns:
            The losses: detached scalars on the device, always under the same names in the same order. A loss that this
            iteration does not compute has the value that was computed last (0 before the first).
        """

    def tensors(self) -> dict[str, Tensor]:
        """State that a checkpoint holds beside networks and optimisers, such as a pool of images. The names and the
        shapes are the same at each call."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027  # most have nothing to load
        """The inverse of ``tensors``. The tensors are copied to the device of the networks.

        Raises:
            ValueError: a value is impossible. Names and shapes were checked before.
        """

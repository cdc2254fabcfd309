"""One view of every trained method, so that figures and scores treat all alike.

A ``Rebuilder`` draws photos again, a ``PhotoEditor`` changes attributes in photos, a ``FaceGenerator`` draws faces from
noise. ``Ours`` is all three, ``Baseline`` is what its networks can do, ``PerAttribute`` (CycleGAN) edits photos.

The methods take and give images (N, 3, S, S) float32 in [−1, 1]. ``igan_fast.app.paper.images`` has arrays of uint8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from igan_fast.baselines.interface import BaselineNetworks
from igan_fast.checkpoint import LoadedModel
from igan_fast.editor import FaceEditor
from igan_fast.metrics import in_eval_mode
from igan_fast.reference.editing import STRENGTH, Companions, edited_labels
from igan_fast.reference.models import IterativeGAN

__all__ = [
    "Baseline",
    "FaceGenerator",
    "Method",
    "NoEdit",
    "Ours",
    "PerAttribute",
    "PhotoEditor",
    "RebuildOnly",
    "Rebuilder",
]


class Method(Protocol):
    """Any trained method."""

    @property
    def name(self) -> str:
        """What figures and tables call it."""

    @property
    def ours(self) -> bool:
        """Whether figures and tables mark it as ours."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""


class Rebuilder(Method, Protocol):
    """Draws photos again."""

    def rebuild(self, images: Tensor) -> Tensor:
        """Photos (N, 3, S, S) → rebuilt photos (N, 3, S, S)."""


class PhotoEditor(Method, Protocol):
    """Changes attributes in photos."""

    @property
    def editable(self) -> tuple[int, ...]:
        """The indices of the attributes that it can change, ascending."""

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        """Photos (N, 3, S, S), their labels (N, A), and the new values, 0 or 1, by index → edited photos.

        Raises:
            ValueError: the method cannot change one of these attributes.
        """


class FaceGenerator(Method, Protocol):
    """Draws faces from noise and labels."""

    def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n codes (n, latent) on the CPU, from the distribution that the method was trained with."""

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        """Codes (N, latent) and labels (N, A) of 0 and 1 → faces (N, 3, S, S)."""


class Ours:
    """A trained ``IterativeGAN`` as a method.

    Args:
        model: put into eval mode during each call.
        name: what figures and tables call it.
        strength, companions: of the edits, as of ``FaceEditor.transform``; the paper's are 1 and None.
        ours: False for a variant that is compared with ours, such as an ablation.
    """

    def __init__(
        self,
        model: IterativeGAN,
        *,
        name: str = "iterative GAN",
        strength: float = STRENGTH,
        companions: Companions | None = None,
        ours: bool = True,
    ) -> None:
        self.name, self.ours = name, ours
        self.strength, self.companions = strength, companions
        self._model = model
        arguments = model.arguments()
        self.latent: int = arguments["latent"]
        self.editable = tuple(range(arguments["attributes"]))

    @classmethod
    def of(
        cls,
        loaded: LoadedModel | FaceEditor,
        *,
        name: str = "iterative GAN",
        strength: float = STRENGTH,
        companions: bool = True,
        ours: bool = True,
    ) -> Ours:
        """A loaded model or an editor as a method, whose edits take its companions along if ``companions``."""
        along = loaded.companions if companions else None
        return cls(loaded.model, name=name, strength=strength, companions=along, ours=ours)

    @property
    def device(self) -> torch.device:
        return next(self._model.parameters()).device

    def recognise(self, images: Tensor) -> Tensor:
        """Photos (N, 3, S, S) → the probabilities (N, A) of their attributes."""
        with in_eval_mode(self._model):
            return torch.sigmoid(self._model.encode(images)[1])

    def rebuild(self, images: Tensor) -> Tensor:
        with in_eval_mode(self._model):
            return self._model.rebuild(images)

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        """As ``PhotoEditor.edit``. ``labels`` are not used: the model recognises the attributes itself."""
        _check_editable(self, changes)
        with in_eval_mode(self._model):
            return self._model.transform(images, changes, strength=self.strength, companions=self.companions)

    def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, self.latent, generator=generator) * 2 - 1

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        with in_eval_mode(self._model):
            return self._model.generate(z, c)

    def changed_labels(self, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        """The labels (N, A) from which ``FaceEditor.generate`` draws faces that have these attributes."""
        return edited_labels(labels, changes, strength=self.strength, companions=self.companions)


class RebuildOnly:
    """The rebuilds of a method as if they were its edits: what an edit shows beyond them is due to the edit."""

    def __init__(self, method: Ours) -> None:
        self.name, self.ours = f"{method.name}, rebuilt without an edit", method.ours
        self.editable, self.device = method.editable, method.device
        self._method = method

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        return self._method.rebuild(images)


class NoEdit:
    """The photos as they are, as if they were edits.

    Args:
        attributes: the number A of attributes.
        device: where the images are wanted.
    """

    name, ours = "no edit: the photos", False

    def __init__(self, attributes: int, device: str | torch.device = "cpu") -> None:
        self.editable, self.device = tuple(range(attributes)), torch.device(device)

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        return images


class Baseline:
    """The networks of one baseline as a method. It edits photos or generates faces: what its networks can do.

    Args:
        name: what figures and tables call it.
        networks: put into eval mode during each call.
        columns: which attributes of the data the networks know, as indices, in their order; all by default. They get
            only the labels of these.
    """

    ours = False

    def __init__(self, name: str, networks: BaselineNetworks, *, columns: Sequence[int] | None = None) -> None:
        self._columns = list(range(networks.attributes) if columns is None else columns)
        if len(self._columns) != networks.attributes:
            raise ValueError(f"columns: found {len(self._columns)} for networks of {networks.attributes} attributes")
        self.name = name
        self.editable = tuple(sorted(self._columns))
        self._networks: Any = networks  # the noise is that of the generators alone

    @property
    def device(self) -> torch.device:
        return _device_of(self._networks)

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        _check_editable(self, changes)
        known = {self._columns.index(index): value for index, value in changes.items()}
        with in_eval_mode(self._networks):
            images = self._networks.edit(images, labels[:, self._columns], known)
        return images

    def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        noise: Tensor = self._networks.draw_noise(n, generator)
        return noise.cpu()

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        with in_eval_mode(self._networks):
            images: Tensor = self._networks.generate(z, c[:, self._columns])
        return images


class PerAttribute:
    """One set of networks for each attribute, such as a CycleGAN's pair. Several changes are made one after another.

    Args:
        name: what figures and tables call it.
        networks: by the index of the attribute that they change, at least one. Each knows this attribute alone.
    """

    ours = False

    def __init__(self, name: str, networks: Mapping[int, BaselineNetworks]) -> None:
        if not networks:
            raise ValueError("networks: found none, expected those of at least one attribute")
        self.name = name
        self.editable = tuple(sorted(networks))
        self._each = {index: Baseline(name, found, columns=[index]) for index, found in networks.items()}

    @property
    def device(self) -> torch.device:
        return self._each[self.editable[0]].device

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        _check_editable(self, changes)
        for index, value in changes.items():
            images = self._each[index].edit(images, labels, {index: value})
        return images


def _check_editable(method: PhotoEditor, changes: Mapping[int, float]) -> None:
    for index in changes:
        if index not in method.editable:
            raise ValueError(f"changes: {method.name} cannot change attribute {index}, only {list(method.editable)}")


def _device_of(networks: nn.Module) -> torch.device:
    return next(networks.parameters()).device

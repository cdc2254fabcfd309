"""The networks that ``igan-fast export`` writes: they take and return images as image files hold them.

A photo is uint8 (S, S, 3) with RGB in the last axis: the order of bytes in which image libraries of all languages
decode. Its scaling to [−1, 1], in which the model computes, is part of each network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from igan_fast.reference import IterativeGAN

__all__ = ["NETWORKS", "Editor", "Generator", "Network", "Recogniser", "Value"]


class Value(NamedTuple):
    """An input or an output of a network."""

    name: str
    dtype: torch.dtype
    shape: tuple[str, ...]
    """Of one row of the batch: the names of sizes, see ``Network.sizes``."""
    meaning: str


_IMAGE = ("image_size", "image_size", "3")
_PHOTOS = Value("photos", torch.uint8, _IMAGE, "RGB from 0 to 255, cropped as the training photos")
_LATENT = Value("latent", torch.float32, ("latent",), "the latent code, in [-1, 1]")
_PICTURES = Value("pictures", torch.uint8, _IMAGE, "RGB from 0 to 255, ready to be saved")
_FLOATS = Value("pictures_float", torch.float32, _IMAGE, "the same from 0 to 1, before it is rounded")


class Network(nn.Module):
    """One of the networks; ``forward`` takes ``INPUTS`` and returns ``OUTPUTS``, all with the batch as first axis.

    Args:
        model: the reference model, in eval mode.
    """

    NAME: str
    """The name of its file, without the suffix."""
    MEANING: str
    INPUTS: tuple[Value, ...]
    OUTPUTS: tuple[Value, ...]

    def __init__(self, model: IterativeGAN) -> None:
        super().__init__()
        arguments = model.arguments()
        #: The sizes of axes, by name.
        self.sizes = {"3": 3} | {name: int(arguments[name]) for name in ("image_size", "attributes", "latent")}

    def shape(self, value: Value, batch: int) -> tuple[int, ...]:
        """The shape of an input or output."""
        return batch, *(self.sizes[axis] for axis in value.shape)


class Recogniser(Network):
    """Photos → the probability of each attribute, and the latent code from which ``Generator`` rebuilds the face."""

    NAME = "recogniser"
    MEANING = "Recognises attributes in photos of faces."
    INPUTS = (_PHOTOS,)
    OUTPUTS = (
        Value("probabilities", torch.float32, ("attributes",), "of each attribute, from 0 to 1"),
        _LATENT,
    )

    def __init__(self, model: IterativeGAN) -> None:
        super().__init__(model)
        self.discriminator, self.classifier = model.discriminator, model.classifier

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, S, S, 3) → probabilities (N, A), latent codes (N, L)."""
        z, label_logits = self.classifier(self.discriminator(_signed(photos)).shared)
        return torch.sigmoid(label_logits), z


class Generator(Network):
    """Latent codes and attributes → pictures. The latent code is noise, or that of a photo from ``Recogniser``."""

    NAME = "generator"
    MEANING = "Draws faces from noise, or from what was recognised in photos, with the attributes asked for."
    INPUTS = (
        Value("latent", torch.float32, ("latent",), "uniform noise in [-1, 1], or the latent code of a photo"),
        Value("attributes", torch.float32, ("attributes",), "0 absent, 1 present; below 0 or above 1 exaggerates"),
    )
    OUTPUTS = (_PICTURES, _FLOATS)

    def __init__(self, model: IterativeGAN) -> None:
        super().__init__(model)
        self.generator = model.generator

    def forward(self, latent: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L) and (N, A) → pictures uint8 (N, S, S, 3), and the same as float32 in [0, 1]."""
        images = (self.generator(latent, attributes).permute(0, 2, 3, 1) + 1) / 2
        return (images * 255).round().clamp(0, 255).to(torch.uint8), images


class Editor(Network):
    """Photos and attributes → pictures: both networks in one. An attribute that is NaN stays as it is recognised."""

    NAME = "editor"
    MEANING = "Draws the faces in photos again with other attributes."
    INPUTS = (
        _PHOTOS,
        Value(
            "attributes",
            torch.float32,
            ("attributes",),
            "NaN stays as it is recognised; 0 absent, 1 present; below 0 or above 1 exaggerates",
        ),
    )
    OUTPUTS = (_PICTURES, _FLOATS)

    def __init__(self, model: IterativeGAN) -> None:
        super().__init__(model)
        self.recogniser, self.generator = Recogniser(model), Generator(model)

    def forward(self, photos: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, S, S, 3) and (N, A) → pictures uint8 (N, S, S, 3), and the same as float32 in [0, 1]."""
        probabilities, latent = self.recogniser(photos)
        pictures: tuple[Tensor, Tensor] = self.generator(
            latent, torch.where(attributes.isnan(), probabilities, attributes)
        )
        return pictures


#: All networks, in the order in which they are written.
NETWORKS: tuple[type[Network], ...] = (Recogniser, Generator, Editor)


def _signed(photos: Tensor) -> Tensor:
    """uint8 (N, S, S, 3) → float32 (N, 3, S, S) in [−1, 1]; 0 and 255 become exactly −1 and 1."""
    return photos.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1

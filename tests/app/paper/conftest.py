"""Photos of one colour, whose attributes are the channels, and tiny networks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from painted_attributes import ChannelJudge, colours

from igan_fast.app.paper.scores import Judge, known_judges
from igan_fast.baselines.cnn import AttributeCNN
from igan_fast.data.drawn_faces import DrawnFaces
from igan_fast.models import IterativeGAN

DRAWN = ("Smiling", "Bangs", "Male", "Eyeglasses", "Bald")


class Colours(NamedTuple):
    """Attribute k is there where channel k is bright."""

    photos: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    judges: tuple[Judge, ...]


@pytest.fixture(scope="module")
def coloured() -> Colours:
    labels = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]], np.uint8)
    photos = colours(*((255 * r, 255 * g, 255 * b) for r, g, b in labels.astype(int).tolist()))
    return Colours(photos, labels, known_judges({"channels": ChannelJudge(), "again": ChannelJudge()}, photos, labels))


class Drawn(NamedTuple):
    photos: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    people: NDArray[np.int64]
    judges: tuple[Judge, ...]
    model: IterativeGAN


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    source = DrawnFaces(44, attributes=DRAWN)
    photos = np.stack([source.image(index, 32) for index in range(len(source))])
    torch.manual_seed(0)
    networks = {"plain CNN": AttributeCNN(32, 5, width=4).eval(), "second CNN": AttributeCNN(32, 5, width=4).eval()}
    model = IterativeGAN(image_size=32, attributes=5, latent=6, width=4)
    with torch.no_grad():
        model.generator.to_rgb.weight.mul_(10)
    return Drawn(photos, source.labels, source.identities, known_judges(networks, photos, source.labels), model)

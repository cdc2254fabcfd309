"""Draws the sample grid of a model during training: rebuilds and edits of held-out faces, and faces from noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from igan_fast.data.loader import to_float, to_uint8
from igan_fast.data.store import FaceStore, spread
from igan_fast.metrics import in_eval_mode
from igan_fast.reference import Companions, IterativeGAN
from igan_fast.reference.editing import STRENGTH, edited_images, edited_labels
from igan_fast.train.grids import edit_title, sample_grid

__all__ = ["draw_samples", "shown_rows", "to_arrays"]

#: Faces in a row of the grid.
COLUMNS = 10


def draw_samples(
    model: IterativeGAN,
    store: FaceStore,
    *,
    flipped: Sequence[str],
    companions: Companions,
    seed: int,
    device: torch.device,
) -> Image.Image:
    """Draw faces, their rebuilds, edits that flip an attribute, and generated faces (the paper's Fig. 7 and 8).

    The edits are those that ``FaceEditor`` makes by default: of strength ``STRENGTH``, with companions.

    Args:
        model: a model on ``device``. Its training mode is restored at the end.
        store: the source of the faces. They are held-out faces if there are any, and the same at each call.
        flipped: the names of the attributes to flip. Generated faces show the first of them absent and present.
        companions: the attributes that go along with a flipped one.
        seed: the seed of the noise.
        device: where the model computes.
    """
    rows = shown_rows(store)
    photos, position = store.images[rows], store.attributes.index
    labels = torch.from_numpy(store.labels[rows]).to(device, torch.float32)
    images = to_float(torch.from_numpy(photos).to(device)).contiguous()
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.rand(len(rows), model.arguments()["latent"], generator=generator) * 2 - 1).to(device)

    def title(name: str, change: str) -> str:
        moves = bool(companions.weights([position(name)]).any())
        return edit_title(f"{name}{change}", strength=STRENGTH, companions=moves)

    def edited(name: str) -> NDArray[np.uint8]:
        changes: dict[int, Literal["flip"]] = {position(name): "flip"}
        return to_arrays(edited_images(model, images, changes, strength=STRENGTH, companions=companions))

    def generated(name: str, value: float) -> NDArray[np.uint8]:
        asked = edited_labels(labels, {position(name): value}, strength=STRENGTH, companions=companions)
        return to_arrays(model.generate(noise, asked))

    with in_eval_mode(model):
        return sample_grid(
            photos,
            to_arrays(edited_images(model, images, {})),
            {title(name, " ⇄"): edited(name) for name in flipped},
            {"labels of the column": to_arrays(model.generate(noise, labels))}
            | {title(name, f"={value}"): generated(name, value) for name in flipped[:1] for value in (0, 1)},
        )


def shown_rows(store: FaceStore) -> NDArray[np.int64]:
    """The rows of the faces in a grid: held-out ones if there are any, the same at each call."""
    rows = spread(store.splits["val"], COLUMNS)
    return rows if len(rows) else store.splits["train"][:COLUMNS]


def to_arrays(images: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = to_uint8(images).cpu().numpy()
    return array

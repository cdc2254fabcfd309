"""Edits of faces that are encoded once, beside the reference's edits of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from vivid_models import vivid

from igan_fast.encoded_faces import EncodedFaces
from igan_fast.reference import IterativeGAN
from igan_fast.reference.editing import Amount, edited_images, edited_labels
from igan_fast.reference.residual import edited_photos

CHANGES = {0: 1.0, 1: "flip", 2: Amount(-2)}


@pytest.fixture(scope="module")
def model() -> IterativeGAN:
    torch.manual_seed(0)
    return vivid(IterativeGAN(image_size=32, attributes=3, latent=6, width=4)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("keep", "reference"), [("photo", edited_photos), ("nothing", edited_images)])
@torch.no_grad()
def test_an_edit_is_the_references(model: IterativeGAN, x: Tensor, keep: Any, reference: Any) -> None:
    faces = EncodedFaces.of(model, x)
    labels = edited_labels(faces.c, CHANGES, strength=1.5)
    expected = reference(model, x, CHANGES, strength=1.5)
    torch.testing.assert_close(faces.edited(labels, keep), expected, rtol=0, atol=0)
    assert (expected - x).abs().max() > 0.1


@torch.no_grad()
def test_without_a_change_a_kept_photo_is_exactly_the_photo(model: IterativeGAN, x: Tensor) -> None:
    faces = EncodedFaces.of(model, x)
    assert torch.equal(faces.edited(faces.c, "photo"), x)
    assert torch.equal(faces.edited(faces.c, "nothing"), faces.rebuilt)
    torch.testing.assert_close(faces.rebuilt, edited_images(model, x, {}), rtol=0, atol=0)


@pytest.mark.parametrize("keep", ["photo", "nothing"])
@torch.no_grad()
def test_one_face_takes_many_labels(model: IterativeGAN, x: Tensor, keep: Any) -> None:
    face = EncodedFaces.of(model, x[:1])
    labels = torch.rand(5, 3, generator=torch.Generator().manual_seed(2))
    found = face.edited(labels, keep)
    each = torch.cat([face.edited(row[None], keep) for row in labels])
    torch.testing.assert_close(found, each, rtol=0, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.01


@torch.no_grad()
def test_a_face_is_encoded_and_rebuilt_once(model: IterativeGAN, x: Tensor) -> None:
    calls: list[str] = []

    class Counted:
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            calls.append("encode")
            return model.encode(x)

        def generate(self, z: Tensor, c: Tensor) -> Tensor:
            calls.append("generate")
            return model.generate(z, c)

    faces = EncodedFaces.of(Counted(), x)
    faces.edited(faces.c, "nothing")
    assert calls == ["encode", "generate"]
    for _ in range(2):
        faces.edited(faces.c, "photo")
    assert calls == ["encode"] + ["generate"] * 4  # three edits, and the rebuild

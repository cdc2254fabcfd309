"""The sample grid of a run: what each row draws, and what its title says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from igan_fast.data import to_float, to_uint8
from igan_fast.data.store import FaceStore
from igan_fast.models import IterativeGAN
from igan_fast.reference import Companions
from igan_fast.train import samples
from igan_fast.train.grids import Images

NAMES = ("Male", "Lipstick", "Bangs")
TRAIN = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]], np.uint8)
VAL = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0]], np.uint8)


@pytest.fixture
def store() -> FaceStore:
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    rows = np.arange(9)
    return FaceStore(images, np.concatenate([TRAIN, VAL]), None, {"train": rows[:6], "val": rows[6:]}, NAMES, rows, 32)


@pytest.fixture
def model() -> IterativeGAN:
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, attributes=3, latent=5, width=4)
    with torch.no_grad():
        model.generator.to_rgb.weight.mul_(10)  # vivid, so that rows differ
        model.classifier.labels.weight.mul_(100)
    return model


def drawn(
    model: IterativeGAN, store: FaceStore, flipped: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> dict[str, np.ndarray]:
    """The rows of the grid, by title."""
    found: dict[str, np.ndarray] = {}
    real = samples.sample_grid

    def spy(photos: Images, rebuilt: Images, edited: Mapping[str, Images], generated: Mapping[str, Images]) -> object:
        rows = {"real": photos, "rebuilt": rebuilt, **edited, **{f"noise, {k}": v for k, v in generated.items()}}
        found.update({title: np.asarray(row) for title, row in rows.items()})
        return real(photos, rebuilt, edited, generated)

    monkeypatch.setattr(samples, "sample_grid", spy)
    companions = Companions.of_labels(torch.from_numpy(store.labels[store.splits["train"]]))
    device = torch.device("cpu")
    samples.draw_samples(model, store, flipped=flipped, companions=companions, seed=3, device=device)
    return found


def test_rows_are_edits_of_the_default_strength_with_companions_of_the_training_labels(
    model: IterativeGAN, store: FaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = drawn(model, store, ("Male", "Bangs"), monkeypatch)
    assert list(found) == [
        "real",
        "rebuilt",
        "Male ⇄\nstrength 2, with companions",
        "Bangs ⇄\nstrength 2, with companions",
        "noise, labels of the column",
        "noise, Male=0\nstrength 2, with companions",
        "noise, Male=1\nstrength 2, with companions",
    ]
    assert model.training
    model.eval()
    photos = to_float(torch.from_numpy(store.images[6:]))
    noise = torch.rand(3, 5, generator=torch.Generator().manual_seed(3)) * 2 - 1
    companions = Companions.of_labels(torch.from_numpy(TRAIN))
    # By hand: Male and Lipstick are 3 and 2 of 6, and never together: (0 − 1/6) / (1/4) = −2/3. Male and Bangs are in 1
    # photo together: (1/6 − 1/4) / (1/4) = −1/3, correlation −1/3.
    male = [[-0.5, 1.0, 1 / 3], [-0.5, 0.0, 1.0], [-0.5, 1.0, 0.0]]
    with torch.no_grad():
        z, logits = model.encode(photos)
        for title, expected in (
            ("real", photos),
            ("rebuilt", model.generate(z, logits.sigmoid())),
            ("noise, labels of the column", model.generate(noise, torch.from_numpy(VAL).float())),
            ("noise, Male=0\nstrength 2, with companions", model.generate(noise, torch.tensor(male))),
            (
                "Male ⇄\nstrength 2, with companions",
                model.transform(photos, {0: "flip"}, strength=2.0, companions=companions),
            ),
        ):
            difference = np.abs(found[title].astype(int) - to_uint8(expected).numpy().astype(int)).max()
            assert difference <= 1, title
    assert len({row.tobytes() for row in found.values()}) == 7


def test_a_title_says_nothing_of_companions_where_none_move(
    model: IterativeGAN, store: FaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.labels[:6, 2] = 0  # nobody has bangs
    found = drawn(model, store, ("Bangs",), monkeypatch)
    assert "Bangs ⇄\nstrength 2" in found
    assert "noise, Bangs=1\nstrength 2" in found


def test_photos_of_training_where_none_are_held_out(
    model: IterativeGAN, store: FaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.splits["val"] = np.arange(0)  # type: ignore[index]
    found = drawn(model, store, (), monkeypatch)
    assert list(found) == ["real", "rebuilt", "noise, labels of the column"]
    assert np.array_equal(found["real"], store.images[:6])

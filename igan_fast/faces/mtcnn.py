"""The face detector MTCNN (Zhang et al. 2016), with the weights of the package mtcnn-runtime, run by ONNX Runtime.

Three networks look at the image one after another. P-Net finds boxes in an image pyramid, R-Net rejects most of them,
and O-Net gives the final boxes and five landmarks: the eyes, the nose, and the corners of the mouth. Here O-Net then
looks at each face again, turned upright by these landmarks, which makes them more accurate.

The package's own code is not used: it raises an error for images without a face, and needs OpenCV.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igan_fast.cores import usable_cores
from igan_fast.errors import InputError, PackageMissing
from igan_fast.faces.boxes import SCORE, expanded, refined, squares, without_overlaps
from igan_fast.faces.detector import Detection, placement
from igan_fast.faces.resample import sample
from igan_fast.faces.similarity import Similarity

__all__ = ["PACKAGES", "Mtcnn"]

#: What has to be installed; together the extra ``faces``.
PACKAGES = ("mtcnn-runtime", "onnxruntime")

#: The least score of a box after P-Net, R-Net and O-Net, from 0 to 1.
THRESHOLDS = (0.6, 0.7, 0.8)
#: P-Net looks at squares of this side, ``_STRIDE`` pixels apart. R-Net and O-Net take images of these sides.
_P_SIDE, _STRIDE, _R_SIDE, _O_SIDE = 12, 2, 24, 48
#: Each level of the pyramid is this much smaller than the one before: half as many pixels.
_PYRAMID = 0.5**0.5
#: How many boxes R-Net and O-Net see at a time, and at most. A picture full of faces has a few thousand boxes.
_BATCH, _MOST_BOXES = 256, 4096
#: The square of CelebA's photos in which O-Net looks at an upright face: left, top, side.
_UPRIGHT = (39.0, 65.0, 100.0)


class Mtcnn:
    """The detector, as a ``Detector`` with five landmarks: left eye, right eye, nose, corners of the mouth.

    Left and right are those of the image.

    Args:
        smallest: the side of the smallest face that is looked for, in pixels.

    Raises:
        PackageMissing: a package of ``PACKAGES`` is not installed.
        InputError: the weights cannot be read.
    """

    #: The mean of what O-Net finds in 6,777 training photos.
    template = np.array([[69.68, 111.78], [108.4, 111.7], [88.51, 135.64], [71.43, 153.01], [106.29, 153.05]])
    #: CelebA's photos are aligned by the eyes. The nose moves with the direction that a face looks in.
    weights = np.array([1, 1, 0, 0.5, 0.5])

    def __init__(self, smallest: int = 24) -> None:
        self._smallest = smallest
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise _missing(str(error)) from error
        # The package is not imported, because it would import OpenCV.
        package = importlib.util.find_spec("mtcnnruntime")
        if package is None or not package.submodule_search_locations:
            raise _missing("No module named 'mtcnnruntime'")
        weights = Path(package.submodule_search_locations[0]) / "weights"
        self._p_net, self._r_net, self._o_net = (_Network(runtime, weights / f"{k}net.onnx") for k in "pro")

    def find(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, (H, W, 3) uint8 RGB."""
        picture = Image.fromarray(image)
        boxes = self._candidates(picture)
        for network, side, threshold, overlap in (
            (self._r_net, _R_SIDE, THRESHOLDS[1], 0.7),
            (self._o_net, _O_SIDE, THRESHOLDS[2], 0.8),
        ):
            found, outputs = self._judged(network, picture, squares(boxes), side, threshold)
            marks = outputs.get(10)
            boxes = refined(found, outputs[4])
            kept = without_overlaps(boxes, overlap if marks is None else 0.5, of_smaller=marks is not None)
            boxes = boxes[kept]
        if marks is None or not len(boxes):
            return []
        sides = found[kept, 2:4] - found[kept, :2]
        landmarks = found[kept, None, :2] + sides[:, None] * _points(marks[kept])
        each = (Detection(points, float(box[SCORE])) for points, box in zip(landmarks, boxes, strict=True))
        return [looked for detection in each if (looked := self._second_look(image, detection)) is not None]

    def _candidates(self, picture: Image.Image) -> NDArray[np.float64]:
        """P-Net's boxes (N, 5): left, top, right, bottom, score."""
        found = [np.empty((0, 5))]
        scale = _P_SIDE / self._smallest
        while min(picture.size) * scale >= _P_SIDE:
            size = (round(picture.width * scale), round(picture.height * scale))
            small = picture.resize(size, Image.Resampling.BILINEAR)
            outputs = self._p_net(np.asarray(small)[None])
            scores = outputs[2][0, 1]
            rows, columns = np.nonzero(scores >= THRESHOLDS[0])
            corner = np.stack([columns, rows], axis=1) * float(_STRIDE)
            boxes = np.hstack([corner, corner + _P_SIDE, scores[rows, columns, None]])
            boxes[:, :4] *= np.tile(np.array(picture.size) / size, 2)
            kept = without_overlaps(boxes, 0.5)
            found.append(refined(boxes, outputs[4][0][:, rows, columns].T)[kept])
            scale *= _PYRAMID
        boxes = np.concatenate(found)
        return boxes[without_overlaps(boxes, 0.7)[:_MOST_BOXES]]

    def _judged(
        self, network: _Network, picture: Image.Image, boxes: NDArray[np.float64], side: int, threshold: float
    ) -> tuple[NDArray[np.float64], dict[int, NDArray[np.float64]]]:
        """Return the square boxes that a network accepts, with its scores, and its other outputs for them."""
        canvas, shift = expanded(picture, boxes)
        parts: list[dict[int, NDArray[np.float64]]] = []
        for start in range(0, max(len(boxes), 1), _BATCH):
            part = boxes[start : start + _BATCH, :4] + shift
            if len(part):
                images = [
                    np.asarray(canvas.resize((side, side), Image.Resampling.BILINEAR, box=tuple(box))) for box in part
                ]
                parts.append(network(np.stack(images)))
        if not parts:
            return np.empty((0, 5)), {4: np.empty((0, 4))}
        outputs = {width: np.concatenate([part[width] for part in parts]) for width in parts[0]}
        scores = outputs.pop(2)[:, 1]
        accepted = scores >= threshold
        return (
            np.hstack([boxes[accepted, :4], scores[accepted, None]]),
            {width: values[accepted] for width, values in outputs.items()},
        )

    def _second_look(self, image: NDArray[np.uint8], detection: Detection) -> Detection | None:
        """Return the face with the landmarks that O-Net finds when it is upright; None if it is no face after all."""
        try:
            placed = placement(self, detection)
        except ValueError:
            return None
        left, top, side = _UPRIGHT
        square = Similarity(side / _O_SIDE, complex(left, top))  # from the network's image to CelebA's photo
        upright = sample(image, placed.after(square), _O_SIDE)
        outputs = self._o_net(upright[None])
        if outputs[2][0, 1] < THRESHOLDS[2]:
            return None
        points = placed.after(square)(_points(outputs[10])[0] * _O_SIDE)
        return Detection(points, float(outputs[2][0, 1]))


class _Network:
    """One of the three networks. The width of an output tells what it is: 2 scores, 4 edges of a box, 10 landmarks."""

    def __init__(self, runtime: Any, file: Path) -> None:
        options = runtime.SessionOptions()
        # Processes that decode a dataset share the cores.
        options.intra_op_num_threads = 1 if multiprocessing.parent_process() else usable_cores()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave their core
        try:
            self._session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has error types of its own
            raise InputError(f"{file}: ONNX Runtime cannot read it ({error}); install mtcnn-runtime again") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: NDArray[np.uint8]) -> dict[int, NDArray[np.float64]]:
        """Run the network on images (N, H, W, 3) RGB; return its outputs (N, width, ...) by width."""
        values = (images.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128
        outputs = self._session.run(None, {self._input: np.ascontiguousarray(values)})
        return {output.shape[1]: output.astype(np.float64) for output in outputs}


def _points(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 10), five x and five y in parts of the box's side, as points (N, 5, 2)."""
    return landmarks.reshape(-1, 2, 5).transpose(0, 2, 1)


def _missing(reason: str) -> PackageMissing:
    return PackageMissing(f"faces: the detector cannot be loaded ({reason}); pip install {' '.join(PACKAGES)}")

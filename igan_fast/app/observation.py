"""The images that an evaluation looks at: photos, rebuilds, edits and generated faces; and what is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.baselines.cnn import AttributeCNN
from igan_fast.data import FaceStore, spread, to_float, to_uint8
from igan_fast.edit_arguments import Keep
from igan_fast.encoded_faces import EncodedFaces
from igan_fast.errors import InputError
from igan_fast.metrics import finite_results, grain, hamming_loss, image_quality, in_eval_mode
from igan_fast.progress import progress_bar
from igan_fast.reference.editing import Companions, edited_labels
from igan_fast.reference.models import IterativeGAN

__all__ = [
    "BATCH",
    "Drawn",
    "Observation",
    "draw_again",
    "flipped_in_turn",
    "generated_faces",
    "generation_hamming_loss",
    "training_photos",
]

#: Batch size of the networks; no score depends on it.
BATCH = 100


class Observation:
    """What the judges say of a set of images, and how grainy these are.

    Args:
        judges: in eval mode, all on one device.
        kept: (M,), whether each image is kept, in the order in which they are added; later ones are not. None keeps
            none.
    """

    def __init__(self, judges: Sequence[AttributeCNN], kept: NDArray[np.bool_] | None = None) -> None:
        self._judges = judges
        self._kept = np.zeros(0, np.bool_) if kept is None else kept
        self._images: list[NDArray[np.uint8]] = []
        self._answers: list[NDArray[np.float32]] = []
        self._features: list[NDArray[np.float32]] = []
        self._grain: list[NDArray[np.float32]] = []

    def add(self, images: Tensor) -> None:
        """Look at more images, (N, S, S, 3) uint8, on the judges' device.

        Raises:
            InputError: a judge's results are NaN or infinite.
        """
        chosen = self._kept[self.count : self.count + len(images)]
        self._images.append(images[: len(chosen)].cpu().numpy()[chosen])
        x = to_float(images)
        answers = []
        with torch.inference_mode():
            self._grain.append(grain(x).cpu().numpy())
            for number, judge in enumerate(self._judges, 1):
                pooled = judge.pooled(x)
                logits = judge.labels(pooled)
                if not logits.isfinite().all():
                    raise InputError(f"judges: the results of judge {number} are NaN or infinite")
                answers.append(torch.sigmoid(logits).cpu().numpy())
                if number == 1:
                    self._features.append(pooled.cpu().numpy())
        if answers:
            self._answers.append(np.stack(answers))

    @property
    def count(self) -> int:
        """The number N of images so far."""
        return sum(map(len, self._grain))

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(J, N, A): each judge's probability of each attribute."""
        return np.concatenate(self._answers, axis=1)

    @property
    def features(self) -> NDArray[np.float32]:
        """(N, F): the first judge's pooled last feature map."""
        return np.concatenate(self._features)

    @property
    def images(self) -> NDArray[np.uint8]:
        """(K, S, S, 3): the images that were kept."""
        return np.concatenate(self._images) if self._images else np.empty((0, 1, 1, 3), np.uint8)

    @property
    def grain(self) -> float:
        """``igan_fast.metrics.grain``, the mean over the images."""
        return float(np.concatenate(self._grain).mean(dtype=np.float64))


class Drawn(NamedTuple):
    """What the model makes of N photos."""

    predicted: NDArray[np.bool_]  #: (N, A)
    quality: NDArray[np.float64]  #: (3, N): L1, PSNR and SSIM of the rebuilds
    photos: Observation
    rebuilt: Observation
    edited: Observation


def draw_again(
    model: IterativeGAN,
    judges: Sequence[AttributeCNN],
    store: FaceStore,
    rows: NDArray[np.int64],
    *,
    keep: Keep = "nothing",
    strength: float,
    companions: Companions | None,
    progress: bool,
    kept: NDArray[np.bool_] | None = None,
) -> Drawn:
    """Recognise, rebuild and edit the photos in ``rows``, and let the judges look at the images.

    Args:
        keep, strength, companions: of the edits, see ``igan_fast.app.edits.edit_scores``.
        kept: which of the images are kept, see ``Observation``.
    """
    device = next(model.parameters()).device
    photos, rebuilt, edited = (Observation(judges, kept) for _ in range(3))
    verdicts, qualities = [], []
    starts = range(0, len(rows), BATCH)
    with in_eval_mode(model):
        for start in progress_bar(starts, shown=progress, desc="Scoring photos", unit="batch"):
            images = torch.from_numpy(store.images[rows[start : start + BATCH]]).to(device)
            x = to_float(images)
            faces = EncodedFaces.of(model, x)
            verdicts.append((finite_results(faces.label_logits) > 0).cpu().numpy())
            drawn = finite_results(faces.rebuilt)
            flipped = flipped_in_turn(faces.c, start, strength=strength, companions=companions)
            qualities.append(torch.stack(image_quality(drawn, x)).double().cpu().numpy())
            photos.add(images)
            rebuilt.add(to_uint8(drawn))
            edited.add(to_uint8(finite_results(faces.edited(flipped, keep))))
    return Drawn(np.concatenate(verdicts), np.concatenate(qualities, axis=1), photos, rebuilt, edited)


def flipped_in_turn(c: Tensor, first: int, *, strength: float, companions: Companions | None) -> Tensor:
    """Return the labels (N, A) of photos in each of which one attribute is flipped: in photo i that of index i mod A.

    Args:
        c: (N, A), the recognised probabilities.
        first: i for the first row of ``c``.
        strength: of the edits, see ``igan_fast.reference.editing``.
        companions: the attributes that move along.
    """
    result = c.clone()
    turns = (torch.arange(len(c), device=c.device) + first) % c.shape[1]
    for index in sorted(set(turns.tolist())):
        chosen = turns == index
        result[chosen] = edited_labels(c[chosen], {index: "flip"}, strength=strength, companions=companions)
    return result


def training_photos(
    judges: Sequence[AttributeCNN],
    store: FaceStore,
    rows: NDArray[np.int64],
    device: torch.device,
    kept: NDArray[np.bool_] | None = None,
) -> Observation:
    """Let the judges look at photos from the training split, as many as ``rows`` if there are as many, none of them in
    ``rows``. ``kept`` as for ``Observation``."""
    seen = Observation(judges, kept)
    others = store.splits["train"][~np.isin(store.splits["train"], rows)]
    chosen = spread(others, len(rows))
    for start in range(0, len(chosen), BATCH):
        seen.add(torch.from_numpy(store.images[chosen[start : start + BATCH]]).to(device))
    return seen


def generated_faces(
    model: IterativeGAN,
    judges: Sequence[AttributeCNN],
    labels: NDArray[Any],
    *,
    seed: int,
    device: torch.device,
    kept: NDArray[np.bool_] | None = None,
) -> Observation:
    """Generate a face for each row of ``labels`` (N, A), and let the judges look at them. ``kept`` as for
    ``Observation``."""
    noise = np.random.default_rng(seed).uniform(-1, 1, (len(labels), model.arguments()["latent"])).astype(np.float32)
    seen = Observation(judges, kept)
    with in_eval_mode(model):
        for start in range(0, len(labels), BATCH):
            part = slice(start, start + BATCH)
            z, c = (torch.from_numpy(array[part].astype(np.float32)).to(device) for array in (noise, labels))
            seen.add(to_uint8(finite_results(model.generate(z, c))))
    return seen


def generation_hamming_loss(model: IterativeGAN, judge: AttributeCNN, labels: NDArray[Any], *, seed: int = 0) -> float:
    """Generate a face for each row of ``labels`` (N, A). Return the judge's Hamming loss against ``labels``."""
    faces = generated_faces(model, [judge], labels, seed=seed, device=judge.labels.weight.device)
    return hamming_loss(faces.probabilities[0] > 0.5, labels)

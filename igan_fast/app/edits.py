"""Lets judges look at edits: networks that were trained on real photos only say whether an edit shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.app.observation import BATCH
from igan_fast.baselines.cnn import AttributeCNN
from igan_fast.data import to_float, to_uint8
from igan_fast.edit_arguments import Keep
from igan_fast.encoded_faces import EncodedFaces
from igan_fast.metrics import in_eval_mode
from igan_fast.progress import progress_bar
from igan_fast.reference.editing import STRENGTH, Companions, edited_labels
from igan_fast.reference.models import IterativeGAN

__all__ = ["EditMethod", "EditScores", "PhotoEdits", "companion_pairs", "edit_scores", "judged_edits"]


class PhotoEdits(NamedTuple):
    """What a method makes of a batch of N photos. Images are (N, 3, S, S) in [−1, 1], on the judges' device."""

    requested: Tensor
    """(N, A) bool: what a flip of each attribute asks for."""
    unedited: Tensor
    """The images with which the edits are compared: rebuilds, or the photos."""
    edited: Callable[[int, float], Tensor]
    """Returns the images with the attribute of this index set to this value, 1 or 0."""


#: Any way to edit photos: it gets a batch of photos (N, 3, S, S) in [−1, 1] and its place among all photos.
EditMethod: TypeAlias = Callable[[Tensor, slice], PhotoEdits]


@dataclass(frozen=True)
class EditScores:
    """What one judge says of N edited photos. Each array is (N, E): a column is about the edits of one attribute.

    In ``edit_scores`` these are all A attributes of the model. ``transform`` sets the attribute to 1, and to 0. A flip
    is one of these two: that which the model does not recognise in the photo.
    """

    requested: NDArray[np.bool_]
    """What a flip asks for: True where the attribute is absent, as the model recognises it."""
    present: NDArray[np.float32]
    """The judge's probability of the attribute after the edit to 1."""
    absent: NDArray[np.float32]
    """The same after the edit to 0."""
    unedited: NDArray[np.float32]
    """The same without an edit: on the rebuild."""
    change_of_others: NDArray[np.float32]
    """By how much the flip changes the judge's probabilities of the other attributes: the mean of |flipped − rebuilt|
    over them. NaN if there are none."""
    change_of_unrelated: NDArray[np.float32]
    """The same over the attributes that are not companions of the edited one either. NaN if there are none."""

    @property
    def change(self) -> NDArray[np.float32]:
        """(N, E): how much higher the probability is with the edit to 1. It is 0 if the model ignores the attribute."""
        return self.present - self.absent

    def confirmed(self, thresholds: float | NDArray[np.float64] = 0.5) -> NDArray[np.float64]:
        """Return (N, E): 1 where the judge answers as the flip asked, else 0.

        Args:
            thresholds: the judge's answer is "present" if its probability is above the threshold; one number, or one
                for each column (E,). The result is NaN where it is NaN.
        """
        return _as_requested(np.where(self.requested, self.present, self.absent), self.requested, thresholds)

    def unedited_confirmed(self, thresholds: float | NDArray[np.float64] = 0.5) -> NDArray[np.float64]:
        """Return what ``confirmed`` would be if the edit changed nothing: the same for the rebuilds."""
        return _as_requested(self.unedited, self.requested, thresholds)


def edit_scores(
    model: IterativeGAN,
    judges: Sequence[AttributeCNN],
    images: NDArray[np.uint8],
    *,
    keep: Keep = "nothing",
    strength: float = STRENGTH,
    companions: Companions | None = None,
    related: NDArray[np.bool_] | None = None,
    progress: bool = False,
) -> tuple[EditScores, ...]:
    """Let judges look for each attribute in photos in which the model has set it to 1 and to 0.

    Args:
        model: on the judges' device.
        judges: at least one, in eval mode.
        images: (N, S, S, 3), N at least 1.
        keep: ``"photo"`` judges photos to which the change is added (``igan_fast.reference.residual``); without an edit
            these are the photos. ``"nothing"`` judges edited rebuilds; without an edit these are the rebuilds.
        strength: of the edits, see ``igan_fast.reference.editing``.
        companions: the attributes that move along with an edited one; none where omitted.
        related: (A, A), which attributes count as companions of each edited one for ``change_of_unrelated``. By default
            those of ``companions``.
        progress: show a progress bar on stderr.

    Returns:
        The scores of each judge.

    Raises:
        ValueError: the strength is out of range.
    """
    attributes: int = model.arguments()["attributes"]
    if related is None:
        related = companion_pairs(companions, attributes)

    def edits(x: Tensor, rows: slice) -> PhotoEdits:
        faces = EncodedFaces.of(model, x)

        def edited(index: int, value: float) -> Tensor:
            labels = edited_labels(faces.c, {index: value}, strength=strength, companions=companions)
            return faces.edited(labels, keep)

        return PhotoEdits(faces.c < 0.5, x if keep == "photo" else faces.rebuilt, edited)

    with in_eval_mode(model):
        return judged_edits(edits, judges, images, range(attributes), related=related, progress=progress)


def judged_edits(
    method: EditMethod,
    judges: Sequence[AttributeCNN],
    images: NDArray[np.uint8],
    attributes: Sequence[int],
    *,
    related: NDArray[np.bool_],
    progress: bool = False,
) -> tuple[EditScores, ...]:
    """Let judges look for attributes in photos in which any method has set them to 1 and to 0.

    Args:
        method: edits the photos, in batches.
        judges: at least one, in eval mode.
        images: (N, S, S, 3), N at least 1.
        attributes: the indices of the E attributes to edit, among the A of the judges.
        related: (A, A), which attributes count as companions of each edited one for ``change_of_unrelated``.
        progress: show a progress bar on stderr.

    Returns:
        The scores of each judge, (N, E).
    """
    device = judges[0].labels.weight.device
    others = ~np.eye(len(related), dtype=np.bool_)
    among = torch.stack([_averaging(others), _averaging(others & ~related)], dim=2).to(device)  # (A, A, 2)
    requested = torch.empty(len(images), len(attributes), dtype=torch.bool)
    # For each judge: present, absent, unedited, change of others, change of the unrelated.
    results = torch.empty(len(judges), 5, len(images), len(attributes))
    starts = range(0, len(images), BATCH)
    with (
        torch.inference_mode(),
        progress_bar(total=len(starts) * len(attributes), shown=progress, desc="Judging edits") as bar,
    ):
        for start in starts:
            rows = slice(start, start + BATCH)
            made = method(to_float(torch.as_tensor(images[rows]).to(device)), rows)
            unedited = _answers(judges, made.unedited)
            for column, index in enumerate(attributes):
                present, absent = (_answers(judges, made.edited(index, value)) for value in (1.0, 0.0))
                asked = made.requested[:, index]
                moved = (torch.where(asked[:, None], present, absent) - unedited).abs()
                requested[rows, column] = asked.cpu()
                for place, answers in enumerate((present, absent, unedited)):
                    results[:, place, rows, column] = answers[:, :, index].cpu()
                results[:, 3:, rows, column] = (moved @ among[index]).transpose(1, 2).cpu()
                bar.update()
    return tuple(EditScores(requested.numpy(), *judged) for judged in results.numpy())


def companion_pairs(companions: Companions | None, attributes: int) -> NDArray[np.bool_]:
    """Return (A, A): whether attribute j moves along with the edited attribute a."""
    if companions is None:
        return np.zeros((attributes, attributes), np.bool_)
    pairs: NDArray[np.bool_] = (companions.correlation.abs() >= companions.least).numpy()
    return pairs & ~np.eye(attributes, dtype=np.bool_)


def _answers(judges: Sequence[AttributeCNN], drawn: Tensor) -> Tensor:
    """Images (N, 3, S, S) in [−1, 1], rounded as in a file → the judges' probabilities (J, N, A)."""
    x = to_float(to_uint8(drawn))
    return torch.stack([torch.sigmoid(judge(x)) for judge in judges])


def _averaging(chosen: NDArray[np.bool_]) -> Tensor:
    """Return weights (A, A): a product with row a is the mean over the attributes chosen in row a, NaN if none is."""
    with np.errstate(invalid="ignore"):
        return torch.from_numpy((chosen / chosen.sum(axis=1, keepdims=True)).astype(np.float32))


def _as_requested(
    probabilities: NDArray[np.float32], requested: NDArray[np.bool_], thresholds: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    found = (probabilities > thresholds) == requested
    return np.where(np.isnan(thresholds), np.nan, found)

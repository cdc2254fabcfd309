"""The scores of an evaluation. They can be printed as a table, drawn as a plot, and written as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igan_fast.app.plot import check_plot, save_plot
from igan_fast.app.table import table

__all__ = [
    "AttributeReport",
    "Evaluation",
    "IdentityReport",
    "ImageSetReport",
    "Interval",
    "JudgeReport",
    "JudgeScores",
    "JudgedAttribute",
    "KIDReport",
    "Recognition",
    "check_plot",
]

#: The lower and the upper end of a 95 % bootstrap interval over the photos (``igan_fast.metrics.bootstrap_interval``);
#: None for a single photo.
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Recognition:
    """How well attributes are recognised: means over the attributes."""

    hamming_loss: float
    """Share of wrong answers over all photos and attributes (the paper's Fig. 4)."""
    accuracy: float
    balanced_accuracy: float
    f1: float | None
    """Mean over the attributes for which it is defined; None if there are none."""
    hamming_loss_interval: Interval = None


@dataclass(frozen=True, kw_only=True)
class JudgeScores:
    """What one judge says: of one attribute, or as means over the attributes for which a score is defined.

    A judge answers "present" if its probability is above a threshold. This is 0.5, or where a name says *balanced*, the
    threshold at which its two kinds of error are equally frequent on the scored photos.
    """

    recall_present: float | None
    """How good the judge is: the share of the photos with the attribute in which it says "present"."""
    recall_absent: float | None
    """The share of the photos without the attribute in which it says "absent"."""
    balanced_recall_present: float | None
    balanced_recall_absent: float | None
    edit_change: float | None
    """How much higher the judge's probability is with the attribute set to 1 than set to 0."""
    edit_confirmed: float | None
    """Share of the photos in which the judge's answer is what a flip asked for."""
    edit_confirmed_balanced: float | None
    unedited_confirmed: float | None
    """``edit_confirmed`` of the rebuilds, which are drawn without an edit: what is above this comes from the edit."""
    unedited_confirmed_balanced: float | None
    change_of_others: float | None
    """By how much a flip changes the judge's probabilities of the other attributes: mean|flipped − rebuilt|."""
    change_of_unrelated: float | None
    """The same without the companions of the flipped attribute, whether or not these moved along."""


@dataclass(frozen=True, kw_only=True)
class JudgedAttribute(JudgeScores):
    """What one judge says of one attribute."""

    accuracy: float
    """Share of right answers on the scored photos, at the threshold 0.5."""
    balanced_threshold: float | None
    """None where no photo or every photo has the attribute."""


@dataclass(frozen=True, kw_only=True)
class JudgeReport(JudgeScores):
    """What one judge says: means over the attributes."""

    name: str
    recognition: Recognition
    """How well it recognises the scored photos."""
    generated_hamming_loss: float
    """Hamming loss of its answers on generated faces, against the labels that they were generated from."""
    generated_hamming_loss_interval: Interval
    edit_change_interval: Interval
    edit_confirmed_interval: Interval
    edit_confirmed_balanced_interval: Interval
    """The thresholds are not chosen again for each resample."""


@dataclass(frozen=True, kw_only=True)
class IdentityReport:
    """How far images are from the person in the photo: mean distances of the embeddings by a face recognition network
    (Sec. 5.2), lower is better.

    Each image is compared with the photo at full resolution. A distance is to be read between floor and ceiling.
    """

    embedder: str
    """The face recognition network. The distances of two networks are not comparable."""
    photos: int
    """The number of photos that were rebuilt and edited."""
    reference_size: int
    """The side in pixels of the photos that images are compared with: CelebA's full resolution."""
    people_known: bool
    """Whether the data says who is in each photo. If not, the other person of the ceiling is only another photo."""
    floor: float
    """Distance of the photo at the model's size from itself at full resolution: what a perfect rebuild would have."""
    floor_interval: Interval
    ceiling: float | None
    """Distance of the photo at the model's size from a photo of another person, chosen at random. None if all the
    photos show the same person."""
    ceiling_interval: Interval
    rebuilt: float
    """Distance of the rebuild from its photo."""
    rebuilt_interval: Interval
    edited: float
    """The same for an edit, in which one attribute is flipped: the attributes in turn."""
    edited_interval: Interval


@dataclass(frozen=True, kw_only=True)
class KIDReport:
    """The kernel distance of a set of images from the scored photos, see ``igan_fast.metrics.kid.kid``."""

    features: str
    """The network in whose features it is measured. Only with "Inception" is it the KID of other people's papers."""
    images: int
    """The number of images that were compared."""
    value: float
    """0 on average for images of the same distribution; it can be negative."""
    interval: Interval
    """The interval in which the values of 95 % of the random subsets are; None for fewer than three images."""
    subset_size: int
    fid: float | None
    """The FID. None if the network is not an Inception network."""


@dataclass(frozen=True)
class ImageSetReport:
    """How similar a set of images is to the scored photos, as a whole."""

    images: int
    grain: float | None
    """mean|x − its 3×3 blur|, divided by that of the photos: 1 is as grainy as photos. Noise and checkerboard patterns
    raise it, blur lowers it."""
    frechet_in_judge: float | None
    """Fréchet distance from the photos in the features of the first judge (its pooled last feature map). It is not the
    FID. It is larger the fewer images there are: compare it with that of ``Evaluation.training_photos``. None without a
    judge, or with fewer than two images."""
    kid: KIDReport | None = None
    """None if there is no network to measure it with, or with fewer than two images."""


@dataclass(frozen=True)
class AttributeReport:
    """The scores of one attribute. A score is None if it is undefined, or if it needs a judge and there was none."""

    name: str
    present: float
    """Share of the photos that have it."""
    majority_accuracy: float
    """Accuracy of the majority answer of the training labels."""
    accuracy: float
    balanced_accuracy: float
    f1: float | None
    companions: tuple[str, ...] = ()
    """The attributes that moved along with its edits."""
    judges: tuple[JudgedAttribute, ...] = ()

    @property
    def judge_accuracy(self) -> float | None:
        """Accuracy of the first judge on the same photos."""
        return self.judges[0].accuracy if self.judges else None

    @property
    def edit_change(self) -> float | None:
        """``JudgeScores.edit_change`` of the first judge."""
        return self.judges[0].edit_change if self.judges else None

    @property
    def edit_confirmed(self) -> float | None:
        """``JudgeScores.edit_confirmed`` of the first judge."""
        return self.judges[0].edit_confirmed if self.judges else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The protocol and the scores of one evaluation."""

    data: str
    """A line that describes the photos."""
    split: str
    photos: int
    """The number of photos of the split that were scored."""
    image_size: int
    checkpoint: str
    iteration: int
    additions: str
    """What the model was trained with beyond the paper, as options of ``igan-fast train``; "none" without any."""
    edit_photos: int
    """The number of photos whose edits were judged; 0 without a judge."""
    edit_keep: str
    """What the edits keep: "photo" or "nothing", see ``igan_fast.reference.residual``."""
    edit_strength: float
    """The strength of the edits, see ``igan_fast.reference.editing``."""
    edit_companions: bool
    """Whether the attributes that correlate with an edited one moved along."""
    model: Recognition
    majority: Recognition
    """The scores of the majority answer of the training labels, which ignores the photo."""
    judges: tuple[JudgeReport, ...]
    """None, one or two. The first of those that ``evaluate`` trains is the plain CNN, the paper's baseline."""
    rebuild_l1: float
    """mean|rebuilt − real| of images in [−1, 1]."""
    rebuild_l1_interval: Interval = None
    rebuild_psnr: float
    """Mean over photos, in dB."""
    rebuild_ssim: float
    rebuilt: ImageSetReport
    edited: ImageSetReport
    """Of every scored photo, with one attribute flipped: the attributes in turn."""
    generated: ImageSetReport
    """Faces from noise and the labels of the scored photos."""
    training_photos: ImageSetReport
    """At most as many real photos from the training split, other than those scored."""
    attributes: tuple[AttributeReport, ...]
    identity: IdentityReport | None = None
    """Identity of rebuilds and edits of the photos whose edits were judged. None if there is no embedder."""
    missing: tuple[str, ...] = ()
    """What could not be measured because a package is not installed, and how to install it: a line for each."""

    @property
    def judge(self) -> Recognition | None:
        """How well the first judge recognises the scored photos."""
        return self.judges[0].recognition if self.judges else None

    @property
    def generated_hamming_loss(self) -> float | None:
        """``JudgeReport.generated_hamming_loss`` of the first judge."""
        return self.judges[0].generated_hamming_loss if self.judges else None

    @property
    def edit_change(self) -> float | None:
        """``JudgeScores.edit_change`` of the first judge, the mean over the attributes."""
        return self.judges[0].edit_change if self.judges else None

    @property
    def edit_confirmed(self) -> float | None:
        """``JudgeScores.edit_confirmed`` of the first judge, the mean over the attributes."""
        return self.judges[0].edit_confirmed if self.judges else None

    def to_json(self) -> str:
        """Return the fields and properties of this class as JSON; undefined and infinite numbers become null."""
        return json.dumps(_plain(self), indent=2, allow_nan=False)

    def table(self) -> str:
        """Return the protocol, the means, and a line for each attribute as plain text."""
        return table(self)

    def plot(self, path: str | Path) -> None:
        """Plot for each attribute the accuracies of model and majority and, if there was a judge, the scores of edits.

        Args:
            path: the image file. Its suffix names a format of Matplotlib (.png, .pdf, .svg …). An existing file is
                replaced atomically; missing folders are made.

        Raises:
            InputError: Matplotlib does not know the suffix, or the file cannot be written.
        """
        save_plot(self, path)


def _plain(value: Any) -> Any:
    """Return the value as JSON can hold it: a report as a dict, with None for each NaN or infinite number."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        names += [name for name, item in vars(type(value)).items() if isinstance(item, property)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""How an edit becomes labels for the generator: strength, and the attributes that go along with the one that is edited.

The paper sets the edited attribute to 0 or 1 and leaves the others as they are recognised (Sec. 1). Both additions here
go beyond it. Each can be switched off, and ``edited_labels`` then returns the paper's labels.

*Strength* s scales the signed value of each edited attribute: v ∈ [0, 1] becomes (1 + s · (2v − 1)) / 2. With 1 it
stays v; with 2, 0 and 1 become −0.5 and 1.5, so the generator extrapolates, and the edit is more visible. With less
than 1 the edit is weaker.

An *amount* a, in place of a value, starts from the recognised probability c̃ and is its own strength:

    0: c̃    +1: 1    −1: 0    +2: 1.5    −2: −0.5    between these and beyond them: straight lines

So 0 changes nothing, and +2 is what the value 1 with the strength 2 is.

*Companions* of an edited attribute are those whose correlation with it is at least ``least``, as an absolute value, in
the training labels. A companion j moves as linear regression predicts:

    c_j ← clip(c_j + Σ_jE · Σ_EE⁻¹ · (v_E − c_E), 0, 1)

    Σ: the labels' covariance; E: the edited attributes whose companion j is; v: their values, with a strength of at
    most 1

For one edited attribute a the factor is cov(j, a) / var(a). Without companions, a request often contradicts itself: a
face that is to become male keeps its lipstick, and the generator follows the lipstick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "COMPANIONS_FROM",
    "STRENGTH",
    "Amount",
    "Codec",
    "Companions",
    "Edit",
    "LabelCounts",
    "edited_images",
    "edited_labels",
    "label_counts",
]

#: The strength of an edit in ``FaceEditor``, on the command line and in sample grids, where no other is given.
STRENGTH = 2.0
#: The least correlation, as an absolute value, from which an attribute goes along with an edited one.
COMPANIONS_FROM = 0.3
#: An eigenvalue of Σ_EE counts as 0 below this part of the largest. Rounding gives 1e-15; two attributes that differ in
#: one of a million photos give 1e-6.
_SINGULAR = 1e-10


@dataclass(frozen=True)
class Amount:
    """How far an edit moves an attribute from what is recognised, see above. The edit's strength does not count."""

    value: float
    """0 leaves the attribute, +1 makes it present, −1 absent; +2 and −2 ask for more than that."""


#: The edit of one attribute: its new value in [0, 1], ``"flip"``, or an amount.
Edit: TypeAlias = float | Literal["flip"] | Amount


class LabelCounts(NamedTuple):
    """How often the attributes occur in labelled photos. The covariance of the labels follows from it."""

    photos: int
    """The number of photos, at least 1."""
    together: Tensor
    """(A, A), int64: the number of photos that have both attributes; on the diagonal, of those that have the one."""


def label_counts(labels: Tensor) -> LabelCounts:
    """Count labels (N, A) of 0 and 1, of any dtype.

    Raises:
        ValueError: there is no photo, or another value.
    """
    if labels.dim() != 2 or not len(labels):
        raise ValueError(f"labels: found the shape {tuple(labels.shape)}, expected (N, A) with N at least 1")
    exact = labels.detach().to("cpu", torch.float64)
    if bool((other := (exact != 0) & (exact != 1)).any()):
        raise ValueError(f"labels: found {float(exact[other][0]):g}, expected 0 and 1")
    return LabelCounts(len(labels), (exact.T @ exact).long())


class Companions:
    """The attributes that go along with an edited one, from the covariance of labels.

    Args:
        covariance: (A, A) of labels in {0, 1}; floating point, on any device.
        least: the least correlation, as an absolute value, from which an attribute goes along; in [0, 1].

    Raises:
        ValueError: ``covariance`` is not a covariance matrix of finite numbers, or ``least`` is out of its range.
    """

    def __init__(self, covariance: Tensor, *, least: float = COMPANIONS_FROM) -> None:
        if covariance.dim() != 2 or covariance.shape[0] != covariance.shape[1]:
            raise ValueError(f"covariance: found the shape {tuple(covariance.shape)}, expected (A, A)")
        if not 0 <= least <= 1:
            raise ValueError(f"least: found {least}, expected from 0 to 1")
        self.covariance = covariance.detach().to("cpu", torch.float64)
        self.least = least
        if not bool(self.covariance.isfinite().all()):
            raise ValueError("covariance: found NaN or infinity, expected finite numbers")
        # What was computed from many photos is exact only to about the root of its dtype's precision.
        rounding = torch.finfo(covariance.dtype).eps ** 0.5 if covariance.is_floating_point() else 0.0
        variances = self.covariance.diagonal()
        bounds = torch.outer(variances.clamp(min=0), variances.clamp(min=0)).sqrt()
        slack = rounding * float(self.covariance.abs().max()) if covariance.numel() else 0.0
        if bool(((self.covariance - self.covariance.T).abs() > slack).any()):
            raise ValueError("covariance: found a matrix that is not symmetric")
        if bool((variances < 0).any()) or bool((self.covariance.abs() > bounds + slack).any()):
            raise ValueError("covariance: found a negative variance, or a correlation beyond −1 or 1")
        #: (A, A) in [−1, 1]; 0 where an attribute is constant.
        self.correlation = torch.where(bounds > 0, self.covariance / bounds, 0.0).clamp(-1, 1)

    @classmethod
    def of_counts(cls, counts: LabelCounts, *, least: float = COMPANIONS_FROM) -> Companions:
        """From the counts of labels.

        Raises:
            ValueError: no labels have these counts.
        """
        photos, together = counts
        if photos < 1:
            raise ValueError(f"photos: found {photos}, expected at least 1")
        if together.dim() != 2 or together.shape[0] != together.shape[1] or together.dtype != torch.int64:
            raise ValueError(f"together: found {together.dtype} {tuple(together.shape)}, expected torch.int64 (A, A)")
        together = together.cpu()
        each = together.diagonal()
        for i, count in enumerate(each.tolist()):
            if not 0 <= count <= photos:
                raise ValueError(f"together: attribute {i} is in {count} of {photos} photos")
        fewest = (each[:, None] - (photos - each)[None, :]).clamp(min=0)
        most = torch.minimum(each[:, None], each[None, :])
        wrong = ((together < fewest) | (together > most) | (together != together.T)).nonzero()
        if len(wrong):
            i, j = wrong[0].tolist()
            raise ValueError(
                f"together: attributes {i} and {j} are in {int(each[i])} and {int(each[j])} of {photos} photos, and "
                f"together in {int(together[i, j])} or {int(together[j, i])}; no photos have these counts"
            )
        # Zero exactly where an attribute is constant: each / photos is then exactly 0 or 1.
        frequency = each.double() / photos
        return cls(together.double() / photos - torch.outer(frequency, frequency), least=least)

    @classmethod
    def of_labels(cls, labels: Any, *, least: float = COMPANIONS_FROM) -> Companions:
        """From labels (N, A) of 0 and 1, N at least 1: a tensor, an array or a list.

        Raises:
            ValueError: as ``label_counts``.
        """
        return cls.of_counts(label_counts(torch.as_tensor(labels)), least=least)

    def __len__(self) -> int:
        """The number A of attributes."""
        return len(self.covariance)

    def weights(self, edited: Sequence[int]) -> Tensor:
        """(E, A), float64 on the CPU: how far each attribute moves when the edited attribute e moves from 0 to 1.

        It is 0 for attributes that are no companions of e, and for the edited ones themselves.

        Args:
            edited: the indices of the attributes that are edited together.
        """
        indices = list(edited)
        covariance = self.covariance[indices]
        along = (self.correlation[indices].abs() >= self.least).to(covariance.dtype)  # (E, A)
        along[:, indices] = 0
        # For each j, Σ_EE with zeros in place of the edited attributes whose companion it is not: the pseudoinverse has
        # them in the same places. It also allows for attributes that are constant, or equal, in the training labels.
        among = covariance[:, indices] * along.T[:, :, None] * along.T[:, None, :]  # (A, E, E)
        inverse = torch.linalg.pinv(among, rtol=_SINGULAR, hermitian=True)
        return torch.einsum("jde,ej->dj", inverse, covariance * along) * along


def edited_labels(
    c: Tensor,
    changes: Mapping[int, Edit],
    *,
    strength: float = 1.0,
    companions: Companions | None = None,
) -> Tensor:
    """The labels from which the generator draws the edited images.

    Args:
        c: (N, A), the recognised probabilities; floating point, on any device.
        changes: for the index of each attribute to change, its new value in [0, 1]; ``"flip"``: 1 where its
            probability is below 0.5, else 0; or an ``Amount``.
        strength: s above, of values and flips; 1 is the paper's.
        companions: which attributes go along; none where omitted.

    Returns:
        A new tensor (N, A). An edited attribute of value v is (1 + s · (2v − 1)) / 2, which may lie outside [0, 1]; a
        companion is in [0, 1]; all others are those of ``c``.

    Raises:
        ValueError: an index, a value, an amount or the strength is out of range, or ``companions`` are of another
            number of attributes.
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength: found {strength}, expected a finite number, at least 0")
    if companions is not None and len(companions) != c.shape[1]:
        raise ValueError(f"companions: found those of {len(companions)} attributes, expected {c.shape[1]}")
    edited = list(changes)
    if not edited:
        return c.clone()
    result = c.clone()
    targets = _targets(c, changes, strength)
    if companions is not None:
        weights = companions.weights(edited).to(c.device, c.dtype)
        reached = _targets(c, changes, min(strength, 1.0)).clamp(0, 1)
        moved = c + (reached - c[:, edited]) @ weights
        result = torch.where(weights.any(dim=0), moved.clamp(0, 1), c)
    result[:, edited] = targets
    return result


class Codec(Protocol):
    """The methods of ``IterativeGAN`` that an edit needs."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def generate(self, z: Tensor, c: Tensor) -> Tensor: ...


def edited_images(
    model: Codec,
    x: Tensor,
    changes: Mapping[int, Edit],
    *,
    strength: float = 1.0,
    companions: Companions | None = None,
) -> Tensor:
    """Rebuild images x (N, 3, S, S) from their codes with some attributes changed: G(z̃, ``edited_labels`` of σ(c̃)).

    ``IterativeGAN.transform`` is this function. Call the function where a subclass may have its own ``transform``,
    which perhaps takes no ``strength`` and no ``companions``.

    Args:
        model: of its methods, only ``encode`` and ``generate`` are called.
        changes, strength, companions: as of ``edited_labels``.

    Raises:
        ValueError: as ``edited_labels``.
    """
    z, label_logits = model.encode(x)
    return model.generate(
        z, edited_labels(torch.sigmoid(label_logits), changes, strength=strength, companions=companions)
    )


def _targets(c: Tensor, changes: Mapping[int, Edit], strength: float) -> Tensor:
    """What the edited attributes are to be, (N, E)."""
    return torch.stack([_target(c, index, edit, strength) for index, edit in changes.items()], dim=1)


def _target(c: Tensor, index: int, edit: Edit, strength: float) -> Tensor:
    """What one edited attribute is to be, (N,)."""
    if not 0 <= index < c.shape[1]:
        raise ValueError(f"changes: attribute {index} is out of range; the model has {c.shape[1]}")
    recognised = c[:, index]
    if isinstance(edit, Amount):
        if not math.isfinite(edit.value):
            raise ValueError(f"changes: attribute {index} is moved by {edit.value}; expected a finite number")
        size = abs(edit.value)
        end = float(edit.value > 0)
        within = recognised + min(size, 1.0) * (end - recognised)
        return within + max(size - 1, 0.0) * (end - 0.5)
    if edit == "flip":
        value = (recognised < 0.5).to(c.dtype)
    elif 0 <= edit <= 1:
        value = torch.full_like(recognised, edit)
    else:
        raise ValueError(f"changes: attribute {index} is set to {edit}; expected [0, 1], 'flip' or an Amount")
    return value + (strength - 1) * (value - 0.5)  # exactly the value with strength 1

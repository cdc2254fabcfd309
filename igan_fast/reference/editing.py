"""How an edit becomes labels for the generator: strength, and the attributes that go along with the one that is edited.

The paper sets the edited attribute to 0 or 1 and leaves the others as they are recognised (Sec. 1). Both additions here
go beyond it. Each can be switched off, and ``edited_labels`` then returns the paper's labels.

*Strength* s scales the signed value of each edited attribute: v ∈ [0, 1] becomes (1 + s · (2v − 1)) / 2. With 1 it
stays v; with 1.5, 0 and 1 become −0.25 and 1.25, so the generator extrapolates, and the edit is more visible.

*Companions* are attributes whose correlation with an edited attribute is at least ``least`` in the training labels.
Each moves as linear regression predicts from the edited ones:

    c_j ← clip(c_j + Σ_jE · Σ_EE⁻¹ · (v_E − c_E), 0, 1)        (Σ: the labels' covariance, E: the edited attributes)

For one edited attribute a the factor is cov(j, a) / var(a). Without companions, a request often contradicts itself: a
face that is to become male keeps its lipstick, and the generator follows the lipstick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

__all__ = ["COMPANIONS_FROM", "STRENGTH", "Companions", "edited_labels"]

#: The strength with which edits are asked for unless another one is given.
STRENGTH = 1.5
#: The least correlation, as an absolute value, from which an attribute goes along with an edited one.
COMPANIONS_FROM = 0.3


class Companions:
    """The attributes that go along with an edited one, from the covariance of labels.

    Args:
        covariance: (A, A) of labels in {0, 1}; floating point, on any device.
        least: the least correlation, as an absolute value; in [0, 1].

    Raises:
        ValueError: ``covariance`` is not a symmetric matrix of finite numbers, or ``least`` is out of its range.
    """

    def __init__(self, covariance: Tensor, *, least: float = COMPANIONS_FROM) -> None:
        square = covariance.dim() == 2 and covariance.shape[0] == covariance.shape[1]
        if not square or not bool(covariance.isfinite().all()) or not torch.allclose(covariance, covariance.T):
            raise ValueError(
                f"covariance: found {tuple(covariance.shape)}, expected a symmetric (A, A) of finite numbers"
            )
        if not 0 <= least <= 1:
            raise ValueError(f"least: found {least}, expected from 0 to 1")
        self.covariance = covariance.detach().to("cpu", torch.float64)
        self.least = least
        deviations = self.covariance.diagonal().clamp(min=0).sqrt()
        scale = torch.outer(deviations, deviations)
        #: (A, A) in [−1, 1]; 0 where an attribute is constant.
        self.correlation = torch.where(scale > 0, self.covariance / scale, torch.zeros_like(scale))

    @classmethod
    def of_labels(cls, labels: Tensor, *, least: float = COMPANIONS_FROM) -> Companions:
        """From labels (N, A) in {0, 1}, N at least 1."""
        return cls(torch.cov(labels.double().T, correction=0).reshape(labels.shape[1], -1), least=least)

    def weights(self, edited: list[int]) -> Tensor:
        """(E, A): how far each attribute moves when the edited attribute e moves by 1. It is 0 for attributes that do
        not go along, and for the edited ones themselves.

        Args:
            edited: the indices of the edited attributes.
        """
        among = self.covariance[edited][:, edited]
        # The pseudoinverse, because an attribute may be constant, or two may be equal, in the training labels.
        found = torch.linalg.pinv(among, hermitian=True) @ self.covariance[edited]
        along = (self.correlation[edited].abs() >= self.least).any(dim=0)
        along[edited] = False
        return torch.where(along, found, torch.zeros_like(found))


def edited_labels(
    c: Tensor,
    changes: Mapping[int, float | Literal["flip"]],
    *,
    strength: float = 1.0,
    companions: Companions | None = None,
) -> Tensor:
    """The labels from which the generator draws the edited images.

    Args:
        c: (N, A), the recognised probabilities.
        changes: for the index of each attribute to change, its new value in [0, 1], or ``"flip"``: 1 where its
            probability is below 0.5, else 0.
        strength: s above; 1 is the paper's.
        companions: which attributes go along; none where omitted.

    Returns:
        A new tensor (N, A). The edited attributes are in [(1 − s)/2, (1 + s)/2], the others in [0, 1].

    Raises:
        ValueError: an index, a value or the strength is out of range.
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength: found {strength}, expected a number that is not negative, and finite")
    edited = list(changes)
    targets = torch.stack([_target(c, index, changes[index]) for index in edited], dim=1) if edited else c[:, :0]
    result = c.clone()
    if companions is not None and edited:
        weights = companions.weights(edited).to(c.device, c.dtype)
        moved = result + (targets - c[:, edited]) @ weights
        result = torch.where(weights.any(dim=0), moved.clamp(0, 1), result)
    result[:, edited] = (1 + strength * (2 * targets - 1)) / 2
    return result


def _target(c: Tensor, index: int, value: float | Literal["flip"]) -> Tensor:
    """The value (N,) that the attribute is to have, in [0, 1]."""
    if not 0 <= index < c.shape[1]:
        raise ValueError(f"changes: attribute {index} is out of range; the model has {c.shape[1]}")
    if value == "flip":
        return (c[:, index] < 0.5).to(c.dtype)
    if not 0 <= value <= 1:
        raise ValueError(f"changes: attribute {index} is set to {value}; expected [0, 1] or 'flip'")
    return torch.full_like(c[:, index], value)

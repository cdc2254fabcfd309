"""The batch that G generates in training: in part edited rebuilds of photos, as the model is used later.

In the paper all generated images come from noise z, with the photos' labels. An edit, however, is drawn from the code z̃
of a photo, with other labels than the photo has, and G is never trained on that. Here a share of the generated batch
takes z := z̃ of the previous iteration's photos (detached), so that the losses of the paper judge edits too. AttGAN (He
et al., TIP 2019) and StarGAN (Choi et al., CVPR 2018) also train on edited photos. Of these rows

* the first half keep the labels of their own photo, with one to three random attributes flipped;
* the others take the labels of the photos of this iteration.

The codes are one iteration old, because those of this iteration's photos are known only after the generated images are.
Extra updates (Sec. 4.1) come after the iteration, so they use the codes of its own photos.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from igan_fast.reference.ops import widen

__all__ = ["EditedRebuilds", "GeneratedBatch", "draw_flips"]

#: The largest number of attributes that are flipped in one image.
MOST_FLIPS = 3


class GeneratedBatch(NamedTuple):
    """What N images are generated from."""

    z: Tensor
    """(N, latent) in [−1, 1]."""
    c: Tensor
    """(N, A) in {0, 1}."""
    flips: Tensor | None
    """(N, A), bool: the attributes that are not those of the image's photo; None if there are no edited rebuilds."""


def draw_flips(
    batch_size: int, attributes: int, edited_share: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the attributes to flip: one to three in each of the first rows, none in the others.

    Args:
        batch_size, attributes: N, A.
        edited_share: as ``StepConfig.edited_share``.
        generator: a generator of the CPU; PyTorch's global one where omitted.

    Returns:
        (N, A), bool, on the CPU.
    """
    rows, _ = _edited_rows(batch_size, edited_share)
    count = torch.randint(1, MOST_FLIPS + 1, (rows, 1), generator=generator)
    rank = torch.rand(rows, attributes, generator=generator).argsort(1).argsort(1)
    flips = torch.zeros(batch_size, attributes, dtype=torch.bool)
    flips[:rows] = rank < count
    return flips


class EditedRebuilds:
    """Composes the generated batch of each iteration, and keeps the codes for the next one.

    Args:
        share: as ``StepConfig.edited_share``.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.z: Tensor | None = None
        """z̃ of the previous iteration's photos (N, latent), float32; None before the first iteration."""
        self.labels: Tensor | None = None
        """The labels of these photos (N, A)."""

    def compose(self, labels: Tensor, noise: Tensor, flips: Tensor | None) -> GeneratedBatch:
        """Return what the generated images of this iteration are drawn from.

        Args:
            labels: of this iteration's photos (N, A), in {0, 1}.
            noise: z (N, latent).
            flips: (N, A), bool, on any device, as ``draw_flips`` returns them; None: they are drawn here. A flip in a
                row that is no edited rebuild counts as well.

        Raises:
            ValueError: ``flips`` have another shape or dtype.
        """
        if self.share == 0:
            return GeneratedBatch(noise, labels, None)
        if flips is None:
            flips = draw_flips(len(labels), labels.shape[1], self.share)
        if flips.shape != labels.shape or flips.dtype != torch.bool:
            found = f"{flips.dtype} {tuple(flips.shape)}"
            raise ValueError(f"flips: found {found}, expected torch.bool {tuple(labels.shape)}, as labels")
        flips = flips.to(labels.device, non_blocking=True)
        own, edited = _edited_rows(len(labels), self.share)
        if self.z is None or self.labels is None or len(self.z) < edited:  # no codes, or of a smaller batch
            return GeneratedBatch(noise, labels, torch.zeros_like(flips))
        z = torch.cat([self.z[:edited].to(noise.dtype), noise[edited:]])
        c = torch.cat([self.labels[:own].to(labels.dtype), labels[own:]])
        return GeneratedBatch(z, torch.where(flips, (c < 0.5).to(c.dtype), c), flips)

    def keep(self, z: Tensor, labels: Tensor) -> None:
        """Keep the codes z̃ (N, latent) and the labels (N, A) of this iteration's photos for the next one."""
        if self.share == 0:
            return
        # Copies, because a CUDA graph overwrites its results, and the caller may reuse the labels' memory.
        self.z, self.labels = widen(z.detach()).clone(), labels.detach().clone()


def _edited_rows(batch_size: int, share: float) -> tuple[int, int]:
    """The number of rows with flipped attributes, and that of all edited rebuilds."""
    edited = int(share * batch_size + 0.5)
    return (edited + 1) // 2, edited

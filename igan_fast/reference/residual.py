"""Edits that keep the photo: what the edit changes is added to the photo, instead of drawing the photo again.

A rebuild G(z̃, c̃) is blurred, and not quite the same person; the paper's edit G(z̃, c′) is as well. The difference of the
two, d = G(z̃, c′) − G(z̃, c̃), is what the edit changes. It is added to the photo x:

    x + m · (d + (G(z̃, c̃) − x) / 2)
    m = min(1, D / 0.15)        D: |d| averaged over colours and neighbours

Where the edit changes nothing, m is 0 and the photo stays. Where it changes much, m is 1, and the photo's own details
give way by half: without that, an old smile shows through a new mouth. This goes beyond the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.reference.editing import Codec, Companions, Edit, edited_labels

__all__ = ["edited_photos", "on_photos"]

#: The change, of images in [−1, 1], from which on a pixel is changed fully.
_FULL = 0.15
#: The part of the image's side over which the change is averaged.
_NEIGHBOURS = 7 / 64
#: How much of its own details the photo loses where it is changed fully.
_GIVES_WAY = 0.5


def on_photos(x: Tensor, rebuilt: Tensor, edited: Tensor) -> Tensor:
    """Photos with the change from their rebuilds to the edited rebuilds.

    Args:
        x, rebuilt, edited: images (N, 3, S, S) in [−1, 1].

    Returns:
        (N, 3, S, S) in [−1, 1]; exactly ``x`` where ``edited`` equals ``rebuilt`` all around.
    """
    change = edited - rebuilt
    reach = int(_NEIGHBOURS * x.shape[-1] / 2)
    amount = F.pad(change.abs().mean(1, keepdim=True), (reach,) * 4, mode="replicate")
    mask = (F.avg_pool2d(amount, 2 * reach + 1, 1) / _FULL).clamp(max=1)
    return (x + mask * (change + _GIVES_WAY * (rebuilt - x))).clamp(-1, 1)


def edited_photos(
    model: Codec,
    x: Tensor,
    changes: Mapping[int, Edit],
    *,
    strength: float = 1.0,
    companions: Companions | None = None,
) -> Tensor:
    """Photos x (N, 3, S, S) with some attributes changed: ``on_photos`` of the rebuild and the edited rebuild.

    Args:
        model: of its methods, only ``encode`` and ``generate`` are called.
        changes, strength, companions: as of ``igan_fast.reference.editing.edited_labels``.

    Raises:
        ValueError: as ``edited_labels``.
    """
    z, label_logits = model.encode(x)
    c = torch.sigmoid(label_logits)
    edited = model.generate(z, edited_labels(c, changes, strength=strength, companions=companions))
    return on_photos(x, model.generate(z, c), edited)

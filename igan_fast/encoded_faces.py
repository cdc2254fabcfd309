"""Faces as a model encodes them: any number of edits of them run the generator alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from igan_fast.edit_arguments import Keep
from igan_fast.reference.editing import Codec
from igan_fast.reference.residual import on_photos

__all__ = ["EncodedFaces"]


@dataclass(frozen=True)
class EncodedFaces:
    """N images, and what the model makes of them. ``EncodedFaces.of`` makes it."""

    model: Codec
    x: Tensor  #: (N, 3, S, S) in [−1, 1]
    z: Tensor  #: (N, L), the latent codes z̃
    label_logits: Tensor  #: (N, A), c̃

    @classmethod
    def of(cls, model: Codec, x: Tensor) -> EncodedFaces:
        """Encode images (N, 3, S, S) in [−1, 1]. Of the model only ``encode`` and ``generate`` are called."""
        return cls(model, x, *model.encode(x))

    @functools.cached_property
    def c(self) -> Tensor:
        """The recognised probabilities σ(c̃), (N, A)."""
        return torch.sigmoid(self.label_logits)

    @functools.cached_property
    def rebuilt(self) -> Tensor:
        """The rebuilds G(z̃, σ(c̃)), (N, 3, S, S); drawn when they are first needed."""
        return self.model.generate(self.z, self.c)

    def edited(self, labels: Tensor, keep: Keep) -> Tensor:
        """Draw the faces with other labels.

        Args:
            labels: (N, A), see ``igan_fast.reference.editing.edited_labels``; if N is 1, any number of rows.
            keep: ``"photo"`` adds the change to the images, see ``igan_fast.reference.residual``; ``"nothing"`` draws
                the faces anew.

        Returns:
            An image for each row of ``labels``.
        """
        edited = self.model.generate(self.z.expand(len(labels), -1), labels)
        if keep == "nothing":
            return edited
        return on_photos(self.x.expand_as(edited), self.rebuilt.expand_as(edited), edited)

"""``FaceGenerator`` generates faces with a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from igan_fast.data.attributes import Change
from igan_fast.data.loader import to_uint8
from igan_fast.edit_arguments import check_edit, label_rows, values_by_index
from igan_fast.errors import InputError
from igan_fast.metrics import finite_results
from igan_fast.reference import Companions, IterativeGAN
from igan_fast.reference.editing import STRENGTH, edited_labels

__all__ = ["FaceGenerator", "to_pil"]

PILImage = Image.Image

#: The largest number of faces that one call generates: more than any study needs, and few enough for one folder.
MOST_FACES = 1_000_000


class FaceGenerator:
    """Generate faces with a trained ``IterativeGAN``. ``FaceEditor`` is one that takes photos too.

    Args:
        model: the model, which is put into eval mode. Faces are computed on its device.
        attributes: the names of its attributes, in order.
        label_samples: rows of real labels, (M, A) of 0 and 1, as an array or a list. Attributes that the caller does
            not set come from a random row.
        companions: the attributes that go along with an edited one; none where omitted.
        batch_size: the number of faces in a batch.

    Raises:
        InputError: ``attributes``, ``label_samples`` or ``companions`` do not fit the model.
    """

    def __init__(
        self,
        model: IterativeGAN,
        attributes: Sequence[str],
        *,
        label_samples: ArrayLike | None = None,
        companions: Companions | None = None,
        batch_size: int = 64,
    ) -> None:
        arguments = model.arguments()
        count = arguments["attributes"]
        if len(attributes) != count:
            raise InputError(f"attributes: found {len(attributes)} names for a model of {count} attributes")
        samples = None if label_samples is None else label_rows(label_samples, count)
        if companions is not None and not isinstance(companions, Companions):
            raise InputError(f"companions: found a {type(companions).__name__}, expected Companions or None")
        if companions is not None and len(companions) != count:
            raise InputError(f"companions: found those of {len(companions)} attributes for a model of {count}")
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, expected at least 1")
        self.model = model.eval()
        self.attributes = tuple(attributes)
        self.companions = companions
        self.image_size: int = arguments["image_size"]
        self.batch_size = batch_size
        self._latent: int = arguments["latent"]
        self._label_samples = None if samples is None or not len(samples) else samples

    def generate(
        self,
        n: int,
        attributes: Mapping[str, Change] | None = None,
        *,
        strength: float = STRENGTH,
        companions: bool = True,
        seed: int = 0,
    ) -> list[PILImage]:
        """Generate faces.

        Attributes that are not set come from a random row of ``label_samples``, so they fit together as those of a real
        person. Without samples each of them is 0.5. Setting an attribute edits this row as ``transform`` edits what it
        recognises in a photo. The noise and the row of face k depend only on ``seed`` and k. So the same seed with
        other ``attributes`` gives the same faces with these changes, and a larger ``n`` gives the same faces and more.

        Args:
            n: how many, from 1 to 1,000,000.
            attributes: values in [0, 1] by name, or amounts, which start from the value in the row; see ``transform``.
            strength: how far the attributes that are set go, as in ``transform``.
            companions: whether other attributes of the row move along with them, as in ``transform``. If the row has
                the value that is set already, nothing moves.
            seed: from 0 to 2⁶³ − 1.

        Raises:
            InputError: a value out of range, or an unknown attribute (the message suggests similar names).
        """
        batches = self.generate_batches(n, attributes, strength=strength, companions=companions, seed=seed)
        return [image for batch in batches for image in batch]

    def generate_batches(
        self,
        n: int,
        attributes: Mapping[str, Change] | None = None,
        *,
        strength: float = STRENGTH,
        companions: bool = True,
        seed: int = 0,
    ) -> Iterator[list[PILImage]]:
        """Yield the faces of ``generate``, ``batch_size`` at a time, for more faces than fit in memory.

        Raises:
            InputError: as ``generate``; raised by the call itself, before the first batch.
        """
        if not 1 <= n <= MOST_FACES:
            raise InputError(f"n: found {n:,}, expected from 1 to {MOST_FACES:,} faces")
        if not 0 <= seed < 2**63:
            raise InputError(f"seed: found {seed}, expected from 0 to 2⁶³ − 1")
        check_edit(strength, companions)
        values = values_by_index(attributes or {}, self.attributes)
        along = self.companions if companions else None
        return self._drawn(n, lambda c: edited_labels(c, values, strength=strength, companions=along), seed)

    def _drawn(self, n: int, edit: Callable[[Tensor], Tensor], seed: int) -> Iterator[list[PILImage]]:
        noise_rng, label_rng = np.random.default_rng(seed).spawn(2)
        for start in range(0, n, self.batch_size):
            count = min(self.batch_size, n - start)
            noise = noise_rng.uniform(-1, 1, (count, self._latent)).astype(np.float32)
            labels = np.full((count, len(self.attributes)), 0.5, np.float32)
            if self._label_samples is not None:
                labels[:] = self._label_samples[label_rng.integers(len(self._label_samples), size=count)]
            with torch.inference_mode():
                z, c = (torch.from_numpy(array).to(self.device) for array in (noise, labels))
                yield to_pil(self.model.generate(z, edit(c)))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))  # of ONNX: none


def to_pil(images: Tensor) -> list[PILImage]:
    """Return images (N, 3, S, S) in [−1, 1] as PIL images. Raises ``InputError`` if one holds NaN or infinity."""
    return [Image.fromarray(image) for image in to_uint8(finite_results(images)).cpu().numpy()]

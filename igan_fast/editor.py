"""``FaceEditor`` uses a trained model: recognise attributes in photos, generate faces, rebuild and edit photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from igan_fast.checkpoint import load_model
from igan_fast.data.attributes import Change, attribute_indices, changes_by_index
from igan_fast.data.loader import to_float, to_uint8
from igan_fast.data.photos import Photo, load_photos
from igan_fast.devices import resolve_device
from igan_fast.edit_arguments import check_edit, label_rows, moves_by_name, values_by_index
from igan_fast.errors import InputError
from igan_fast.metrics import finite_results
from igan_fast.paths import given_path
from igan_fast.reference import Companions, IterativeGAN
from igan_fast.reference.editing import STRENGTH, edited_images, edited_labels

__all__ = ["FaceEditor"]

PILImage = Image.Image
P = TypeVar("P", bound=Photo)
R = TypeVar("R")
One: TypeAlias = str | Path | PILImage
Several: TypeAlias = list[P] | tuple[P, ...]

#: The largest number of faces that one call generates: more than any study needs, and few enough for one folder.
MOST_FACES = 1_000_000


class FaceEditor:
    """Use a trained ``IterativeGAN``.

    The argument ``photos`` of a method is one photo or several. One photo is a path, a PIL image, or a uint8 array
    (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Several photos are a list or tuple of these, or one array (N, H, W, C).
    Any size and colour mode is accepted, see ``igan_fast.data.photos.load_photo``. For one photo a method returns one
    result, for several a list. Returned images are square RGB images of ``image_size`` pixels a side.

    Args:
        model: the model, which is put into eval mode. The editor computes on the model's device. It calls the methods
            ``encode`` and ``generate``, so a subclass that overrides ``transform`` or ``rebuild`` changes nothing here.
        attributes: the names of its attributes, in order.
        label_samples: rows of real labels, (M, A) of 0 and 1, as an array or a list. ``generate`` takes the attributes
            that the caller does not set from a random row.
        companions: the attributes that go along with an edited one, such as ``Companions.of_labels(labels)``; none
            where omitted.
        batch_size: the number of photos in a batch.

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

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "auto",
        weights: Literal["ema", "model"] = "ema",
        batch_size: int = 64,
    ) -> FaceEditor:
        """Load the model of a run (its best checkpoint) or of a checkpoint folder.

        Args:
            path: the folder. If a run has no best checkpoint, its newest one is loaded.
            device: where the editor computes; ``"auto"`` takes the GPU if there is one.
            weights: ``"ema"`` takes the averaged weights, or the plain ones if the run kept no average; ``"model"``
                takes the plain ones.
            batch_size: the number of photos in a batch.

        Raises:
            InputError: there is no checkpoint at ``path``, or it is damaged or holds no model; the ``device`` is not
                available; ``weights`` is neither of the two; ``batch_size`` is below 1.
        """
        loaded = load_model(given_path(path, "path"), device=resolve_device(device), weights=weights)
        return cls(
            loaded.model,
            loaded.attributes,
            label_samples=loaded.label_samples.numpy(),
            companions=loaded.companions,
            batch_size=batch_size,
        )

    @overload
    def recognise(self, photos: One) -> dict[str, float]: ...
    @overload
    def recognise(self, photos: Several[P]) -> list[dict[str, float]]: ...
    @overload
    def recognise(self, photos: NDArray[Any]) -> Any: ...
    def recognise(self, photos: Photo | Sequence[Photo]) -> dict[str, float] | list[dict[str, float]]:
        """Return the probability of each attribute, by name.

        Raises:
            InputError: something passed is not a photo, see ``igan_fast.data.photos.load_photo``; or the model's
                results are NaN or infinite.
        """

        def probabilities(x: Tensor) -> list[dict[str, float]]:
            rows = finite_results(torch.sigmoid(self.model.encode(x).label_logits)).tolist()
            return [dict(zip(self.attributes, row, strict=True)) for row in rows]

        return self._each(photos, probabilities)

    @overload
    def rebuild(self, photos: One) -> PILImage: ...
    @overload
    def rebuild(self, photos: Several[P]) -> list[PILImage]: ...
    @overload
    def rebuild(self, photos: NDArray[Any]) -> Any: ...
    def rebuild(self, photos: Photo | Sequence[Photo]) -> PILImage | list[PILImage]:
        """Let the model draw photos again from what it recognises in them: ``transform`` without changes.

        Raises:
            InputError: as ``recognise``.
        """
        return self._each(photos, lambda x: _to_pil(edited_images(self.model, x, {})))

    @overload
    def transform(
        self, photos: One, changes: Mapping[str, Change], *, strength: float = ..., companions: bool = ...
    ) -> PILImage: ...
    @overload
    def transform(
        self, photos: Several[P], changes: Mapping[str, Change], *, strength: float = ..., companions: bool = ...
    ) -> list[PILImage]: ...
    @overload
    def transform(
        self, photos: NDArray[Any], changes: Mapping[str, Change], *, strength: float = ..., companions: bool = ...
    ) -> Any: ...
    def transform(
        self,
        photos: Photo | Sequence[Photo],
        changes: Mapping[str, Change],
        *,
        strength: float = STRENGTH,
        companions: bool = True,
    ) -> PILImage | list[PILImage]:
        """Let the model draw photos again with some attributes changed.

        By default the model is asked for more than the changes say, so that they are visible, and attributes that
        depend on a changed one go along. With ``strength=1, companions=False`` the edit is the paper's.

        Args:
            changes: the new values by name, in [0, 1], or ``"flip"``. A flipped attribute becomes 1 in a photo in which
                it is recognised as absent (probability below 0.5), else 0.
            strength: how far the changed attributes go, from 0 to 10. With 1, they get their values; with 1.5, those
                set to 1 or 0 get 1.25 or −0.25, so that the change is more visible; with 0, all get 0.5.
            companions: whether the attributes of ``companions_of`` move along. All others stay as they are recognised.

        Raises:
            InputError: as ``recognise``; an unknown attribute (the message suggests similar names), another value, or
                a strength out of its range.
        """
        check_edit(strength, companions)
        by_index = changes_by_index(changes, self.attributes)
        along = self.companions if companions else None
        return self._each(
            photos, lambda x: _to_pil(edited_images(self.model, x, by_index, strength=strength, companions=along))
        )

    def companions_of(self, attributes: Iterable[str]) -> dict[str, dict[str, float]]:
        """Return which attributes go along if ``attributes`` are changed together, and how far.

        An attribute goes along with a changed one if their correlation in the training labels is at least 0.3 or at
        most −0.3. How far it moves is the linear regression of its label on those of the changed ones.

        Args:
            attributes: names, such as ``["Male", "Bangs"]``, or the changes of ``transform``.

        Returns:
            For each of ``attributes``, by name: how far each other attribute moves when this one moves from 0 to 1, the
            largest move first. Values stay in [0, 1]. It is empty if nothing goes along, and if the editor has no
            companions: a checkpoint of an old version keeps no training labels.

        Raises:
            InputError: an unknown attribute (the message suggests similar names), or one that is given twice.
        """
        indices = attribute_indices(attributes, self.attributes)
        return moves_by_name(self.companions, indices, self.attributes)

    def generate(
        self,
        n: int,
        attributes: Mapping[str, float] | None = None,
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
            attributes: values in [0, 1] by name.
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
        attributes: Mapping[str, float] | None = None,
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
                z, c = (torch.from_numpy(array).to(self._device) for array in (noise, labels))
                yield _to_pil(self.model.generate(z, edit(c)))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _each(self, photos: Photo | Sequence[Photo], run: Callable[[Tensor], list[R]]) -> R | list[R]:
        """Call ``run`` on batches (B, 3, S, S) in [−1, 1]; return one result for one photo, a list for several."""
        several = isinstance(photos, list | tuple) or (isinstance(photos, np.ndarray) and photos.ndim == 4)
        results: list[R] = []
        with torch.inference_mode():
            each: Sequence[Photo] = photos if several else [photos]  # type: ignore[list-item, assignment]
            for batch in load_photos(each, self.image_size, self.batch_size):
                results += run(to_float(torch.from_numpy(batch).to(self._device)))
        return results if several else results[0]


def _to_pil(images: Tensor) -> list[PILImage]:
    return [Image.fromarray(image) for image in to_uint8(finite_results(images)).cpu().numpy()]

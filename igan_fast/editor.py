"""``FaceEditor`` uses a trained model: recognise attributes in photos, generate faces, rebuild and edit photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from igan_fast.checkpoint import load_model
from igan_fast.data.attributes import Change, attribute_indices, changes_by_index
from igan_fast.data.loader import to_float
from igan_fast.data.photos import Photo
from igan_fast.devices import resolve_device
from igan_fast.edit_arguments import Keep, check_edit, check_keep, moves_by_name
from igan_fast.errors import InputError
from igan_fast.export import OnnxModel, is_export
from igan_fast.face_generator import FaceGenerator, to_pil
from igan_fast.faces import Align, AlignedPhoto, FaceSearch, check_choice, each_photo
from igan_fast.metrics import finite_results
from igan_fast.ops.constant import freeze
from igan_fast.paths import given_path
from igan_fast.reference import Companions, IterativeGAN
from igan_fast.reference.editing import STRENGTH, edited_images
from igan_fast.reference.residual import edited_photos

__all__ = ["FaceEditor"]

PILImage = Image.Image
P = TypeVar("P", bound=Photo)
R = TypeVar("R")
T = TypeVar("T")
One: TypeAlias = str | Path | PILImage
Several: TypeAlias = list[P] | tuple[P, ...]


class FaceEditor(FaceGenerator):
    """Use a trained ``IterativeGAN``.

    The argument ``photos`` of a method is one photo or several. One photo is a path, a PIL image, or a uint8 array
    (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Several photos are a list or tuple of these, or one array (N, H, W, C).
    Any size and colour mode is accepted, see ``igan_fast.data.photos.load_photo``. For one photo a method returns one
    result, for several a list. A photo of 178×218 pixels, as CelebA's aligned ones, or of ``image_size`` pixels a side
    is taken as it is, and a rebuild of it is a square RGB image of ``image_size`` pixels a side. In any other photo
    faces are searched (``align``, ``face``), and the face is pasted back into the photo at its own resolution.

    Args:
        model: the model, which is put into eval mode. The editor computes on the model's device. It calls the methods
            ``encode`` and ``generate``, so a subclass that overrides ``transform`` or ``rebuild`` changes nothing here.
        attributes: the names of its attributes, in order.
        label_samples: rows of real labels, (M, A) of 0 and 1, as an array or a list. ``generate`` takes the attributes
            that the caller does not set from a random row.
        companions: the attributes that go along with an edited one, such as ``Companions.of_labels(labels)``; none
            where omitted.
        batch_size: the number of photos in a batch.
        align, face: which faces are taken, as of ``igan_fast.faces.FaceSearch``. The attributes ``align`` and ``face``
            may be changed later.
        drawn: whether the model was trained on drawn faces, which are not aligned. Then ``align="auto"`` is ``"off"``.

    Raises:
        InputError: ``attributes``, ``label_samples`` or ``companions`` do not fit the model; ``align`` or ``face`` has
            another value.
    """

    def __init__(
        self,
        model: IterativeGAN,
        attributes: Sequence[str],
        *,
        label_samples: ArrayLike | None = None,
        companions: Companions | None = None,
        batch_size: int = 64,
        align: Align = "auto",
        face: str | int = "largest",
        drawn: bool = False,
    ) -> None:
        super().__init__(model, attributes, label_samples=label_samples, companions=companions, batch_size=batch_size)
        check_choice(align, face)
        self.align: Align = align
        self.face = face
        self._drawn_faces = drawn

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "auto",
        weights: Literal["ema", "model"] = "ema",
        batch_size: int = 64,
        align: Align = "auto",
        face: str | int = "largest",
    ) -> FaceEditor:
        """Load the model of a run (its best checkpoint), a checkpoint folder, or an export (``igan-fast export``).

        The model is frozen, see ``igan_fast.freeze``: it is faster with a photo alone.

        Args:
            path: the folder. If a run has no best checkpoint, its newest one is loaded. Of an export the ONNX files are
                loaded; ONNX Runtime runs them on the CPU.
            device: where the editor computes; ``"auto"`` takes the GPU if there is one.
            weights: ``"ema"`` takes the averaged weights, or the plain ones if the run kept no average; ``"model"``
                takes the plain ones.
            batch_size: the number of photos in a batch.
            align, face: as of the class.

        Raises:
            InputError: there is no checkpoint at ``path``, or it is damaged or holds no model; the ``device`` is not
                available; ``weights``, ``align`` or ``face`` has another value; ``batch_size`` is below 1.
        """
        folder = given_path(path, "path")
        options: dict[str, Any] = {"batch_size": batch_size, "align": align, "face": face}
        if is_export(folder):
            return cls._of_export(folder, str(device), weights, options)
        loaded = load_model(folder, device=resolve_device(device), weights=weights)
        return cls(
            freeze(loaded.model),
            loaded.attributes,
            label_samples=loaded.label_samples.numpy(),
            companions=loaded.companions,
            drawn=loaded.config.get("data") == "drawn",
            **options,
        )

    @classmethod
    def _of_export(cls, folder: Path, device: str, weights: str, options: Mapping[str, Any]) -> FaceEditor:
        if device not in ("auto", "cpu"):
            raise InputError(f"device: found {device!r}, expected 'cpu' or 'auto': an exported model runs on the CPU")
        if weights != "ema":
            raise InputError(f"weights: found {weights!r}, expected 'ema': {folder} is an export, which has one set")
        model = OnnxModel(folder)
        described = model.description
        return cls(
            model,
            described.attributes,
            label_samples=described.label_samples,
            companions=described.companions,
            drawn=described.drawn,
            **options,
        )

    @property
    def searches_faces(self) -> bool:
        """Whether faces are searched in photos: unless ``align`` is ``"off"``, or ``"auto"`` with drawn faces."""
        return self.align != "off" and not (self.align == "auto" and self._drawn_faces)

    def face_search(self, align: Align | None = None, face: str | int | None = None) -> FaceSearch:
        """Return what opens photos for this model; ``align`` and ``face`` are the editor's where omitted."""
        align, face = align or self.align, face or self.face
        return FaceSearch(self.image_size, "off" if align == "auto" and self._drawn_faces else align, face)

    @overload
    def recognise(self, photos: One) -> dict[str, float]: ...
    @overload
    def recognise(self, photos: Several[P]) -> list[dict[str, float]]: ...
    @overload
    def recognise(self, photos: NDArray[Any]) -> Any: ...
    def recognise(self, photos: Photo | Sequence[Photo]) -> Any:
        """Return the probability of each attribute, by name; with ``face="all"`` a list of these, one for each face.

        Raises:
            InputError: something passed is not a photo, see ``igan_fast.data.photos.load_photo``; or the model's
                results are NaN or infinite.
        """

        def probabilities(x: Tensor) -> list[dict[str, float]]:
            rows = finite_results(torch.sigmoid(self.model.encode(x).label_logits)).tolist()
            return [dict(zip(self.attributes, row, strict=True)) for row in rows]

        return self._each(photos, probabilities, lambda _, rows: rows if self.face == "all" else rows[0])

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
        return self._each(photos, lambda x: to_pil(edited_images(self.model, x, {})), AlignedPhoto.finish)

    @overload
    def transform(
        self,
        photos: One,
        changes: Mapping[str, Change],
        *,
        keep: Keep = ...,
        strength: float = ...,
        companions: bool = ...,
    ) -> PILImage: ...
    @overload
    def transform(
        self,
        photos: Several[P],
        changes: Mapping[str, Change],
        *,
        keep: Keep = ...,
        strength: float = ...,
        companions: bool = ...,
    ) -> list[PILImage]: ...
    @overload
    def transform(
        self,
        photos: NDArray[Any],
        changes: Mapping[str, Change],
        *,
        keep: Keep = ...,
        strength: float = ...,
        companions: bool = ...,
    ) -> Any: ...
    def transform(
        self,
        photos: Photo | Sequence[Photo],
        changes: Mapping[str, Change],
        *,
        keep: Keep = "photo",
        strength: float = STRENGTH,
        companions: bool = True,
    ) -> PILImage | list[PILImage]:
        """Change some attributes in photos.

        By default the photo is kept, and only what the edit changes is added to it: it stays sharp, and the person the
        same. The model is asked for more than the changes say, so that they are visible, and attributes that depend on
        a changed one go along. With ``keep="nothing", strength=1, companions=False`` the edit is the paper's.

        Args:
            changes: the new values by name, in [0, 1], or ``"flip"``. A flipped attribute becomes 1 in a photo in which
                it is recognised as absent (probability below 0.5), else 0. Or amounts with their sign, such as
                ``"+2"`` or ``igan_fast.Amount(2)``: ``"+0"`` leaves what is recognised, ``"+1"`` and ``"-1"`` are the
                values 1 and 0 with strength 1, and ``"+2"`` and ``"-2"`` the same with strength 2; in between, the
                attribute moves part of the way.
            keep: ``"photo"`` adds the change to the photo, see ``igan_fast.reference.residual``; the result has the
                photo's own resolution. ``"nothing"`` lets the model draw the whole face again, as in the paper.
            strength: how far values and flips go, from 0 to 10. With 1, they get their values; with 2, those set to
                1 or 0 get 1.5 or −0.5, so that the change is more visible; with 0, all get 0.5.
            companions: whether the attributes of ``companions_of`` move along. All others stay as they are recognised.

        Raises:
            InputError: as ``recognise``; an unknown attribute (the message suggests similar names), another value, or
                a strength out of its range.
        """
        check_keep(keep)
        check_edit(strength, companions)
        by_index = changes_by_index(changes, self.attributes)
        along = self.companions if companions else None
        edit = edited_photos if keep == "photo" else edited_images
        return self._each(
            photos,
            lambda x: to_pil(edit(self.model, x, by_index, strength=strength, companions=along)),
            lambda photo, edited: photo.finish(edited, keep_details=keep == "photo"),
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

    def _each(
        self,
        photos: Photo | Sequence[Photo],
        run: Callable[[Tensor], list[R]],
        finish: Callable[[AlignedPhoto, list[R]], T],
    ) -> T | list[T]:
        """Call ``run`` on batches (B, 3, S, S) in [−1, 1]; return one result for one photo, a list for several."""
        several = isinstance(photos, list | tuple) or (isinstance(photos, np.ndarray) and photos.ndim == 4)
        each: Sequence[Photo] = photos if several else [photos]  # type: ignore[list-item, assignment]
        with torch.inference_mode():
            results = each_photo(
                self.face_search(),
                each,
                self.batch_size,
                lambda crops: run(to_float(torch.from_numpy(crops).to(self.device))),
                finish,
            )
        return results if several else results[0]

"""Photos in a folder per class, such as ``DIR/Smiling/*.jpg`` and ``DIR/Bald/*.jpg``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.attributes import attribute_indices
from igan_fast.data.celeba_files import DataFiles, find_files
from igan_fast.data.class_layout import PhotoClass, read_layout
from igan_fast.data.left_out import LeftOut
from igan_fast.data.messages import counted, first_three
from igan_fast.data.photo_files import decode_photo, photos_fingerprint
from igan_fast.data.source import Aligner
from igan_fast.data.splits import check_split, described_sizes, named_splits, no_validation
from igan_fast.errors import printable

__all__ = ["ClassFolders"]


class ClassFolders:
    """A folder with a folder of photos per class, as a ``FaceSource``. Each class is an attribute.

    A photo has the attribute of its folder, and not the others. It has several if it is in several class folders: as a
    link to one file, or as a copy that keeps the file name. Another photo of the same name is another photo. A class
    folder may have folders of its own; their photos belong to the class. Hidden folders are ignored. Attributes are in
    alphabetical order.

    The folder may hold ``train/CLASS``, ``val/CLASS`` and ``test/CLASS``, with the same classes in each; other usual
    names (``training``, ``valid``, ``validation`` …) work too. Copies in different splits are different photos. All
    this may be in a zip, below a folder of the zip's own.

    Args:
        data: the folder or the zip, or what ``find_files`` found.
        split: ``"official"`` follows the folders ``train``, ``val`` and ``test``. Without them, or with ``train``
            alone, a random 90 % are "train", 5 % "val" and 5 % "test"; without ``val`` alone, "val" is a random 5 % of
            ``train``. ``"paper"``: see ``CelebA``.
        attributes: the classes to use, in this order. Default: all. Photos of the others stay, without an attribute.
        strict: raise an error at a folder without photos. Otherwise it is skipped with a warning.
        seed: seed of a random split.
        align: see ``CelebA``.

    Raises:
        InputError: the folder does not exist or cannot be read; there are fewer than two classes, photos beside the
            class folders, or other classes in another split; two names of classes are the same except for upper and
            lower case, or one cannot be an attribute's name; an attribute is unknown.
    """

    identities: NDArray[np.int64] | None = None

    def __init__(
        self,
        data: str | Path | DataFiles,
        *,
        split: Literal["official", "paper"] = "official",
        attributes: Sequence[str] = (),
        strict: bool = False,
        seed: int = 0,
        align: Aligner | None = None,
    ) -> None:
        check_split(split)
        found = data if isinstance(data, DataFiles) else find_files(data)
        layout = read_layout(found)
        self._photos = layout.photos
        self._align = align
        left_out = LeftOut(layout.photos.path, strict)
        for problem in found.problems:
            left_out.unreadable(problem)
        if layout.empty:
            left_out.mismatch(f"{counted(layout.empty, 'folder')} without photos ({first_three(layout.empty)})")
        self.attributes = tuple(attributes) or layout.classes
        columns = attribute_indices(self.attributes, layout.classes)
        photos = self._merge(layout.listed, layout.classes)
        self._names = [listed.name for listed, _ in photos]
        self.labels: NDArray[np.uint8] = np.ascontiguousarray(np.stack([labels for _, labels in photos])[:, columns])
        self.splits: Mapping[str, NDArray[np.int64]]
        self.splits, how = named_splits([listed.split for listed, _ in photos], "folder", split, seed)
        if not len(self.splits["val"]):
            left_out.warn(no_validation(how))

        again = len(layout.listed) - len(photos)
        more = f"{again:,} more are links or copies of these" if again > 1 else "1 more is a link or copy of one"
        copies = f" ({more})" if again else ""
        self._description = (
            f"{len(photos):,} photos{copies} in {layout.photos.path}, {counted(self.attributes, 'attribute')} "
            f"(class folders); {how}: {described_sizes(self.splits)}; {left_out.describe()}"
        )

    def __len__(self) -> int:
        return len(self._names)

    def describe(self) -> str:
        """One line: the numbers of photos and attributes, the split sizes, and what was skipped."""
        return printable(self._description)

    def fingerprint(self) -> str:
        """A digest as of ``CelebA``."""
        return photos_fingerprint(self._photos.digest(self._names), self._align)

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        """Photo ``index``, cropped to its centre square and resized, or aligned.

        Returns:
            (size, size, 3) uint8, RGB.

        Raises:
            InputError: the photo is broken, or no face is found to align. The message names its file.
        """
        return decode_photo(self._photos, self._names[index], size, self._align)

    def _merge(
        self, listed: Sequence[PhotoClass], classes: Sequence[str]
    ) -> list[tuple[PhotoClass, NDArray[np.uint8]]]:
        """Each photo once, with its labels of all classes."""
        column = {name: index for index, name in enumerate(classes)}
        keys = self._photos.keys([each.name for each in listed])
        merged: dict[Hashable, tuple[PhotoClass, NDArray[np.uint8]]] = {}
        for each, key in zip(listed, keys, strict=True):
            _, labels = merged.setdefault((each.split, key), (each, np.zeros(len(classes), np.uint8)))
            labels[column[each.of_class]] = 1
        return list(merged.values())

"""What every dataset of labelled faces offers, wherever the pictures come from: files, a zip, or a drawing routine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["FaceSource"]


class FaceSource(Protocol):
    """Labelled face pictures at their origin; ``DrawnFaces`` and ``CelebA`` are two.

    A source decodes or draws one picture at a time, which is slow: ``build_store`` does it once for all pictures.
    It is pickled into that function's worker processes, so it opens files only when a picture is asked for.
    """

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the A label columns."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(N, A), values 0 and 1."""

    @property
    def identities(self) -> NDArray[np.int64] | None:
        """(N,), equal where the person is the same, −1 where it is unknown; None where nothing is known."""

    @property
    def splits(self) -> Mapping[str, NDArray[np.int64]]:
        """Ascending positions of ``"train"`` and ``"val"``, and of ``"test"`` where there is one."""

    def __len__(self) -> int:
        """N, the number of pictures."""

    def describe(self) -> str:
        """One line for the user: what was found."""

    def fingerprint(self) -> str:
        """A hexadecimal digest that changes when any picture, their order or their crop would; labels do not matter."""

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        """Picture ``index`` as (size, size, 3) RGB. Raises ``InputError`` that names the file when it is broken."""

"""Pictures in rows and columns with labels in the margin, as the paper's Fig. 7 and 8 show samples and edits."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from igan_fast.files import write_file

__all__ = ["grid", "sample_grid", "save_png"]

_GAP = 2  # pixels between two pictures
_SMALLEST = 64  # pictures below this side are enlarged by a whole factor, so that labels and faces can be seen
_BACKGROUND = (255, 255, 255)
_INK = (40, 40, 40)

Pictures = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


def grid(rows: Sequence[Pictures], row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()) -> Image.Image:
    """One RGB picture of all ``rows``, each row's label at its left, each column's above it.

    Args:
        rows: pictures of uint8 (S, S, 3), all of one size; a row is a sequence of them or one (N, S, S, 3) array. Rows
            may differ in length; a short one ends in blank space.
        row_labels: one per row, or none.
        column_labels: one per picture of the longest row, or none.

    Raises:
        ValueError: no picture at all, pictures that differ in size or are not uint8 RGB, or a wrong number of labels.
    """
    cells = [[np.asarray(picture) for picture in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    shapes = {(picture.shape, str(picture.dtype)) for row in cells for picture in row}
    if len(shapes) != 1:
        raise ValueError(f"rows: found pictures of {sorted(map(str, shapes)) or 'none'}; expected one size and dtype")
    ((shape, dtype),) = shapes
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != "uint8":
        raise ValueError(f"rows: found pictures of shape {shape} and {dtype}; expected uint8 (height, width, 3)")
    for name, labels, count in (("row_labels", row_labels, len(cells)), ("column_labels", column_labels, columns)):
        if labels and len(labels) != count:
            raise ValueError(f"{name}: found {len(labels)}, expected {count}")

    scale = -(-_SMALLEST // max(shape[:2])) if max(shape[:2]) < _SMALLEST else 1
    height, width = shape[0] * scale, shape[1] * scale
    font = _font(max(11, min(20, height // 7)))
    left = _margin(max((font.getlength(label) for label in row_labels), default=0.0))
    labels = [_shortened(label, width, font) for label in column_labels]
    top = _margin(sum(font.getmetrics())) if labels else 0
    size = (left + columns * (width + _GAP) - _GAP, top + len(cells) * (height + _GAP) - _GAP)
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for row, pictures in enumerate(cells):
        y = top + row * (height + _GAP)
        if row_labels:
            draw.text((left - 6, y + height / 2), row_labels[row], fill=_INK, font=font, anchor="rm")
        for column, picture in enumerate(pictures):
            enlarged = picture.repeat(scale, axis=0).repeat(scale, axis=1)
            canvas.paste(Image.fromarray(enlarged), (left + column * (width + _GAP), y))
    for column, label in enumerate(labels):
        x = left + column * (width + _GAP) + width / 2
        draw.text((x, top / 2), label, fill=_INK, font=font, anchor="mm")
    return canvas


def sample_grid(
    real: Pictures,
    rebuilt: Pictures,
    flipped: Mapping[str, Pictures],
    generated: Mapping[str, Pictures],
) -> Image.Image:
    """The picture that training shows: what the model makes of some faces, and what it makes from noise.

    Args:
        real: uint8 (N, S, S, 3) photos.
        rebuilt: their rebuilds.
        flipped: for each attribute, the photos with it turned into its opposite.
        generated: faces from noise, a row for each description of the labels asked for.
    """
    rows = {"real": real, "rebuilt": rebuilt}
    rows |= {f"{name} ⇄": pictures for name, pictures in flipped.items()}
    rows |= {f"noise, {labels}" if labels else "noise": pictures for labels, pictures in generated.items()}
    return grid(list(rows.values()), list(rows))


def save_png(picture: Image.Image, path: Path) -> Path:
    """Write ``picture`` to ``path``, whole or not at all, its folder made if needed; ``InputError`` if it cannot."""
    data = io.BytesIO()
    picture.save(data, format="PNG")
    write_file(path, data.getvalue())
    return path


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font has no letters beyond ASCII, and no arrows."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _margin(extent: float) -> int:
    return int(extent) + 12 if extent else 0


def _shortened(label: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """``label`` cut to ``width`` pixels, so that neighbours don't run into each other."""
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"

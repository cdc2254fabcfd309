"""Arranges images in a grid with labels in the margin, like the samples and edits in the paper's Fig. 7 and 8."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from igan_fast.files import write_file

__all__ = ["edit_title", "grid", "sample_grid", "save_png"]

_GAP = 2  # pixels between two images
_SMALLEST = 64  # smaller images are enlarged by a whole factor, so that labels and faces are legible
_BACKGROUND = (255, 255, 255)
_INK = (40, 40, 40)

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


def grid(
    rows: Sequence[Images],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Return one RGB image of all ``rows``, with the label of each row at its left and that of each column above it.

    Args:
        rows: images of uint8 (S, S, 3), all of one size; a row is a sequence of them or one (N, S, S, 3) array. Rows
            may differ in length; a short row ends in blank space.
        row_labels: one per row, or none. A label may have two lines.
        column_labels: one per image of the longest row, or none.
        captions: for each row, the text below each of its images, or none.

    Raises:
        ValueError: there is no image, the images differ in size or are not uint8 RGB, or the number of labels or
            captions is wrong.
    """
    cells = [[np.asarray(image) for image in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    shapes = {(image.shape, str(image.dtype)) for row in cells for image in row}
    if len(shapes) != 1:
        raise ValueError(f"rows: found images of {sorted(map(str, shapes)) or 'none'}; expected one size and dtype")
    ((shape, dtype),) = shapes
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != "uint8":
        raise ValueError(f"rows: found images of shape {shape} and {dtype}; expected uint8 (height, width, 3)")
    for name, labels, count in (("row_labels", row_labels, len(cells)), ("column_labels", column_labels, columns)):
        if labels and len(labels) != count:
            raise ValueError(f"{name}: found {len(labels)}, expected {count}")
    if captions and [len(row) for row in captions] != [len(row) for row in cells]:
        raise ValueError(
            f"captions: found rows of {[len(row) for row in captions]}, expected {[len(row) for row in cells]}"
        )

    scale = -(-_SMALLEST // max(shape[:2])) if max(shape[:2]) < _SMALLEST else 1
    height, width = shape[0] * scale, shape[1] * scale
    font = _font(max(11, min(20, height // 7)))
    left = _margin(max((font.getlength(line) for label in row_labels for line in label.split("\n")), default=0.0))
    labels = [_shortened(label, width, font) for label in column_labels]
    top = _margin(sum(font.getmetrics())) if labels else 0
    below = sum(font.getmetrics()) if captions else 0
    size = (left + columns * (width + _GAP) - _GAP, top + len(cells) * (height + below + _GAP) - _GAP)
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for row, images in enumerate(cells):
        y = top + row * (height + below + _GAP)
        if row_labels:
            middle = (left - 6, y + height / 2)
            draw.text(middle, row_labels[row], fill=_INK, font=font, anchor="rm", align="right")
        for column, image in enumerate(images):
            enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
            x = left + column * (width + _GAP)
            canvas.paste(Image.fromarray(enlarged), (x, y))
            if captions:
                caption = _shortened(captions[row][column], width, font)
                draw.text((x + width / 2, y + height + below / 2), caption, fill=_INK, font=font, anchor="mm")
    for column, label in enumerate(labels):
        middle = (left + column * (width + _GAP) + width / 2, top / 2)
        draw.text(middle, label, fill=_INK, font=font, anchor="mm")
    return canvas


def sample_grid(
    real: Images,
    rebuilt: Images,
    edited: Mapping[str, Images],
    generated: Mapping[str, Images],
) -> Image.Image:
    """Return the sample image of a training run: photos, what the model makes of them, and generated faces.

    Args:
        real: photos, uint8 (N, S, S, 3).
        rebuilt: their rebuilds.
        edited: by the title of the edit, the edited photos.
        generated: generated faces, one row for each description of their labels.
    """
    rows = {"real": real, "rebuilt": rebuilt, **edited}
    rows |= {f"noise, {labels}" if labels else "noise": images for labels, images in generated.items()}
    return grid(list(rows.values()), list(rows))


def edit_title(changes: str, *, strength: float, companions: bool) -> str:
    """Return the label of a row of edits: the changes, and on a second line what goes beyond the paper's edit.

    Args:
        changes: such as ``"Smiling=1"``.
        strength: as of ``igan_fast.reference.editing.edited_labels``.
        companions: whether other attributes go along.
    """
    beyond = [f"strength {strength:g}"] if strength != 1 else []
    beyond += ["with companions"] if companions else []
    return "\n".join([changes, *([", ".join(beyond)] if beyond else [])])


def save_png(image: Image.Image, path: Path) -> Path:
    """Write ``image`` to ``path`` atomically, make its folder if needed, and return ``path``.

    Raises:
        InputError: it cannot be written.
    """
    data = io.BytesIO()
    image.save(data, format="PNG")
    write_file(path, data.getvalue())
    return path


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with matplotlib; Pillow's own font has only ASCII."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _margin(extent: float) -> int:
    return int(extent) + 12 if extent else 0


def _shortened(label: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cut ``label`` to ``width`` pixels, so that it does not run into the next one."""
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"

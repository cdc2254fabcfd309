"""A CelebA dataset of six grey photos, as bytes that tests write to folders and zips. Each has its own brightness."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from igan_fast.data.celeba import CelebA

FILES = tuple(f"{number:06}.jpg" for number in range(1, 7))


def photo(number: int) -> bytes:
    """A photo in which every pixel is ``10 * number``."""
    buffer = io.BytesIO()
    Image.new("L", (20, 24), 10 * number).save(buffer, "PNG")
    return buffer.getvalue()


PHOTOS = {name: photo(number) for number, name in enumerate(FILES, start=1)}
ATTRIBUTES = "image_id,Bald,Young\n" + "".join(f"{name},{1 - 2 * (n % 2)},1\n" for n, name in enumerate(FILES))
PARTITION = "image_id,partition\n" + "".join(
    f"{name},{part}\n" for name, part in zip(FILES, (0, 0, 0, 1, 2, 2), strict=True)
)
PEOPLE = "".join(f"{name} {number}\n" for number, name in enumerate(FILES, start=100))


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def write_zip(path: Path, files: Mapping[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo("placeholder")
            entry.filename, entry.compress_type = (
                name,
                compression,
            )  # set afterwards, because the constructor replaces "\\"
            archive.writestr(entry, content)
    return path


def below(prefix: str, files: Mapping[str, bytes]) -> dict[str, bytes | str]:
    return {f"{prefix}{name}": content for name, content in files.items()}


def split_lists(source: CelebA) -> dict[str, list[int]]:
    return {name: rows.tolist() for name, rows in source.splits.items()}


def assert_complete(source: CelebA, count: int = 6) -> None:
    """``source`` has the first ``count`` photos in order, with their labels."""
    assert [int(source.image(index, 16)[8, 8, 0]) for index in range(len(source))] == [
        10 * n for n in range(1, count + 1)
    ]
    np.testing.assert_array_equal(source.labels, [[1 - n % 2, 1] for n in range(count)])


KAGGLE = {
    **below("img_align_celeba/img_align_celeba/", PHOTOS),
    "list_attr_celeba.csv": ATTRIBUTES,
    "list_eval_partition.csv": PARTITION,
    "identity_CelebA.txt": PEOPLE,
}

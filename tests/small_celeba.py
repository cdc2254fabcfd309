"""Writes a CelebA dataset of six small photos and three attributes, in each of the usual layouts."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = ("Bald", "Smiling", "Young")
COUNT = 6
FILES = [f"{number:06}.jpg" for number in range(1, COUNT + 1)]
LABELS = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]])


def draw_photos(folder: Path, files: Sequence[str] = FILES, size: tuple[int, int] = (178, 218)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(folder / file, quality=90)


def zip_photos(path: Path, folder: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("img_align_celeba/", "")
        archive.writestr("__MACOSX/img_align_celeba/._000001.jpg", "not a photo")
        for photo in sorted(folder.iterdir()):
            archive.write(photo, f"img_align_celeba/{photo.name}")


def attribute_text(files: Sequence[str] = FILES, end: str = "\r\n") -> str:
    """``list_attr_celeba.txt`` as in CelebA: values are padded to two characters, so there are double spaces."""
    rows = [f"{file} " + " ".join(f"{2 * int(v) - 1:2}" for v in row) for file, row in zip(files, LABELS, strict=False)]
    return end.join([str(len(rows)), " ".join(NAMES) + " ", *rows, ""])


def attribute_csv(files: Sequence[str] = FILES) -> str:
    rows = [",".join([file, *(str(2 * int(v) - 1) for v in row)]) for file, row in zip(files, LABELS, strict=False)]
    return "\n".join([",".join(["image_id", *NAMES]), *rows, ""])


def write_celeba(folder: Path) -> Path:
    """Write six photos and their attribute file to ``folder``."""
    draw_photos(folder / "img_align_celeba")
    (folder / "list_attr_celeba.txt").write_bytes(attribute_text().encode())
    return folder


def centre_square(path: Path, size: int) -> NDArray[np.uint8]:
    """A photo, cropped to its centre square and resized with plain Pillow."""
    image = Image.open(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    crop = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(crop)


def assert_is_centre_square(image: NDArray[np.uint8], path: Path) -> None:
    """``image`` is the photo's centre square. Its border may differ slightly: the filter may read pixels outside."""
    expected = centre_square(path, len(image))
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    np.testing.assert_array_equal(image[3:-3, 3:-3], expected[3:-3, 3:-3])
    assert np.abs(image.astype(int) - expected).max() <= 12


def write_layout(kind: str, root: Path) -> None:
    """Write a complete dataset to ``root``, with the folders and file formats of its distributor."""
    draw_photos(root / "work")
    partition = [0, 0, 0, 1, 2, 2]
    text = "".join(f"{file} {part}\n" for file, part in zip(FILES, partition, strict=True))
    as_csv = "image_id,partition\n" + "".join(f"{f},{p}\n" for f, p in zip(FILES, partition, strict=True))
    people = "".join(f"{file} {number // 2 + 100}\n" for number, file in enumerate(FILES))
    files: dict[str, str] = {}
    if kind == "flat zip":
        zip_photos(root / "img_align_celeba.zip", root / "work")
        files = {
            "list_attr_celeba.txt": attribute_text(),
            "list_eval_partition.txt": text,
            "identity_CelebA.txt": people,
        }
    elif kind == "Kaggle":
        shutil.copytree(root / "work", root / "img_align_celeba" / "img_align_celeba")
        files = {
            "list_attr_celeba.csv": attribute_csv(),
            "list_eval_partition.csv": as_csv,
            "identity_CelebA.txt": people,
        }
    elif kind == "torchvision":
        shutil.copytree(root / "work", root / "celeba" / "img_align_celeba")
        zip_photos(root / "celeba" / "img_align_celeba.zip", root / "work")  # torchvision keeps the zip
        files = {"celeba/list_attr_celeba.txt": attribute_text(), "celeba/list_eval_partition.txt": text,
                 "celeba/identity_CelebA.txt": people}  # fmt: skip
    elif kind == "Drive":
        zip_photos(root / "CelebA" / "Img" / "img_align_celeba.zip", root / "work")
        files = {"CelebA/Anno/list_attr_celeba.txt": attribute_text(), "CelebA/Eval/list_eval_partition.txt": text,
                 "CelebA/Anno/identity_CelebA.txt": people}  # fmt: skip
    elif kind == "Drive, unpacked":
        shutil.copytree(root / "work", root / "CelebA" / "Img" / "img_align_celeba")
        files = {"CelebA/Anno/list_attr_celeba.txt": attribute_text(), "CelebA/Eval/list_eval_partition.txt": text,
                 "CelebA/Anno/identity_CelebA.txt": people}  # fmt: skip
    shutil.rmtree(root / "work")
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8", newline="")

"""Photos in which CelebA's faces are at known places: aligned photos, turned and scaled, on larger backgrounds."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["background", "celeba_photos", "composite", "crop_error", "several", "true_placement"]

#: A point of the centre square's coordinates, (178, 178), is this far from the aligned photo's (178, 218).
_TOP = 20
_GRID = np.stack(np.meshgrid(np.linspace(0, 178, 9), np.linspace(0, 178, 9)), axis=-1).reshape(-1, 2)


def celeba_photos(folder: Path, split: int) -> list[Image.Image]:
    """The photos of a split (0 train, 1 validation) of the CelebA subset, opened but not decoded."""
    rows = [line.split() for line in (folder / "list_eval_partition.txt").read_text().splitlines() if line.strip()]
    archive = zipfile.ZipFile(folder / "img_align_celeba.zip")
    names = [name for name, part in rows if int(part) == split]
    return [Image.open(io.BytesIO(archive.read(f"img_align_celeba/{name}"))) for name in names]


def background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Coloured clouds of several sizes."""
    width, height = size
    clouds = np.zeros((height, width, 3))
    for step in (4, 16, 64, 128):
        noise = rng.normal(size=(height // step + 2, width // step + 2, 3)).astype(np.float32)
        layers = [Image.fromarray(noise[..., k]).resize(size, Image.Resampling.BICUBIC) for k in range(3)]
        clouds += step**0.5 * np.stack([np.asarray(layer) for layer in layers], axis=-1)
    shades = (clouds - clouds.mean()) / clouds.std() * 40 + rng.integers(60, 200)
    return Image.fromarray(shades.clip(0, 255).astype(np.uint8))


def true_placement(scale: float, degrees: float, centre: tuple[float, float]) -> NDArray[np.float64]:
    """The matrix (2, 3) that maps the centre square's coordinates to the picture's; its middle goes to ``centre``."""
    cos, sin = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turn, np.array(centre) - turn @ [89, 89]])


def paste(picture: Image.Image, photo: Image.Image, matrix: NDArray[np.float64]) -> None:
    """Paste an aligned photo (178×218) into the picture."""
    turn = matrix[:, :2]
    shift = matrix[:, 2] - turn @ [0, _TOP]
    back = np.linalg.inv(turn)
    coefficients = tuple(np.column_stack([back, -back @ shift]).ravel())
    size, how = picture.size, Image.Transform.AFFINE
    placed = photo.convert("RGB").transform(size, how, coefficients, Image.Resampling.BICUBIC)
    mask = Image.new("L", photo.size, 255).transform(size, how, coefficients, Image.Resampling.BILINEAR)
    picture.paste(placed, (0, 0), mask)


def composite(
    rng: np.random.Generator,
    photo: Image.Image,
    *,
    size: tuple[int, int] = (640, 480),
    scales: tuple[float, float] = (0.8, 1.6),
    most_degrees: float = 20,
) -> tuple[Image.Image, NDArray[np.float64]]:
    """A picture that shows the photo at a random place, scale and angle; and the matrix of that place."""
    scale = float(np.exp(rng.uniform(*np.log(scales))))
    degrees = float(rng.uniform(-most_degrees, most_degrees))
    cos, sin = np.cos(np.deg2rad(abs(degrees))), np.sin(np.deg2rad(abs(degrees)))
    extent = scale * np.array([178 * cos + 218 * sin, 178 * sin + 218 * cos]) / 2
    low, high = np.minimum(extent, np.array(size) / 2), np.maximum(np.array(size) - extent, np.array(size) / 2)
    x, y = rng.uniform(low, high)
    matrix = true_placement(scale, degrees, (x, y))
    picture = background(rng, size)
    paste(picture, photo, matrix)
    return picture, matrix


def several(
    rng: np.random.Generator, photos: Sequence[Image.Image], *, columns: int, cell: int = 320
) -> tuple[Image.Image, list[NDArray[np.float64]]]:
    """A picture that shows many photos, one in each cell of a grid, at random angles and scales from 0.6 to 1.1."""
    rows = -(-len(photos) // columns)
    picture = background(rng, (columns * cell, rows * cell))
    matrices = []
    for k, photo in enumerate(photos):
        middle = ((k % columns + 0.5) * cell, (k // columns + 0.5) * cell)
        matrices.append(true_placement(float(rng.uniform(0.6, 1.1)), float(rng.uniform(-20, 20)), middle))
        paste(picture, photo, matrices[-1])
    return picture, matrices


def crop_error(matrix: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """How far a found place is from the true one: the mean over the square, in pixels of its 178.

    Both are matrices (2, 3) as of ``true_placement``.
    """
    points = _GRID @ matrix[:, :2].T + matrix[:, 2]
    back = (points - found[:, 2]) @ np.linalg.inv(found[:, :2]).T
    return float(np.linalg.norm(back - _GRID, axis=1).mean())

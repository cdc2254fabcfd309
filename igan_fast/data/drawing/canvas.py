"""A supersampled canvas on which faces are drawn, the pose of the head, smooth curves and soft textures.

Shapes are given in *head coordinates*: the origin is the middle between the eyes, x grows to the right and y down, and
1 is the width of the image. The pose maps them to pixels of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = [
    "Blob",
    "Canvas",
    "Colour",
    "Points",
    "Pose",
    "curve",
    "even_steps",
    "loop",
    "mirrored",
    "mix",
    "ribbon",
    "shifted",
]

Colour: TypeAlias = tuple[float, float, float]
Points: TypeAlias = NDArray[np.float64]
#: A soft spot of a texture: x, y, radius in x, radius in y (head coordinates), and what it adds to red, green and blue.
Blob: TypeAlias = tuple[float, float, float, float, float, float, float]

#: The smallest width of the canvas in pixels: it gives small images smooth edges too.
_MIN_WIDTH = 192
_STEPS = 6  # points of a curve per control point


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first + share * (second - first)``: interpolates for ``share`` in [0, 1] and extrapolates outside."""
    (r, g, b), (s, h, c) = first, second
    return (r + share * (s - r), g + share * (h - g), b + share * (c - b))


def _ink(colour: Colour, opacity: float = 1.0) -> tuple[int, int, int, int]:
    r, g, b = colour
    return _byte(r), _byte(g), _byte(b), _byte(255 * opacity)


def _byte(value: float) -> int:
    return 0 if value < 0 else 255 if value > 255 else int(value + 0.5)


@lru_cache(maxsize=128)
def _spline(count: int, closed: bool) -> NDArray[np.float64]:
    """The matrix that maps ``count`` control points to the points of the Catmull–Rom curve through them."""
    spans = count if closed else count - 1
    rows = np.zeros((spans * _STEPS + (not closed), count))
    for row in range(len(rows)):
        span, t = divmod(row / _STEPS, 1.0)
        weights = (
            (-t + 2 * t**2 - t**3) / 2,
            (2 - 5 * t**2 + 3 * t**3) / 2,
            (t + 4 * t**2 - 3 * t**3) / 2,
            (-(t**2) + t**3) / 2,
        )
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
            point = int(span) + offset
            rows[row, point % count if closed else min(max(point, 0), count - 1)] += weight
    return rows


def shifted(points: Points, x: float, y: float) -> Points:
    """``points`` shifted by (x, y)."""
    moved: Points = points + np.array((x, y))
    return moved


@lru_cache(maxsize=256)
def even_steps(count: int) -> Points:
    """``count`` evenly spaced numbers from 0 to 1. The array is cached: callers must not modify it."""
    return np.linspace(0.0, 1.0, count)


def curve(points: Sequence[tuple[float, float]] | Points) -> Points:
    """A smooth open curve through ``points`` ((n, 2), n ≥ 2)."""
    return _spline(len(points), False) @ np.asarray(points, np.float64)


def loop(points: Sequence[tuple[float, float]] | Points) -> Points:
    """A smooth closed outline through ``points`` ((n, 2), n ≥ 3)."""
    return _spline(len(points), True) @ np.asarray(points, np.float64)


def mirrored(right_half: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A symmetric path: the mirror image of ``right_half`` in reverse order, then ``right_half``.

    If the first point of ``right_half`` is on the axis (x = 0), it appears once.
    """
    left = [(-x, y) for x, y in reversed(right_half)]
    return left[: -1 if right_half[0][0] == 0 else None] + list(right_half)


def ribbon(spine: Points, widths: Sequence[float] | float) -> Points:
    """The outline of a stroke along ``spine``, (n, 2). ``widths`` are its widths at evenly spaced points."""
    normals = np.empty_like(spine)
    normals[1:-1] = spine[2:] - spine[:-2]
    normals[0], normals[-1] = spine[1] - spine[0], spine[-1] - spine[-2]
    normals = normals[:, ::-1] * (-1.0, 1.0)
    normals /= 2 * np.sqrt((normals * normals).sum(1, keepdims=True)) + 1e-9
    if isinstance(widths, float):
        half = normals * widths
    else:
        half = normals * np.interp(even_steps(len(spine)), even_steps(len(widths)), widths)[:, None]
    return np.concatenate((spine + half, (spine - half)[::-1]))


class Pose:
    """Position, size and rotation of the head in the image.

    Args:
        centre: the middle between the eyes, (x, y), as fractions of the image's width.
        zoom: the size of the head, 1 on average.
        roll: rotation in the image plane in radians, clockwise.
        yaw, pitch: rotation to the viewer's right and down in radians. Both are small, so they are approximated: each
            point moves in proportion to its depth.
    """

    def __init__(self, centre: tuple[float, float], zoom: float, roll: float, yaw: float, pitch: float) -> None:
        self._centre = np.array(centre)
        c, s = zoom * math.cos(roll), zoom * math.sin(roll)
        self._rotation = np.array([[c, s], [-s, c]])
        self._lean = np.array([math.sin(yaw), math.sin(pitch)])
        self.zoom = zoom

    def matrix(self, side: int) -> Points:
        """(2, 2): maps head coordinates (as rows) to pixels of a canvas of width ``side``, without the `origin`."""
        return self._rotation * side

    def origin(self, side: int, depth: float) -> Points:
        """(2,): the pixel of the head's origin, for points that are ``depth`` in front of the head's middle plane."""
        origin: Points = (depth * self._lean @ self._rotation + self._centre) * side
        return origin


class Canvas:
    """Draws shapes, given in head coordinates, at a multiple of the image's resolution; `render` returns the image.

    ``depth``, an argument of most methods, is how far a shape is in front of the head's middle plane. ``both`` draws
    the shape and its mirror image.

    Args:
        size: height and width of the image in pixels.
        pose: where the head is.
    """

    def __init__(self, size: int, pose: Pose) -> None:
        self._factor = max(3, -(-_MIN_WIDTH // size))
        self._width = size * self._factor
        self._pose = pose
        self._matrix = pose.matrix(self._width)
        self._origins: dict[float, Points] = {}
        self._image = Image.new("RGB", (self._width, self._width))
        self._solid = ImageDraw.Draw(self._image)
        self._blend = ImageDraw.Draw(self._image, "RGBA")  # draws with opacity, and slower

    def _place(self, points: Points, depth: float) -> Points:
        if depth not in self._origins:
            self._origins[depth] = self._pose.origin(self._width, depth)
        placed: Points = points @ self._matrix + self._origins[depth]
        return placed

    def _pixels(self, points: Points, depth: float) -> list[float]:
        pixels: list[float] = self._place(points, depth).ravel().tolist()
        return pixels

    def fill(
        self, outline: Points, colour: Colour, opacity: float = 1.0, depth: float = 0.0, both: bool = False
    ) -> None:
        """Fill ``outline``, (n, 2), with one colour."""
        pen, ink = self._solid if opacity >= 1 else self._blend, _ink(colour, opacity)
        for pixels in self._sides(outline, depth, both):
            pen.polygon(pixels, fill=ink)

    def stroke(
        self,
        spine: Points,
        widths: Sequence[float] | float,
        colour: Colour,
        opacity: float = 1.0,
        depth: float = 0.0,
        both: bool = False,
    ) -> None:
        """Draw a stroke along ``spine``, (n, 2), whose width varies as ``widths``."""
        self.fill(ribbon(spine, widths), colour, opacity, depth, both)

    def line(
        self,
        spine: Points,
        width: float,
        colour: Colour,
        opacity: float = 1.0,
        depth: float = 0.0,
        both: bool = False,
    ) -> None:
        """Draw a line of constant width along ``spine``, (n, 2). It is faster than ``stroke``."""
        thickness = max(1, round(width * self._width * self._pose.zoom))
        pen, ink = self._solid if opacity >= 1 else self._blend, _ink(colour, opacity)
        for pixels in self._sides(spine, depth, both):
            pen.line(pixels, fill=ink, width=thickness)

    def _sides(self, points: Points, depth: float, both: bool) -> list[list[float]]:
        if not both:
            return [self._pixels(points, depth)]
        pixels = self._pixels(np.concatenate((points, points * (-1.0, 1.0))), depth)
        return [pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]]

    def disc(self, x: float, y: float, radius: float, colour: Colour, opacity: float = 1.0, depth: float = 0.0) -> None:
        """Draw a filled circle."""
        (cx, cy), r = (self._pixels(np.array([[x, y]]), depth), radius * self._width * self._pose.zoom)
        pen = self._solid if opacity >= 1 else self._blend
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_ink(colour, opacity))

    def backdrop(self, top: Colour, bottom: Colour, blobs: Sequence[Blob]) -> None:
        """Fill the canvas with a vertical gradient and soft spots. The pose of the head does not move them."""
        spots = np.array(blobs)
        spots[:, :4] *= self._width
        size = self._width // self._factor
        self._image.paste(self._soft((0, 0), (size, size), top, bottom, spots))

    def texture(self, outline: Points, top: Colour, bottom: Colour, blobs: Sequence[Blob], depth: float = 0.0) -> None:
        """Fill ``outline``, (n, 2), with a vertical gradient and soft spots: the shading of skin, hair and clothes."""
        pixels, factor = self._place(outline, depth), self._factor
        size = self._width // factor
        left, top_row = (min(size - 1, max(0, int(edge // factor))) for edge in pixels.min(0).tolist())
        right, last = (min(size, int(edge // factor) + 1) for edge in pixels.max(0).tolist())
        cells = (max(1, right - left), max(1, last - top_row))
        spots = np.array(blobs)
        spots[:, :2] = self._place(spots[:, :2], depth)
        spots[:, 2:4] *= self._width * self._pose.zoom
        soft = self._soft((left, top_row), cells, top, bottom, spots)
        mask = Image.new("1", soft.size)
        corner = (left * factor, top_row * factor)
        ImageDraw.Draw(mask).polygon((pixels - corner).ravel().tolist(), fill=1)
        self._image.paste(soft, corner, mask)

    def _soft(
        self, corner: tuple[int, int], cells: tuple[int, int], top: Colour, bottom: Colour, spots: Points
    ) -> Image.Image:
        """A vertical gradient plus Gaussian spots, computed at the image's resolution and enlarged to the canvas's.

        Args:
            corner: the first column and row, in pixels of the image.
            cells: the numbers of columns and rows, in pixels of the image.
            spots: (n, 7), blobs in pixels of the canvas.
        """
        (columns, rows), factor = cells, self._factor
        x = np.arange(corner[0] + 0.5, corner[0] + columns, dtype=np.float32) * factor
        y = np.arange(corner[1] + 0.5, corner[1] + rows, dtype=np.float32) * factor
        spots = spots.astype(np.float32)
        across = (x - spots[:, 0:1]) / spots[:, 2:3]
        down = (y - spots[:, 1:2]) / spots[:, 3:4]
        across, down = np.exp(-across * across), np.exp(-down * down)
        first, last = np.array((top, bottom), np.float32)[:, :, None]
        ramp = first + (last - first) * even_steps(rows).astype(np.float32)
        channels = (spots.T[4:, None, :] * down.T) @ across + ramp[:, :, None]
        np.minimum(np.maximum(channels, 0, out=channels), 255, out=channels)
        shade = np.ascontiguousarray(channels.astype(np.uint8).transpose(1, 2, 0))
        return Image.fromarray(shade).resize((columns * factor, rows * factor), Image.Resampling.NEAREST)

    def render(self, tint: Colour, blur: float) -> NDArray[np.uint8]:
        """The image, (size, size, 3) uint8: scaled by ``tint`` per channel, blurred by ``blur`` of its width."""
        small = self._image.reduce(self._factor)
        if blur > 0:
            small = small.filter(ImageFilter.GaussianBlur(blur * small.width))
        lit = np.asarray(small, np.float32) * np.array(tint, np.float32) + np.float32(0.5)
        image: NDArray[np.uint8] = np.minimum(lit, np.float32(255)).astype(np.uint8)
        return image

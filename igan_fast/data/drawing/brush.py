"""The brush of the drawn faces: a supersampled canvas, the head's pose, smooth curves and soft textures.

Everything is drawn in *head coordinates*: the origin is the middle between the eyes, x grows to the right and y down,
and the unit is the side of the picture. The pose turns them into canvas pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["Blob", "Brush", "Colour", "Points", "Pose", "curve", "loop", "mirrored", "mix", "moved", "ribbon", "unit"]

Colour: TypeAlias = tuple[float, float, float]
Points: TypeAlias = NDArray[np.float64]
#: A soft spot of a texture: x, y, radius in x, radius in y (head coordinates), and what it adds to red, green and blue.
Blob: TypeAlias = tuple[float, float, float, float, float, float, float]

#: The canvas is at least this wide, so that small pictures are as finely anti-aliased as larger ones.
_CANVAS = 192
_STEPS = 6  # points drawn per control point of a curve


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` with ``share`` (0 to 1) of ``second`` in it; a share below 0 or above 1 extrapolates."""
    (r, g, b), (s, h, c) = first, second
    return (r + share * (s - r), g + share * (h - g), b + share * (c - b))


def _ink(colour: Colour, opacity: float = 1.0) -> tuple[int, int, int, int]:
    r, g, b = colour
    return _byte(r), _byte(g), _byte(b), _byte(255 * opacity)


def _byte(value: float) -> int:
    return 0 if value < 0 else 255 if value > 255 else int(value + 0.5)


@lru_cache(maxsize=128)
def _spline(count: int, closed: bool) -> NDArray[np.float64]:
    """The matrix that turns ``count`` control points into the points of the Catmull–Rom curve through them."""
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


def moved(points: Points, x: float, y: float) -> Points:
    """``points`` shifted by (x, y)."""
    shifted: Points = points + np.array((x, y))
    return shifted


@lru_cache(maxsize=256)
def unit(count: int) -> Points:
    """``count`` even steps from 0 to 1 (not to be written to)."""
    return np.linspace(0.0, 1.0, count)


def curve(points: Sequence[tuple[float, float]] | Points) -> Points:
    """A smooth open curve through ``points`` ((n, 2), n ≥ 2)."""
    return _spline(len(points), False) @ np.asarray(points, np.float64)


def loop(points: Sequence[tuple[float, float]] | Points) -> Points:
    """A smooth closed outline through ``points`` ((n, 2), n ≥ 3)."""
    return _spline(len(points), True) @ np.asarray(points, np.float64)


def mirrored(right_half: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A symmetric path: from the left end of ``right_half``'s mirror image over its first point to its last.

    A first point on the axis (x = 0) is not repeated.
    """
    left = [(-x, y) for x, y in reversed(right_half)]
    return left[: -1 if right_half[0][0] == 0 else None] + list(right_half)


def ribbon(spine: Points, widths: Sequence[float] | float) -> Points:
    """The outline of a stroke along ``spine`` ((n, 2)), as wide as ``widths`` spread evenly along it."""
    normals = np.empty_like(spine)
    normals[1:-1] = spine[2:] - spine[:-2]
    normals[0], normals[-1] = spine[1] - spine[0], spine[-1] - spine[-2]
    normals = normals[:, ::-1] * (-1.0, 1.0)
    normals /= 2 * np.sqrt((normals * normals).sum(1, keepdims=True)) + 1e-9
    if isinstance(widths, float):
        half = normals * widths
    else:
        half = normals * np.interp(unit(len(spine)), unit(len(widths)), widths)[:, None]
    return np.concatenate((spine + half, (spine - half)[::-1]))


class Pose:
    """How the head stands in the picture.

    Args:
        centre: where the middle between the eyes falls, as shares of the picture's side.
        zoom: the head's size, 1 on average.
        roll: tilt in radians, clockwise.
        yaw, pitch: turn to the viewer's right and down, in radians; both are small, so points move by their depth only.
    """

    def __init__(self, centre: tuple[float, float], zoom: float, roll: float, yaw: float, pitch: float) -> None:
        self._centre = np.array(centre)
        c, s = zoom * math.cos(roll), zoom * math.sin(roll)
        self._rotation = np.array([[c, s], [-s, c]])
        self._lean = np.array([math.sin(yaw), math.sin(pitch)])
        self.zoom = zoom

    def matrix(self, side: int) -> Points:
        """(2, 2): turns head coordinates (rows) into pixels of a canvas ``side`` wide, up to `origin`."""
        return self._rotation * side

    def origin(self, side: int, depth: float) -> Points:
        """(2,): where the head's origin falls on that canvas, for what lies ``depth`` in front of the head's middle."""
        origin: Points = (depth * self._lean @ self._rotation + self._centre) * side
        return origin


class Brush:
    """A canvas of ``size`` × ``size`` pixels, supersampled, on which shapes given in head coordinates are drawn."""

    def __init__(self, size: int, pose: Pose) -> None:
        self._factor = max(3, -(-_CANVAS // size))
        self._width = size * self._factor
        self._pose = pose
        self._matrix = pose.matrix(self._width)
        self._origins: dict[float, Points] = {}
        self._canvas = Image.new("RGB", (self._width, self._width))
        self._solid = ImageDraw.Draw(self._canvas)
        self._glaze = ImageDraw.Draw(self._canvas, "RGBA")  # blends what it draws; slower than the solid one

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
        """Fill ``outline`` ((n, 2)) with one colour; ``both`` fills its mirror image too."""
        pen, ink = self._solid if opacity >= 1 else self._glaze, _ink(colour, opacity)
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
        """A stroke along ``spine`` whose width runs through ``widths``, for lines that should swell and taper."""
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
        """A plain line along ``spine``: cheaper than a stroke."""
        thickness = max(1, round(width * self._width * self._pose.zoom))
        pen, ink = self._solid if opacity >= 1 else self._glaze, _ink(colour, opacity)
        for pixels in self._sides(spine, depth, both):
            pen.line(pixels, fill=ink, width=thickness)

    def _sides(self, points: Points, depth: float, both: bool) -> list[list[float]]:
        if not both:
            return [self._pixels(points, depth)]
        pixels = self._pixels(np.concatenate((points, points * (-1.0, 1.0))), depth)
        return [pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]]

    def disc(self, x: float, y: float, radius: float, colour: Colour, opacity: float = 1.0, depth: float = 0.0) -> None:
        """A filled circle."""
        (cx, cy), r = (self._pixels(np.array([[x, y]]), depth), radius * self._width * self._pose.zoom)
        pen = self._solid if opacity >= 1 else self._glaze
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_ink(colour, opacity))

    def backdrop(self, top: Colour, bottom: Colour, blobs: Sequence[Blob]) -> None:
        """Cover the whole canvas with a vertical gradient and soft spots. These stand still when the head moves."""
        spots = np.array(blobs)
        spots[:, :4] *= self._width
        size = self._width // self._factor
        self._canvas.paste(self._soft((0, 0), (size, size), top, bottom, spots))

    def texture(self, outline: Points, top: Colour, bottom: Colour, blobs: Sequence[Blob], depth: float = 0.0) -> None:
        """Fill ``outline`` with a vertical gradient and soft spots: all shading of skin, hair and cloth."""
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
        self._canvas.paste(soft, corner, mask)

    def _soft(
        self, corner: tuple[int, int], cells: tuple[int, int], top: Colour, bottom: Colour, spots: Points
    ) -> Image.Image:
        """A gradient plus Gaussian spots, one cell for each pixel of the finished picture, in canvas size.

        ``corner`` and ``cells`` (columns, rows) count finished pixels; ``spots`` (n, 7) are blobs in canvas pixels.
        """
        (columns, rows), factor = cells, self._factor
        x = np.arange(corner[0] + 0.5, corner[0] + columns, dtype=np.float32) * factor
        y = np.arange(corner[1] + 0.5, corner[1] + rows, dtype=np.float32) * factor
        spots = spots.astype(np.float32)
        across = (x - spots[:, 0:1]) / spots[:, 2:3]
        down = (y - spots[:, 1:2]) / spots[:, 3:4]
        across, down = np.exp(-across * across), np.exp(-down * down)
        first, last = np.array((top, bottom), np.float32)[:, :, None]
        ramp = first + (last - first) * unit(rows).astype(np.float32)
        channels = (spots.T[4:, None, :] * down.T) @ across + ramp[:, :, None]
        np.minimum(np.maximum(channels, 0, out=channels), 255, out=channels)
        shade = np.ascontiguousarray(channels.astype(np.uint8).transpose(1, 2, 0))
        return Image.fromarray(shade).resize((columns * factor, rows * factor), Image.Resampling.NEAREST)

    def picture(self, tint: Colour, blur: float) -> NDArray[np.uint8]:
        """The finished picture, uint8 (size, size, 3), tinted and blurred by ``blur`` (a share of the side)."""
        small = self._canvas.reduce(self._factor)
        if blur > 0:
            small = small.filter(ImageFilter.GaussianBlur(blur * small.width))
        lit = np.asarray(small, np.float32) * np.array(tint, np.float32) + np.float32(0.5)
        picture: NDArray[np.uint8] = np.minimum(lit, np.float32(255)).astype(np.uint8)
        return picture

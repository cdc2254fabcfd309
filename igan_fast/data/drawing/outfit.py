"""Draws clothes, necktie, necklace, earrings and glasses."""

from __future__ import annotations

import numpy as np

from igan_fast.data.drawing.canvas import Blob, Canvas, Colour, curve, loop, mirrored, mix, shifted
from igan_fast.data.drawing.figure import Figure, pick

__all__ = ["paint_clothes", "paint_earrings", "paint_glasses", "paint_necklace"]

_CLOTHES: tuple[Colour, ...] = (
    (58, 76, 110), (150, 62, 72), (84, 122, 104), (206, 180, 150), (92, 78, 118), (222, 146, 96), (120, 150, 186),
    (66, 66, 74),
)  # fmt: skip
_TIES: tuple[Colour, ...] = ((190, 30, 44), (34, 70, 160), (20, 120, 110), (120, 40, 130), (214, 140, 30))
_JEWELS: tuple[Colour, ...] = ((255, 214, 84), (250, 250, 255), (74, 222, 214), (255, 120, 150))
_FRAMES: tuple[Colour, ...] = ((24, 22, 26), (96, 36, 24), (36, 46, 92), (120, 20, 40), (24, 22, 26))


def paint_clothes(canvas: Canvas, figure: Figure) -> None:
    """Draw the shoulders in a jumper, a low-cut top, or a suit with shirt and necktie."""
    cloth = pick(_CLOTHES, figure.image.outfit_colour)
    dark = mix(cloth, (16, 12, 28), 0.4)
    tie = figure.has("Wearing_Necktie")
    if tie:
        cloth, dark = (52, 56, 72), (30, 32, 44)
    n, wide = figure.neck, 0.5 if figure.male else 0.43
    low = 0.462 if figure.male or figure.image.outfit < -0.2 else 0.52
    right = [
        (0, low),
        (n * 0.8, low - 0.022),
        (n + 0.035, 0.41),
        (wide * 0.72, 0.455),
        (wide, 0.52),
        (wide + 0.05, 0.7),
        (0, 0.7),
    ]
    sheen: Blob = (0.2 if figure.image.light_side > 0 else -0.2, 0.48, 0.14, 0.05, 22, 22, 22)
    canvas.texture(curve(mirrored(right)), cloth, dark, [sheen], -0.05)
    if not tie:
        canvas.line(curve(mirrored(right[:3])), 0.012, dark, 0.8, -0.05)
        return
    shirt = np.array(mirrored([(0, 0.42), (n + 0.02, 0.385), (n + 0.03, 0.43), (0.05, 0.7)]))
    canvas.fill(shirt, (247, 248, 252), depth=-0.05)
    colour = pick(_TIES, figure.image.accessory_colour)
    blade = np.array(mirrored([(0, 0.45), (0.026, 0.46), (0.062, 0.7)]))
    knot = np.array(mirrored([(0, 0.402), (0.056, 0.402), (0.034, 0.47), (0, 0.476)])[:-1])
    canvas.fill(blade, colour, depth=-0.05)
    canvas.fill(knot, mix(colour, (255, 255, 255), 0.12), depth=-0.05)
    canvas.line(np.array([(-0.036, 0.476), (0.036, 0.476)]), 0.009, mix(colour, (0, 0, 0), 0.5), depth=-0.05)
    for side in (-1, 1):
        flap = np.array(
            [(side * (n + 0.02), 0.39), (side * 0.026, 0.425), (side * 0.1, 0.485), (side * (n + 0.035), 0.44)]
        )
        canvas.fill(flap, (226, 230, 240), depth=-0.05)


def paint_necklace(canvas: Canvas, figure: Figure) -> None:
    """Draw a bead necklace."""
    if not figure.has("Wearing_Necklace"):
        return
    jewel = pick(_JEWELS[:3], figure.image.accessory)
    n = figure.neck
    for t in np.linspace(-1, 1, 11):
        x, y = n * 1.15 * t, 0.468 - 0.055 * t * t
        canvas.disc(x, y + 0.003, 0.0165, (90, 50, 40), 0.6, -0.03)
        canvas.disc(x, y, 0.0145, jewel, depth=-0.03)
        canvas.disc(x - 0.004, y - 0.005, 0.005, (255, 255, 255), depth=-0.03)
    canvas.disc(0.0, 0.492, 0.02, mix(jewel, (190, 90, 30), 0.25), depth=-0.03)


def paint_earrings(canvas: Canvas, figure: Figure) -> None:
    """Draw drop or hoop earrings below both ears, in front of the hair."""
    if not figure.has("Wearing_Earrings"):
        return
    jewel = pick(_JEWELS, figure.image.outfit)
    for side in (-1.0, 1.0):
        x = side * (figure.cheek + 0.014)
        if figure.image.accessory > 0:
            rays = np.linspace(0, 2 * np.pi, 24)
            hoop = np.stack((x + 0.034 * np.cos(rays), 0.142 + 0.044 * np.sin(rays)), axis=1)
            canvas.line(hoop, 0.021, (80, 48, 30), 0.5)
            canvas.line(hoop, 0.016, jewel)
        else:
            canvas.disc(x, 0.101, 0.014, jewel)
            drop = loop([(x, 0.1), (x + 0.028, 0.168), (x, 0.196), (x - 0.028, 0.168)])
            canvas.fill(drop * (1.0, 1.02), (80, 48, 30), 0.5)
            canvas.fill(drop, jewel)
            canvas.disc(x - 0.008, 0.155, 0.008, (255, 255, 255))


def paint_glasses(canvas: Canvas, figure: Figure) -> None:
    """Draw round or square glasses with a reflection on the lenses."""
    if not figure.has("Eyeglasses"):
        return
    colour = pick(_FRAMES, figure.image.accessory)
    e, depth = figure.eye_x, 0.09
    if figure.image.accessory_colour > 0:
        rays = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        lens = np.stack((0.087 * np.cos(rays), 0.08 * np.sin(rays)), axis=1)
        lens = shifted(lens, 0, 0.01)
    else:
        lens = loop([(-0.082, -0.05), (0.0, -0.058), (0.09, -0.054), (0.084, 0.05), (0.0, 0.072), (-0.07, 0.056)])
    ring = shifted(lens, e, 0)
    canvas.fill(ring, (214, 232, 255), 0.2, depth, both=True)
    glint = np.array([(e - 0.045, -0.03), (e - 0.022, -0.04), (e - 0.04, 0.035), (e - 0.058, 0.03)])
    canvas.fill(glint, (255, 255, 255), 0.4, depth, both=True)
    canvas.line(np.concatenate((ring, ring[:2])), 0.0165, colour, depth=depth, both=True)
    temple = np.array([(e + 0.085, -0.022), (figure.cheek + 0.012, -0.03)])
    canvas.line(temple, 0.016, colour, depth=depth / 2, both=True)
    canvas.line(curve(mirrored([(0, -0.012), (e - 0.08, -0.002)])), 0.0165, colour, depth=depth)

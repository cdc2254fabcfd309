"""Draws neck, ears and face with the shading of the skin, wrinkles and beards."""

from __future__ import annotations

import numpy as np

from igan_fast.data.drawing.canvas import Blob, Canvas, curve, loop, mirrored, mix
from igan_fast.data.drawing.figure import Figure

__all__ = ["paint_beard", "paint_head", "paint_lines", "paint_neck"]


def paint_neck(canvas: Canvas, figure: Figure) -> None:
    """Draw the neck with the shadow of the chin, and the double chin."""
    n = figure.neck
    outline = np.array([(-n, 0.15), (n, 0.15), (n * 1.02, 0.52), (n * 1.9, 0.52), (n * 1.9, 0.62), (-n * 1.9, 0.62)])
    outline = np.concatenate((outline, [(-n * 1.9, 0.52), (-n * 1.02, 0.52)]))
    canvas.fill(outline, mix(figure.skin, (110, 40, 34), 0.13), depth=-0.05)
    shade = loop(mirrored([(0, 0.3), (n * 0.94, 0.28), (n * 0.8, 0.39), (0, figure.bottom + 0.05)])[:-1])
    canvas.fill(shade, (96, 30, 30), 0.22, -0.05)
    if figure.has("Double_Chin"):
        bulge = loop(mirrored([(0.0, 0.2), (0.175, 0.24), (0.15, 0.37), (0.075, 0.525), (0, 0.437)])[:-1])
        canvas.fill(bulge * (1.07, 1.025), figure.crease, 0.55)
        canvas.texture(bulge, figure.skin, figure.skin, [(0.0, 0.43, 0.2, 0.03, -26, -32, -30)])


def paint_head(canvas: Canvas, figure: Figure) -> None:
    """Draw ears and face, with the shading of light, cheekbones, blush, make-up and age."""
    has = figure.has
    c = figure.cheek
    ear = loop([(c - 0.014, -0.03), (c + 0.034, -0.045), (c + 0.036, 0.04), (c + 0.012, 0.1), (c - 0.02, 0.09)])
    canvas.fill(ear, mix(figure.skin, figure.shadow, 0.45), depth=-0.05, both=True)
    canvas.fill(ear * (0.94, 0.8) + (0.012, 0.005), mix(figure.skin, figure.shadow, 0.95), 0.5, -0.05, both=True)
    canvas.texture(
        figure.face, mix(figure.skin, (255, 250, 236), 0.1), mix(figure.skin, figure.shadow, 0.22), _skin(figure)
    )
    if has("Double_Chin"):
        fold = curve(mirrored([(0, figure.bottom - 0.004), (figure.chin, figure.bottom - 0.026), (0.13, 0.29)]))
        canvas.stroke(fold, (0.004, 0.014, 0.017, 0.014, 0.004), figure.crease, 0.75)


def _skin(figure: Figure) -> list[Blob]:
    has, image, e = figure.has, figure.image, figure.eye_x
    side = 0.22 * (1 if image.light_side > 0 else -1)
    power = 8 + 12 * abs(image.light_side)
    blobs: list[Blob] = [
        (side, -0.02, 0.2, 0.4, power, power, power * 0.8),
        (-side, 0.05, 0.13, 0.4, -1.9 * power, -2.3 * power, -2.2 * power),
        (0.0, -0.19, 0.13, 0.08, 10, 10, 9),  # forehead
        (0.0, figure.bottom - 0.045, 0.05, 0.03, 9, 8, 8),  # chin
        (0.0, figure.mouth_y + 0.052, 0.06, 0.018, -22, -24, -22),  # under the lower lip
        (-e, -0.015, 0.075, 0.05, -15, -20, -16),  # eye sockets
        (e, -0.015, 0.075, 0.05, -15, -20, -16),
        (0.0, 0.07, 0.018, 0.1, 12, 12, 12),  # bridge of the nose
        (0.034, 0.09, 0.02, 0.09, -10, -13, -12),
        (-0.034, 0.09, 0.02, 0.09, -10, -13, -12),
    ]
    for x in (-1, 1):
        if has("High_Cheekbones"):
            blobs.append((x * 0.148, 0.082, 0.052, 0.032, 46, 42, 40))
            blobs.append((x * 0.2, 0.135, 0.032, 0.036, -38, -43, -41))
            blobs.append((x * 0.165, 0.185, 0.036, 0.036, -36, -41, -39))
        else:
            blobs.append((x * 0.135, 0.12, 0.07, 0.06, 7, -2, -1))
        if has("Rosy_Cheeks"):
            blobs.append((x * 0.142, 0.118, 0.066, 0.05, 20, -60, -36))
        if has("Heavy_Makeup"):
            blobs.append((x * 0.172, 0.085, 0.045, 0.045, 6, -30, -14))
        if has("Chubby"):
            blobs.append((x * 0.15, 0.17, 0.06, 0.055, 18, 10, 10))
            blobs.append((x * 0.105, 0.235, 0.03, 0.04, -14, -18, -16))
        if not figure.young:
            blobs.append((x * 0.12, 0.2, 0.03, 0.07, -18, -20, -18))
            blobs.append((x * 0.15, 0.27, 0.03, 0.05, -22, -22, -20))  # sunken cheek
    if has("Bald"):
        blobs.append((side * 0.35, -0.27, 0.07, 0.035, 42, 42, 40))
    # less shading on dark skin: in full strength its shadows would be black and its blush scarlet
    share = min(1.0, 0.3 + sum(figure.skin) / 800)
    return [(x, y, w, h, share * r, share * g, share * b) for x, y, w, h, r, g, b in blobs]


def paint_lines(canvas: Canvas, figure: Figure) -> None:
    """Draw wrinkles (forehead, eyes, mouth) on a face that is not young, and bags under the eyes."""
    e = figure.eye_x
    if not figure.young:
        for y, reach in ((-0.205, 0.085), (-0.172, 0.11), (-0.14, 0.095)):
            canvas.line(
                curve(mirrored([(0, y + 0.006), (reach * 0.6, y - 0.004), (reach, y + 0.006)])),
                0.008,
                figure.crease,
                0.52,
            )
        fold = curve([(0.055, 0.15), (0.092, 0.19), (0.118, figure.mouth_y + 0.012)])
        canvas.stroke(fold, (0.004, 0.014, 0.006), figure.crease, 0.6, both=True)
        for y in (-0.022, 0.004, 0.03):
            canvas.line(np.array([(e + 0.07, y * 0.35), (e + 0.102, y)]), 0.008, figure.crease, 0.55, both=True)
    if figure.has("Bags_Under_Eyes"):
        bag = loop([(e - 0.06, 0.03), (e, 0.036), (e + 0.056, 0.024), (e + 0.03, 0.062), (e - 0.03, 0.066)])
        canvas.fill(bag, mix(figure.skin, (92, 48, 84), 0.6), 0.62, both=True)
        rim = curve([(e - 0.055, 0.046), (e - 0.01, 0.069), (e + 0.05, 0.046)])
        canvas.stroke(rim, (0.003, 0.009, 0.003), figure.crease, 0.6, both=True)


def paint_beard(canvas: Canvas, figure: Figure) -> None:
    """Draw stubble, jaw beard, sideburns, goatee and moustache in this order. The mouth is drawn on top of them."""
    has, m, b = figure.has, figure.mouth_y, figure.bottom
    if has("No_Beard"):
        return
    kinds = [name for name in ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns") if has(name)]
    inner = [(0, m - 0.06), (0.075, m - 0.045), (0.125, m - 0.05), (0.172, 0.13)]
    edge = [(figure.cheek_line(y), y) for y in (0.13, 0.2, 0.26, b - 0.025)]
    if "5_o_Clock_Shadow" in kinds:
        stubble = loop(mirrored([*inner, *edge, (0, b)])[:-1])
        canvas.fill(stubble, mix(figure.skin, (52, 60, 76), 0.62), 0.62)
    if not kinds:
        band = [(figure.cheek_line(y) - 0.05 + 0.02 * (y < 0.1), y - 0.01) for y in (0.06, 0.14, 0.22)]
        outer = [(figure.cheek_line(y) + 0.006, y) for y in (0.06, 0.16, 0.26, b - 0.02)]
        right = [(0.0, m + 0.075), (0.07, m + 0.062), *reversed(band), *outer, (0.0, b + 0.012)]
        outline = curve(right)
        canvas.fill(outline, figure.whiskers, 0.93, both=True)
    if "Sideburns" in kinds:
        low = 0.15 if "Goatee" not in kinds else 0.26
        path = [(figure.cheek_line(y) - 0.026, y) for y in (-0.06, 0.02, 0.1, low)]
        canvas.stroke(curve(path), (0.044, 0.05, 0.052, 0.022), figure.whiskers, 0.95, both=True)
    if "Goatee" in kinds:
        chin = [
            (0, m + 0.055),
            (0.05, m + 0.05),
            (0.094, m + 0.03),
            (0.1, b - 0.05),
            (0.066, b + 0.004),
            (0, b + 0.026),
        ]
        canvas.fill(loop(mirrored(chin)[:-1]), figure.whiskers, 0.94)
    if "Mustache" in kinds:
        lip = [
            (0, m - 0.062),
            (0.05, m - 0.064),
            (0.1, m - 0.03),
            (0.122, m + 0.016),
            (0.082, m - 0.006),
            (0, m - 0.022),
        ]
        canvas.fill(loop(mirrored(lip)[:-1]), figure.whiskers, 0.95, 0.06)

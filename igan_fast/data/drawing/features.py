"""Draws eyes, eyebrows, nose and mouth."""

from __future__ import annotations

import numpy as np

from igan_fast.data.drawing.canvas import Canvas, Colour, Points, curve, loop, mirrored, mix, shifted
from igan_fast.data.drawing.figure import Figure, pick

__all__ = ["paint_brows", "paint_eyes", "paint_mouth", "paint_nose"]

_DEPTH = 0.06
_SHADOWS: tuple[Colour, ...] = ((112, 66, 150), (60, 110, 168), (40, 134, 130), (150, 64, 108))
_LASHES: Colour = (40, 24, 26)
_RAYS = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack((np.cos(_RAYS), np.sin(_RAYS)), axis=1)


def paint_eyes(canvas: Canvas, figure: Figure) -> None:
    """Draw both eyes: the white, the iris as far as the lids show it, lashes, and eyeshadow with make-up."""
    has, person, image = figure.has, figure.person, figure.image
    size = (0.97 if figure.male else 1.06) * (1 + 0.05 * person.eye_size)
    narrow = has("Narrow_Eyes")
    top = (-0.011 if narrow else -0.034 if figure.young else -0.029) * size
    low = (0.006 if narrow else 0.022) * size - (0.004 if has("Smiling") and not narrow else 0.0)
    slant = 0.004 + 0.004 * person.eye_slant
    makeup = has("Heavy_Makeup")
    w = 0.06 * size
    upper = curve(
        [(-w, 0.007), (-0.5 * w, 0.72 * top), (0.1 * w, top), (0.7 * w, 0.62 * top - slant), (1.05 * w, -slant)]
    )
    lower = curve([(1.05 * w, -slant), (0.45 * w, low), (-0.3 * w, low), (-w, 0.007)])
    lid = shifted(upper, 0, 0.42 * top - 0.006)
    at = np.array([figure.eye_x, 0.0])
    if makeup:
        shade = np.concatenate((upper * (1.12, 1) + (0, 0.004), (lid * (1.16, 1.0) + (0.002, -0.016))[::-1]))
        canvas.fill(shade + at, pick(_SHADOWS, image.makeup), 0.72, _DEPTH, both=True)
    canvas.fill(np.concatenate((upper, lower)) + at, (250, 247, 243), depth=_DEPTH, both=True)
    discs = (
        (0.0315 * size, mix(figure.iris, (10, 8, 12), 0.5)),
        (0.026 * size, figure.iris),
        (0.0155 * size, (16, 12, 16)),
    )
    for side in (-1.0, 1.0):
        mirror, middle = (side, 1.0), (0.004 + 0.012 * side * image.gaze, -0.003)
        for radius, colour in discs:
            canvas.fill((_between(_CIRCLE * radius + middle, upper, lower) + at) * mirror, colour, depth=_DEPTH)
        if not narrow:
            canvas.disc(side * (figure.eye_x + middle[0]) + 0.009, -0.013, 0.0085, (255, 255, 255), depth=_DEPTH)
    lash = (0.008, 0.02, 0.024, 0.022) if makeup else (0.005, 0.012, 0.014, 0.012)
    if not figure.male:
        lash = lash if makeup else (0.006, 0.015, 0.018, 0.016)
        liner = np.array([(0.85 * w, -slant - 0.008), (1.35 * w, -0.02 - slant), (1.0 * w, 0.004 - slant)])
        canvas.fill(liner + at, _LASHES, depth=_DEPTH, both=True)
    canvas.stroke(upper + at, lash, _LASHES, depth=_DEPTH, both=True)
    below, opacity = (_LASHES, 0.8) if makeup else (figure.crease, 0.55)
    canvas.line(lower + at, 0.007, below, opacity, _DEPTH, both=True)
    canvas.line(lid + at, 0.006, figure.crease, 0.6, _DEPTH, both=True)


def _between(outline: Points, upper: Points, lower: Points) -> Points:
    """``outline`` with y clamped between the lids. ``upper`` runs from left to right, ``lower`` from right to left."""
    x = outline[:, 0]
    high = np.interp(x, upper[:, 0], upper[:, 1])
    low = np.interp(x, lower[::-1, 0], lower[::-1, 1])
    return np.stack((x, np.minimum(np.maximum(outline[:, 1], high), low)), axis=1)


def paint_brows(canvas: Canvas, figure: Figure) -> None:
    """Draw both eyebrows: straight or arched, plain or bushy."""
    has = figure.has
    y = (-0.08 if figure.male else -0.088) - 0.005 * figure.person.brow_height - 0.006 * figure.image.brows
    bushy = has("Bushy_Eyebrows")
    thick = (0.0215 if figure.male else 0.0145) * (1.75 if bushy else 1.0)
    if has("Arched_Eyebrows"):
        spine = curve([(-0.06, -0.01), (-0.014, -0.026), (0.034, -0.036), (0.08, 0.006)])
    else:
        spine = curve([(-0.062, 0.004), (-0.01, -0.002), (0.036, -0.004), (0.078, 0.008)])
    colour = mix(figure.brow, (20, 12, 12), 0.45) if bushy else figure.brow
    at = (figure.eye_x, y)
    canvas.stroke(spine + at, (0.7 * thick, thick, 0.95 * thick, 0.25 * thick), colour, 0.94, _DEPTH, both=True)
    if bushy:
        for x in (-0.055, -0.03, -0.004, 0.022):
            canvas.line(np.array([(x, 0.008), (x + 0.016, -0.02)]) + at, 0.009, colour, depth=_DEPTH, both=True)


def paint_nose(canvas: Canvas, figure: Figure) -> None:
    """Draw the nose: round by default, wide if it is big, slim with a narrow tip if it is pointy."""
    has, person = figure.has, figure.person
    big, pointy = has("Big_Nose"), has("Pointy_Nose")
    wide = (0.04 + 0.003 * person.nose_width) * (1.68 if big else 1.0) * (0.72 if pointy else 1.0)
    tip = 0.142 + 0.006 * person.nose_length + (0.012 if big else 0.0) + (0.012 if pointy else 0.0)
    depth = 0.12
    side = -1.0 if figure.image.light_side > 0 else 1.0
    cheek = np.array(
        [(side * 0.012, -0.02), (side * 0.016, 0.07), (side * wide, tip - 0.03), (side * wide * 0.8, tip), (0, tip)]
    )
    canvas.fill(cheek, figure.shadow, 0.34, depth)
    if pointy:
        base = np.array(
            [
                (-wide, tip - 0.036),
                (-wide * 0.75, tip - 0.014),
                (0, tip + 0.012),
                (wide * 0.75, tip - 0.014),
                (wide, tip - 0.036),
            ]
        )
        canvas.stroke(base, (0.006, 0.011, 0.014, 0.011, 0.006), figure.crease, 0.85, depth)
        ridge = curve([(0, 0.0), (0, 0.06), (0, tip - 0.01)])
        canvas.stroke(ridge, (0.001, 0.012, 0.015, 0.004), mix(figure.skin, (255, 255, 250), 0.55), 0.75, depth)
    else:
        rim = 0.014 if big else 0.009
        base = curve(
            mirrored(
                [
                    (0, tip),
                    (wide * 0.6, tip - 0.003),
                    (wide, tip - 0.02),
                    (wide * 0.88, tip - (0.052 if big else 0.036)),
                ]
            )
        )
        canvas.stroke(base, (0.003, rim, rim, rim, rim, rim, 0.003), figure.crease, 0.72, depth)
        canvas.disc(0.0, tip - 0.03, 0.021 if big else 0.012, mix(figure.skin, (255, 255, 250), 0.5), 0.32, depth)
    for x in (-1, 1):
        canvas.disc(
            x * wide * 0.5, tip - 0.008, 0.0105 if big else 0.007, mix(figure.crease, (40, 8, 8), 0.5), 0.85, depth
        )


def paint_mouth(canvas: Canvas, figure: Figure) -> None:
    """Draw the mouth: smiling or not, closed or open, with thin or full lips."""
    has, image, m = figure.has, figure.image, figure.mouth_y
    smile = 0.035 + 0.005 * image.expression if has("Smiling") else 0.006 + 0.003 * image.expression
    wide = (0.083 + 0.004 * figure.person.mouth_width) * (1.3 if has("Smiling") else 1.0)
    gap = (0.042 + 0.006 * image.mouth) if has("Mouth_Slightly_Open") else 0.0
    full = (2.25 if has("Big_Lips") else 1.0) * (0.85 if figure.male else 1.0) * (1 + 0.08 * figure.person.lips)
    sag = 0.35 * smile
    top = [(0, m + sag - 0.2 * gap), (wide * 0.5, m + 0.15 * sag - 0.14 * gap), (wide, m - smile)]
    low = [(0, m + sag + 0.8 * gap), (wide * 0.5, m + 0.2 * sag + 0.62 * gap), (wide, m - smile)]
    bow = [
        (0, m + sag - 0.2 * gap - 0.013 * full),
        (wide * 0.2, m + 0.7 * sag - 0.2 * gap - 0.018 * full),
        (wide * 0.58, m - 0.1 * smile - 0.012 * full),
        (wide, m - smile),
    ]
    pout = [(0, low[0][1] + 0.024 * full), (wide * 0.5, low[1][1] + 0.019 * full), (wide, m - smile)]
    upper, lower = curve(mirrored(top)), curve(mirrored(low))
    crown, rim = curve(mirrored(bow)), curve(mirrored(pout))
    canvas.fill(np.concatenate((crown, rim[::-1])), mix(figure.lips, (70, 16, 26), 0.18), depth=_DEPTH)
    canvas.fill(np.concatenate((lower, rim[::-1])), mix(figure.lips, (255, 190, 184), 0.1), depth=_DEPTH)
    if gap:
        hole = np.concatenate((upper, lower[::-1]))
        canvas.fill(hole, (74, 14, 22), depth=_DEPTH)
        share = 0.68 if has("Smiling") else 0.4
        teeth = np.concatenate((upper, (upper + share * (lower - upper))[::-1]))
        canvas.fill((teeth - (0, m)) * (0.9, 1.0) + (0, m), (252, 249, 244), depth=_DEPTH)
    else:
        canvas.stroke(upper, (0.004, 0.01, 0.011, 0.01, 0.004), mix(figure.lips, (52, 10, 16), 0.66), depth=_DEPTH)
    glow = low[0][1] + 0.012 * full
    shine = np.array([(-0.026, glow - 0.001), (0, glow + 0.002), (0.026, glow - 0.001)])
    canvas.line(shine, 0.0065, (255, 236, 232), 0.75 if has("Wearing_Lipstick") else 0.35, _DEPTH)
    if has("Smiling"):
        dimple = [(wide + 0.004, m - smile - 0.016), (wide + 0.017, m - smile), (wide + 0.002, m - smile + 0.014)]
        canvas.fill(loop(dimple), figure.crease, 0.4, _DEPTH, both=True)

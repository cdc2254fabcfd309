"""Draws the hair behind the head and on top of it, and hats."""

from __future__ import annotations

import numpy as np

from igan_fast.data.drawing.canvas import Blob, Canvas, Colour, Points, curve, even_steps, loop, mirrored, mix, shifted
from igan_fast.data.drawing.figure import Figure, pick

__all__ = ["paint_back_hair", "paint_front_hair", "paint_hat"]

_HATS: tuple[Colour, ...] = (
    (196, 52, 60),
    (46, 90, 150),
    (52, 120, 92),
    (224, 168, 58),
    (92, 72, 120),
    (70, 70, 78),
    (226, 214, 196),
)
_DEPTH = -0.03


def _waves(line: Points, depth: float, length: float) -> Points:
    """Add waves of wavelength ``length`` and amplitude ``depth`` to ``line``, towards the head and away from it."""
    steps = np.diff(line, axis=0, prepend=line[:1])
    along = np.cumsum(np.sqrt((steps * steps).sum(1)))
    even = even_steps(max(8, int(along[-1] / length * 7))) * along[-1]
    line = np.stack((np.interp(even, along, line[:, 0]), np.interp(even, along, line[:, 1])), axis=1)
    out = line - (0, -0.08)
    out /= np.sqrt((out * out).sum(1, keepdims=True)) + 1e-9
    rippled: Points = line + out * (depth * np.sin(even * (2 * np.pi / length)))[:, None]
    return rippled


def _length(figure: Figure) -> float:
    """The y coordinate of the end of long hair: at the chin, or below the image."""
    return 0.62 if figure.person.hair_style > -0.4 else 0.27 + 0.05 * figure.person.parting


def _sheen(figure: Figure) -> list[Blob]:
    light = figure.hair_light
    lift = [0.7 * (light[channel] - figure.hair[channel]) for channel in range(3)]
    side = 0.07 if figure.image.light_side > 0 else -0.07
    return [
        (side, -0.315, 0.13, 0.045, lift[0], lift[1], lift[2]),
        (side + 0.2, -0.12, 0.05, 0.12, 0.5 * lift[0], 0.5 * lift[1], 0.5 * lift[2]),
        (side - 0.2, -0.12, 0.05, 0.12, 0.5 * lift[0], 0.5 * lift[1], 0.5 * lift[2]),
        (-0.27, 0.18, 0.03, 0.13, 0.6 * lift[0], 0.6 * lift[1], 0.6 * lift[2]),
        (0.27, 0.18, 0.03, 0.13, 0.6 * lift[0], 0.6 * lift[1], 0.6 * lift[2]),
    ]


def paint_back_hair(canvas: Canvas, figure: Figure) -> None:
    """Draw the hair that is visible behind neck and ears: long hair, or a bun."""
    if figure.has("Bald"):
        return
    if figure.short:
        if not figure.male and figure.person.hair_style > 0 and not figure.has("Wearing_Hat"):
            bun = loop([(-0.1, -0.37), (0, -0.46), (0.1, -0.37), (0, -0.3)])
            canvas.texture(bun, figure.hair_light, figure.hair_dark, _sheen(figure))
        return
    end = _length(figure)
    right = [
        (0, -0.38),
        (0.15, -0.345),
        (0.262, -0.2),
        (0.298, 0.0),
        (0.312, 0.2),
        (0.29, end - 0.02),
        (0.2, end),
        (0, end),
    ]
    outline = curve(mirrored(right))
    if figure.has("Wavy_Hair"):
        outline = _waves(outline, 0.02, 0.14)
    elif figure.has("Straight_Hair"):
        outline = outline * (0.95, 1.0)
    canvas.texture(outline, figure.hair, mix(figure.hair, figure.hair_dark, 0.85), _sheen(figure), _DEPTH)


def paint_front_hair(canvas: Canvas, figure: Figure) -> None:
    """Draw the hair on top of the head, the fringe, and the locks in front of the ears."""
    has = figure.has
    if has("Bald") or (has("Wearing_Hat") and figure.short):
        return
    outer, inner = _crown(figure)
    outline = np.concatenate((outer, inner[::-1]))
    # the shadow of the hair on the forehead
    canvas.line(shifted(inner, 0, 0.008), 0.014, figure.crease, 0.3)
    canvas.texture(outline, figure.hair, mix(figure.hair, figure.hair_dark, 0.35), _sheen(figure), _DEPTH / 3)
    _strands(canvas, figure, outer, inner)
    if has("Bangs"):
        _bangs(canvas, figure)


def _crown(figure: Figure) -> tuple[Points, Points]:
    """The outer edge of the hair and the hairline, both from the left ear over the top to the right ear."""
    has, person = figure.has, figure.person
    part = 0.075 * (1 if person.parting > 0 else -1)
    side = figure.cheek
    if has("Receding_Hairline"):
        line = [(0.0, -0.262), (0.055, -0.262), (0.122, -0.318), (0.176, -0.262), (side * 0.95, -0.13)]
    else:
        line = [(0.0, -0.208), (0.075, -0.205), (0.14, -0.186), (0.186, -0.13), (side * 0.955, -0.075)]
    hairline = np.array(mirrored(line))
    if not has("Receding_Hairline") and person.hair_style > -0.6:
        # a parting: the hairline lifts where the hair falls to both sides
        hairline[:, 1] -= 0.05 * np.exp(-(((hairline[:, 0] - part) / 0.05) ** 2))
        hairline[:, 1] += 0.02 * np.exp(-(((hairline[:, 0] + part) / 0.08) ** 2))
    if figure.short:
        ear = 0.0 if figure.male else 0.03
        outer = np.array(
            mirrored([(0, -0.392), (0.13, -0.366), (0.222, -0.262), (side + 0.024, -0.12), (side + 0.016, ear)])
        )
        if figure.male and person.hair_style > 0.1:  # brushed up to one side
            outer[:, 1] -= 0.03 * np.exp(-(((outer[:, 0] + part) / 0.1) ** 2))
        hairline = np.concatenate(([(-side + 0.012, ear)], hairline, [(side - 0.012, ear)]))
    else:
        end = _length(figure)
        locks = [(0.296, 0.05), (0.308, 0.25), (0.296, end)]
        outer = np.array(mirrored([(0, -0.398), (0.14, -0.372), (0.244, -0.25), (0.284, -0.1), *locks]))
        falls = [(side - 0.004, 0.06), (side + 0.008, 0.2), (side * 0.93, min(0.36, end - 0.02)), (side * 0.96, end)]
        hairline = np.concatenate(([(-x, y) for x, y in reversed(falls)], hairline, falls))
    outer, hairline = curve(outer), curve(hairline)
    if has("Wavy_Hair"):
        outer = _waves(outer, 0.021, 0.115 if figure.short else 0.15)
        if not figure.short:
            hairline = _waves(hairline, 0.009, 0.15)
    elif has("Straight_Hair"):
        outer = outer * (0.955, 0.985)
    return outer, hairline


def _strands(canvas: Canvas, figure: Figure, outer: Points, inner: Points) -> None:
    """Draw lines between hairline and outer edge: straight lines for straight hair, waves for wavy hair, else few."""
    wavy, straight = figure.has("Wavy_Hair"), figure.has("Straight_Hair")
    start, end = (_evenly(edge) for edge in (outer, inner))
    shares = (0.2, 0.4, 0.6, 0.8) if wavy or straight else (0.4, 0.72)
    for number, share in enumerate(shares):
        strand = start + share * (end - start)
        colour = figure.hair_light if number % 2 == 0 else figure.hair_dark
        opacity = 0.72 if straight or wavy else 0.3
        # no line across the crown, where it would look like a ribbon
        for part in (strand[1:19], strand[21:-1]):
            if wavy:
                part = _waves(part, 0.012, 0.13)
            canvas.line(part, 0.012 if wavy else 0.009, colour, opacity, _DEPTH / 3)


def _evenly(line: Points) -> Points:
    """Resample ``line`` to 40 points."""
    at, steps = even_steps(40), even_steps(len(line))
    return np.stack((np.interp(at, steps, line[:, 0]), np.interp(at, steps, line[:, 1])), axis=1)


def _bangs(canvas: Canvas, figure: Figure) -> None:
    low = -0.122  # above the eyebrows
    sweep = 0.016 if figure.person.parting > 0 else -0.016
    tips = np.linspace(-0.178, 0.178, 9)
    jag = np.stack((tips, low + sweep * tips / 0.178 + 0.014 * (np.arange(9) % 2) + 0.3 * tips**2), axis=1)
    if figure.has("Wavy_Hair") or not figure.has("Straight_Hair"):
        jag = curve(jag)
    top = curve([(0.206, -0.13), (0.17, -0.26), (0.0, -0.31), (-0.17, -0.26), (-0.206, -0.13)])
    canvas.line(shifted(jag, 0, 0.01), 0.016, figure.crease, 0.35)
    lift = [0.55 * (figure.hair_light[channel] - figure.hair[channel]) for channel in range(3)]
    sheen: Blob = (sweep * 3, -0.21, 0.15, 0.03, lift[0], lift[1], lift[2])
    canvas.texture(np.concatenate((jag, top)), figure.hair, mix(figure.hair, figure.hair_dark, 0.2), [sheen])
    for x in (-0.13, -0.075, -0.02, 0.04, 0.095, 0.14):
        lock = curve([(x * 0.55 + sweep, -0.29), (x * 0.9 + 0.4 * sweep, -0.2), (x, low - 0.01)])
        canvas.line(lock, 0.006, figure.hair_dark, 0.5)


def paint_hat(canvas: Canvas, figure: Figure) -> None:
    """Draw a beanie, a cap or a hat with a brim. It covers the hairline."""
    if not figure.has("Wearing_Hat"):
        return
    colour = pick(_HATS, figure.image.accessory_colour)
    dark, light = mix(colour, (16, 10, 24), 0.42), mix(colour, (255, 255, 255), 0.3)
    lift: Blob = (0.08 if figure.image.light_side > 0 else -0.08, -0.34, 0.11, 0.08, 44, 42, 40)
    wide = 0.262
    kind = figure.image.accessory
    if kind < -0.3:  # beanie with a turned-up edge
        dome = loop(mirrored([(0, -0.43), (0.15, -0.41), (0.248, -0.29), (wide, -0.16), (0, -0.17)])[:-1])
        canvas.texture(dome, colour, dark, [lift])
        edge = curve(mirrored([(0, -0.205), (0.16, -0.19), (wide + 0.004, -0.135)]))
        canvas.stroke(edge, 0.072, light)
        for x in np.linspace(-0.225, 0.225, 10):
            canvas.line(np.array([(x, -0.235 + 0.9 * x * x), (x, -0.17 + 0.9 * x * x)]), 0.007, dark, 0.4)
        canvas.disc(0.0, -0.44, 0.05, light)
    elif kind < 0.3:  # cap
        dome = loop(mirrored([(0, -0.42), (0.15, -0.395), (0.242, -0.28), (0.25, -0.13), (0, -0.17)])[:-1])
        canvas.texture(dome, colour, dark, [lift])
        canvas.line(curve([(0, -0.42), (0.012, -0.3), (0, -0.18)]), 0.007, dark, 0.7)
        peak = loop(mirrored([(0, -0.19), (0.15, -0.17), (0.245, -0.122), (0.17, -0.112), (0, -0.128)])[:-1])
        canvas.fill(shifted(peak, 0, 0.012), figure.crease, 0.4, 0.05)
        canvas.fill(peak, dark, depth=0.05)
    else:  # brimmed
        dome = loop(mirrored([(0, -0.42), (0.12, -0.445), (0.2, -0.38), (0.235, -0.17), (0, -0.17)])[:-1])
        canvas.texture(dome, colour, dark, [lift])
        canvas.line(curve(mirrored([(0, -0.205), (0.15, -0.2), (0.23, -0.185)])), 0.04, dark)
        brim = loop(mirrored([(0, -0.19), (0.25, -0.2), (0.405, -0.165), (0.25, -0.135), (0, -0.135)])[:-1])
        canvas.fill(shifted(brim, 0, 0.014), figure.crease, 0.4, 0.05)
        canvas.texture(brim, light, colour, [lift], 0.05)

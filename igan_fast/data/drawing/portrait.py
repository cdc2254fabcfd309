"""Draws a face from its parameters: the background first, then the parts from back to front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.drawing.canvas import Blob, Canvas, Colour, Pose, mix
from igan_fast.data.drawing.features import paint_brows, paint_eyes, paint_mouth, paint_nose
from igan_fast.data.drawing.figure import Figure
from igan_fast.data.drawing.hair import paint_back_hair, paint_front_hair, paint_hat
from igan_fast.data.drawing.head import paint_beard, paint_head, paint_lines, paint_neck
from igan_fast.data.drawing.outfit import paint_clothes, paint_earrings, paint_glasses, paint_necklace
from igan_fast.data.drawing.parameters import FaceParameters, ImageFactors
from igan_fast.errors import InputError

__all__ = ["draw_face"]

#: The average position of the middle between the eyes: a little higher than in CelebA's centre crop, to show the neck.
_EYES = (0.5, 0.475)
#: The top and bottom colour of each background, and the colour of its lights.
_SCENES: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((150, 196, 226), (226, 238, 240), (255, 255, 250)),  # sky
    ((94, 140, 110), (180, 204, 150), (236, 244, 190)),  # garden
    ((58, 62, 96), (150, 110, 130), (255, 190, 130)),  # dusk
    ((238, 222, 204), (214, 190, 170), (255, 250, 240)),  # plaster
    ((70, 96, 112), (40, 54, 70), (170, 210, 220)),  # studio
    ((244, 196, 176), (250, 226, 200), (255, 246, 224)),  # peach
    ((124, 88, 104), (70, 52, 70), (240, 170, 160)),  # plum
    ((190, 214, 204), (150, 180, 178), (246, 252, 244)),  # sage
)


def draw_face(parameters: FaceParameters, size: int) -> NDArray[np.uint8]:
    """Draw a face. Its geometry is the same at every size.

    Returns:
        (size, size, 3) uint8, RGB.

    Raises:
        InputError: ``size`` is below 16.
    """
    if size < 16:
        raise InputError(f"size: found {size}, expected at least 16 pixels")
    figure, image = Figure(parameters), parameters.image
    centre = (_EYES[0] + 0.016 * image.x, _EYES[1] + 0.012 * image.y)
    pose = Pose(centre, 1 + 0.035 * image.zoom, 0.1 * image.roll, 0.4 * image.yaw, 0.2 * image.pitch)
    canvas = Canvas(size, pose)
    _paint_scene(canvas, image)
    paint_back_hair(canvas, figure)
    paint_neck(canvas, figure)
    paint_clothes(canvas, figure)
    paint_necklace(canvas, figure)
    paint_head(canvas, figure)
    paint_beard(canvas, figure)
    paint_lines(canvas, figure)
    paint_nose(canvas, figure)
    paint_mouth(canvas, figure)
    paint_eyes(canvas, figure)
    paint_front_hair(canvas, figure)
    paint_brows(canvas, figure)
    paint_hat(canvas, figure)
    paint_earrings(canvas, figure)
    paint_glasses(canvas, figure)
    light = 1 + 0.07 * image.brightness
    tint = (light * (1 + 0.03 * image.warmth), light, light * (1 - 0.04 * image.warmth))
    return canvas.render(tint, 0.021 if parameters.has("Blurry") else 0.0)


def _paint_scene(canvas: Canvas, image: ImageFactors) -> None:
    place = (image.scene + 1) / 2 * len(_SCENES)
    top, bottom, lamp = _SCENES[min(len(_SCENES) - 1, int(place))]
    fade = mix((0, 0, 0), (26, 20, 30), image.scene_colour)
    top, bottom = mix(top, bottom, 0.2 * image.scene_y), mix(bottom, top, 0.3 * image.scene_x)
    glow = [0.75 * (lamp[channel] - bottom[channel]) for channel in range(3)]
    x, y = 0.5 + 0.5 * image.scene_x, 0.3 + 0.3 * image.scene_y
    blobs: list[Blob] = [
        (x, y, 0.3, 0.3, 0.6 * glow[0] + fade[0], 0.6 * glow[1] + fade[1], 0.6 * glow[2] + fade[2]),
        (1.05 - x, 0.75 - y, 0.12, 0.12, 0.8 * glow[0], 0.8 * glow[1], 0.8 * glow[2]),
        (0.5 - 0.45 * image.scene_colour, 0.12, 0.07, 0.07, glow[0], glow[1], glow[2]),
        (0.5, 1.0, 0.8, 0.25, -26, -26, -20),
    ]
    canvas.backdrop(top, bottom, blobs)

"""``sample`` against Pillow's resize and NumPy's own shifts and turns."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from igan_fast.faces import Similarity
from igan_fast.faces.resample import bounds, sample


def clouds(height: int, width: int) -> np.ndarray:
    """A picture with a little of everything, but no extremes, which Pillow cuts between its two passes."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(70, 180, (height // 8, width // 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale", [0.3, 0.8, 1.0, 1.4, 2.5, 3.9])
def test_without_a_turn_it_is_pillow_s_resize(scale: float) -> None:
    image, size = clouds(250, 310), 40
    left, top = 20.3, 15.8
    box = (left, top, left + scale * size, top + scale * size)
    expected = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    found = sample(image, Similarity(scale, complex(left, top)), size)
    inner = np.s_[4:-4, 4:-4]  # Pillow sees nothing beyond the box
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int))[inner].max() <= 1


def test_whole_shifts_and_quarter_turns_are_exact() -> None:
    image = clouds(64, 96)
    np.testing.assert_array_equal(sample(image, Similarity(1, complex(11, 7)), 40), image[7:47, 11:51])
    square = image[:64, :64]
    for turns, transform in ((1, Similarity(-1j, 64j)), (2, Similarity(-1, 64 + 64j)), (3, Similarity(1j, 64))):
        np.testing.assert_array_equal(sample(square, transform, 64), np.rot90(square, -turns))


@pytest.mark.parametrize("degrees", [0, 13, 45, -80])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.3, 5.0, 9.0])
def test_a_ramp_stays_a_ramp(scale: float, degrees: float) -> None:
    """The brightness at a place is the place: so the result tells where each pixel was taken from."""
    x = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (240, 240, 3))
    image = np.concatenate([x[..., :1], x.transpose(1, 0, 2)[..., :1], x[..., :1]], axis=2)
    size = 12
    turn = Similarity(scale * np.exp(1j * np.deg2rad(degrees)))
    transform = Similarity(1, 120 + 120j).after(turn).after(Similarity(1, -complex(size / 2, size / 2)))
    centres = np.arange(size) + 0.5
    places = transform(np.stack(np.meshgrid(centres, centres), axis=-1))
    found = sample(image, transform, size)[..., :2]
    # A pixel's value is its index, half a pixel less than its centre. Rounding to 8 bits is another half, and from a
    # scale of 4 on so is the rounding of the blocks' means.
    assert np.abs(found - (places - 0.5)).max() < (0.75 if scale < 4 else 1.1)


@pytest.mark.parametrize("degrees", [0, 30])
@pytest.mark.parametrize("scale", [3.0, 4.0, 11.0])
def test_fine_stripes_become_grey(scale: float, degrees: float) -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    image[:, ::2] = 255
    turn = Similarity(scale * np.exp(1j * np.deg2rad(degrees)), 140 + 100j)
    found = sample(image, turn, 10).astype(int)
    assert np.abs(found - 127.5).max() < 12


def test_beyond_the_edges_the_outermost_pixels_go_on() -> None:
    image = np.full((20, 30, 3), 90, np.uint8)
    image[:, 0] = [255, 0, 0]
    found = sample(image, Similarity(1, complex(-15, 4)), 12)
    assert (found == [255, 0, 0]).all()
    far = sample(image, Similarity(9, complex(-500, -500)), 12)
    assert (far == [255, 0, 0]).all()


def test_a_constant_stays_constant() -> None:
    for value in (0, 77, 255):
        image = np.full((50, 50, 3), value, np.uint8)
        assert (sample(image, Similarity(1.3 + 0.9j, 10 + 5j), 16) == value).all()


def test_bounds() -> None:
    assert bounds(Similarity(2, complex(3, 5)), 10) == (3, 5, 23, 25)
    assert bounds(Similarity(1j, 10), 4, margin=1) == (5, -1, 11, 5)

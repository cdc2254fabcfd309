from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from igan_fast.baselines import augmentation
from igan_fast.baselines.augmentation import augmented
from igan_fast.data import to_float
from igan_fast.metrics import box_blur

Only = Callable[..., None]


def pictures(count: int, size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(size).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Only:
    """Switches off every change but those that are set."""

    def setter(**changes: object) -> None:
        nothing = {"SHIFT": 0, "CONTRAST": (1.0, 1.0), "BRIGHTNESS": 0.0, "BLURRED": 0.0, "NOISE": 0.0}
        for name, value in (nothing | changes).items():
            monkeypatch.setattr(augmentation, name, value)

    return setter


@pytest.mark.parametrize(("size", "most"), [(9, 1), (64, 2)])
def test_images_are_shifted_each_by_itself_and_their_edges_repeated(only: Only, size: int, most: int) -> None:
    only(SHIFT=1 / 32)
    images = pictures(60, size)
    torch.manual_seed(0)
    found = augmented(images)
    padded = np.pad(images.numpy(), ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    seen = set()
    for image, wide in zip(found, padded, strict=True):
        places = [
            (top, left)
            for top, left in np.ndindex(2 * most + 1, 2 * most + 1)
            if torch.equal(image, to_float(torch.from_numpy(wide[None, top : top + size, left : left + size]))[0])
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 0.7 * (2 * most + 1) ** 2


def test_contrast_and_brightness_are_those_of_a_whole_image(only: Only) -> None:
    only(SHIFT=0, CONTRAST=(0.8, 0.9), BRIGHTNESS=0.05)
    images = pictures(20, 32)
    images[:, 10:20, 10:20] = images[:, 10:11, 10:11]  # so that neighbours are alike, whatever the shift
    factors = []
    for image, before in zip(augmented(images), to_float(images), strict=True):
        middle, corner = image[:, 15, 15], before[:, 15, 15]
        assert torch.allclose(image[:, 13, 13], middle)
        factors.append((middle[0] - middle[1]) / (corner[0] - corner[1]))
        assert (middle - factors[-1] * corner).abs().max() <= 0.05 + 1e-5
    assert 0.8 <= min(factors) < max(factors) <= 0.9


def test_what_is_blurred_and_how_much_noise_there_is(only: Only) -> None:
    images = pictures(4, 16)
    images[:] = images[:, :1, :1]  # constant: a shift changes nothing
    images[:, 5:11, 5:11] = 255 - images[:, :1, :1]
    only(BLURRED=1.0)
    torch.manual_seed(0)
    blurred = augmented(images)
    only()
    torch.manual_seed(0)
    torch.testing.assert_close(blurred, box_blur(augmented(images)))
    only(NOISE=0.5)
    torch.manual_seed(0)
    noisy = augmented(images)
    only()
    torch.manual_seed(0)
    assert (noisy - augmented(images)).std().item() == pytest.approx(0.5, rel=0.05)


def test_format_and_random_state() -> None:
    for count in (0, 1, 5):
        images = pictures(count, 20)
        torch.manual_seed(1)
        first = augmented(images)
        assert first.shape == (count, 3, 20, 20)
        assert first.dtype == torch.float32
        assert count == 0 or first.is_contiguous(memory_format=torch.channels_last)
        assert count == 0 or not torch.equal(first, augmented(images))
        torch.manual_seed(1)
        assert torch.equal(first, augmented(images))
    assert torch.equal(images, pictures(5, 20))  # the photos themselves are left alone
    assert (first - to_float(images)).abs().mean() < 1

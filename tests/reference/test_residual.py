"""Edits that keep the photo, against the equation computed pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import error

from igan_fast.reference import Companions
from igan_fast.reference.editing import edited_labels
from igan_fast.reference.models import IterativeGAN
from igan_fast.reference.residual import edited_photos, on_photos


def by_hand(x: np.ndarray, rebuilt: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """The equation for one image (3, S, S), with plain loops."""
    _, height, width = x.shape
    reach = 7 * width // 128
    change = edited - rebuilt
    result = np.empty_like(x)
    for i in range(height):
        for j in range(width):
            total = 0.0
            for a in range(i - reach, i + reach + 1):
                for b in range(j - reach, j + reach + 1):
                    row, column = min(max(a, 0), height - 1), min(max(b, 0), width - 1)
                    total += np.abs(change[:, row, column]).mean()
            mask = min(1.0, total / (2 * reach + 1) ** 2 / 0.15)
            changed = x[:, i, j] + mask * (change[:, i, j] + (rebuilt[:, i, j] - x[:, i, j]) / 2)
            result[:, i, j] = np.clip(changed, -1, 1)
    return result


@pytest.mark.parametrize("side", [32, 48, 64])
def test_equals_the_equation(side: int) -> None:
    x, rebuilt = torch.rand(2, 2, 3, side, side, dtype=torch.float64) * 2 - 1
    edited = rebuilt + torch.randn(2, 3, side, side, dtype=torch.float64) * torch.linspace(0, 0.5, side)
    expected = torch.stack([torch.from_numpy(by_hand(*(t[k].numpy() for t in (x, rebuilt, edited)))) for k in range(2)])
    assert error(on_photos(x, rebuilt, edited), expected) < 1e-12


def test_where_nothing_changes_the_photo_stays() -> None:
    x, rebuilt = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    edited = rebuilt.clone()
    edited[..., 20:30, 20:30] = -rebuilt[..., 20:30, 20:30]
    result = on_photos(x, rebuilt, edited)
    far = torch.ones(64, 64, dtype=torch.bool)
    far[17:33, 17:33] = False  # three pixels around
    assert torch.equal(result[..., far], x[..., far])
    assert (result - x)[..., 20:30, 20:30].abs().mean() > 0.1
    assert torch.equal(on_photos(x, rebuilt, rebuilt), x)


def test_a_change_everywhere_keeps_half_of_the_details() -> None:
    x, rebuilt = torch.rand(2, 1, 3, 32, 32) - 0.5
    assert error(on_photos(x, rebuilt, rebuilt + 0.2), (x + rebuilt) / 2 + 0.2) < 1e-6


@pytest.mark.parametrize("strength", [1.0, 2.0])
@pytest.mark.parametrize("along", [False, True])
def test_the_model_s_two_rebuilds_are_taken(strength: float, along: bool) -> None:
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, attributes=4, width=4).eval()
    companions = Companions.of_labels([[0, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]) if along else None
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        z, logits = model.encode(x)
        c = edited_labels(logits.sigmoid(), {1: "flip"}, strength=strength, companions=companions)
        expected = on_photos(x, model.generate(z, logits.sigmoid()), model.generate(z, c))
        found = edited_photos(model, x, {1: "flip"}, strength=strength, companions=companions)
        assert error(found, expected) < 1e-6
        assert torch.equal(edited_photos(model, x, {}), x)

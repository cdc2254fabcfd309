import math
from typing import Any

import numpy as np
import pytest
import torch
from painted_attributes import ChannelJudge, Painter, colours

from igan_fast.app import observation as observation_module
from igan_fast.app.observation import Observation, flipped_in_turn, generation_hamming_loss
from igan_fast.baselines.cnn import AttributeCNN, predict
from igan_fast.data import to_float
from igan_fast.errors import InputError
from igan_fast.metrics import grain
from igan_fast.reference.editing import Companions, edited_labels


def test_batches_are_observed_as_one_set() -> None:
    torch.manual_seed(0)
    judges = [AttributeCNN(32, 3).eval(), AttributeCNN(32, 3).eval()]
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    seen = Observation(judges)
    for part in (images[:1], images[1:4], images[4:]):
        seen.add(torch.from_numpy(part))
    assert seen.count == 5
    assert seen.probabilities.shape == (2, 5, 3)
    for found, judge in zip(seen.probabilities, judges, strict=True):
        np.testing.assert_allclose(found, predict(judge, images), rtol=1e-4)
    x = to_float(torch.from_numpy(images))
    with torch.no_grad():
        np.testing.assert_allclose(seen.features, judges[0].pooled(x).numpy(), atol=1e-5)
    assert seen.grain == pytest.approx(grain(x).mean().item(), rel=1e-5)


def test_without_judges_only_the_grain_is_measured() -> None:
    seen = Observation([])
    seen.add(torch.from_numpy(colours((0, 0, 0), (9, 9, 9))))
    assert (seen.count, seen.grain) == (2, 0)


def test_chosen_images_are_kept() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    seen = Observation([], np.array([True, False, False, True, True]))
    for part in (images[:2], images[2:3], images[3:]):
        seen.add(torch.from_numpy(part))
    assert seen.count == 6
    np.testing.assert_array_equal(seen.images, images[[0, 3, 4]])
    nothing = Observation([])
    assert nothing.images.shape == (0, 1, 1, 3)
    nothing.add(torch.from_numpy(images))
    assert nothing.images.shape == (0, 32, 32, 3)


def test_a_judge_whose_results_are_no_numbers_is_refused_and_named() -> None:
    broken = ChannelJudge()
    with torch.no_grad():
        broken.labels.weight.fill_(math.nan)
    with pytest.raises(InputError, match="judges: the results of judge 2 are NaN or infinite"):
        Observation([ChannelJudge(), broken]).add(torch.from_numpy(colours((0, 0, 0))))


@pytest.mark.parametrize("first", [0, 7])
def test_in_each_photo_the_next_attribute_is_flipped(first: int) -> None:
    c = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    companions = Companions.of_labels(torch.tensor([[0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]]))
    found = flipped_in_turn(c, first, strength=1.5, companions=companions)
    for row in range(7):
        changes: Any = {(first + row) % 3: "flip"}
        expected = edited_labels(c[row : row + 1], changes, strength=1.5, companions=companions)
        torch.testing.assert_close(found[row : row + 1], expected)


def test_generated_faces_are_judged_against_the_labels_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([[0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 1]], np.uint8)
    ignoring: Any = Painter(2)
    perfect: Any = Painter()
    for batch in (2, 100):
        monkeypatch.setattr(observation_module, "BATCH", batch)
        # The last attribute is painted as present and is asked for in 3 of 5.
        assert generation_hamming_loss(ignoring, ChannelJudge(), labels) == pytest.approx(2 / 15)
        assert generation_hamming_loss(perfect, ChannelJudge(), labels) == 0

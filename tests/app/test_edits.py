import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from painted_attributes import ChannelJudge, Copier, Painter, colours

from igan_fast.app import edits as edits_module
from igan_fast.app.edits import EditScores, companion_pairs, edit_scores
from igan_fast.baselines.cnn import AttributeCNN, predict
from igan_fast.data import to_float, to_uint8
from igan_fast.reference import IterativeGAN
from igan_fast.reference.editing import Companions
from igan_fast.reference.residual import edited_photos

IMAGES = colours((0, 0, 0), (255, 0, 0), (255, 255, 255), (0, 255, 255), (0, 0, 0))


def scores(model: Any, **options: Any) -> EditScores:
    (found,) = edit_scores(model, [ChannelJudge()], IMAGES, **options)
    return found


@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_a_model_that_paints_its_labels_is_always_confirmed(strength: float) -> None:
    found = scores(Painter(), strength=strength)
    np.testing.assert_allclose(found.change, 1, atol=1e-6)
    np.testing.assert_array_equal(found.requested, [[1, 1, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1]])
    for threshold in (0.5, np.array([0.01, 0.5, 0.99])):
        np.testing.assert_array_equal(found.confirmed(threshold), np.ones((5, 3)))
        np.testing.assert_array_equal(found.unedited_confirmed(threshold), np.zeros((5, 3)))
    np.testing.assert_allclose(found.change_of_others, 0, atol=1e-6)
    np.testing.assert_allclose(found.change_of_unrelated, 0, atol=1e-6)


def test_an_attribute_that_does_not_reach_the_image() -> None:
    found = scores(Painter(2))
    np.testing.assert_allclose(found.change.mean(axis=0), [1, 1, 0], atol=1e-6)
    # The last channel is always painted bright: right where the flip asks for "present", in the three dark ones.
    np.testing.assert_allclose(found.confirmed().mean(axis=0), [1, 1, 3 / 5])
    np.testing.assert_allclose(found.unedited_confirmed().mean(axis=0), [0, 0, 3 / 5])


def test_a_model_that_ignores_labels_is_confirmed_as_without_an_edit() -> None:
    found = scores(Copier())
    for threshold in (0.5, np.array([0.0, 1.0, 0.5])):
        np.testing.assert_array_equal(found.confirmed(threshold), found.unedited_confirmed(threshold))
    assert found.confirmed().sum() == 0
    # Everything is above the threshold 0 or below 1, as is right for those that are asked for, or not.
    np.testing.assert_array_equal(found.confirmed(np.array([0.0, 1.0, 0.5]))[1:4, 0], [0, 0, 0])
    assert not found.change.any()
    assert not found.change_of_others.any()


def test_without_a_threshold_nothing_is_confirmed_or_not() -> None:
    found = scores(Painter())
    confirmed = found.confirmed(np.array([0.5, math.nan, 0.5]))
    assert np.isnan(confirmed[:, 1]).all()
    np.testing.assert_array_equal(confirmed[:, [0, 2]], 1)


def test_companions_move_and_are_not_counted_as_unrelated() -> None:
    # The first two attributes are always equal, the third is independent of them.
    companions = Companions.of_labels(torch.tensor([[0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]]))
    pairs = companion_pairs(companions, 3)
    np.testing.assert_array_equal(pairs, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    model: Any = Painter()
    images = colours((0, 0, 0), (255, 255, 255))
    (along,) = edit_scores(model, [ChannelJudge()], images, companions=companions)
    np.testing.assert_allclose(along.change_of_others, [[0.5, 0.5, 0]] * 2, atol=1e-5)
    np.testing.assert_allclose(along.change_of_unrelated, 0, atol=1e-5)
    (alone,) = edit_scores(model, [ChannelJudge()], images, related=pairs)
    np.testing.assert_allclose(alone.change_of_others, 0, atol=1e-5)


def test_where_every_other_attribute_is_a_companion_none_is_unrelated() -> None:
    found = scores(Painter(), related=~np.eye(3, dtype=np.bool_))
    assert np.isnan(found.change_of_unrelated).all()
    assert not np.isnan(found.change_of_others).any()


@pytest.mark.parametrize("strength", [1.0, 1.5])
@pytest.mark.parametrize("with_companions", [False, True])
def test_edit_scores_are_those_of_transform(
    monkeypatch: pytest.MonkeyPatch, model: IterativeGAN, strength: float, with_companions: bool
) -> None:
    torch.manual_seed(1)
    judges = [AttributeCNN(32, 3).eval(), AttributeCNN(32, 3, width=5).eval()]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(0, 2, (9, 3)))
    companions = Companions.of_labels(labels, least=0.2) if with_companions else None
    options: Any = {"strength": strength, "companions": companions}
    model.eval()
    x = to_float(torch.from_numpy(images))
    expected: list[EditScores] = []
    with torch.no_grad():
        requested = (model.encode(x).label_logits < 0).numpy()
        for judge in judges:
            columns: dict[str, list[Any]] = {field.name: [] for field in dataclasses.fields(EditScores)}
            unedited = predict(judge, to_uint8(model.rebuild(x)))
            for index in range(3):
                changes: list[Any] = [0, 1, "flip"]
                absent, present, flipped = (
                    predict(judge, to_uint8(model.transform(x, {index: change}, **options))) for change in changes
                )
                others = [other for other in range(3) if other != index]
                moving = companions.weights([index])[0].numpy() if companions else np.zeros(3)
                unrelated = [other for other in others if moving[other] == 0]
                columns["requested"].append(requested[:, index])
                columns["present"].append(present[:, index])
                columns["absent"].append(absent[:, index])
                columns["unedited"].append(unedited[:, index])
                columns["change_of_others"].append(np.abs(flipped - unedited)[:, others].mean(axis=1))
                away = np.abs(flipped - unedited)[:, unrelated]
                columns["change_of_unrelated"].append(away.mean(axis=1) if unrelated else np.full(5, np.nan))
            expected.append(EditScores(**{name: np.stack(found, axis=1) for name, found in columns.items()}))
    for batch in (2, 100):
        monkeypatch.setattr(edits_module, "BATCH", batch)
        found = edit_scores(model.train(), judges, images, **options)
        assert model.training
        assert len(found) == 2
        for ours, theirs in zip(found, expected, strict=True):
            for field in dataclasses.fields(EditScores):
                np.testing.assert_allclose(getattr(ours, field.name), getattr(theirs, field.name), atol=1e-4)
    assert not np.allclose(expected[0].present, expected[1].present, atol=1e-3)


def test_edits_that_keep_the_photo_are_judged(model: IterativeGAN) -> None:
    judge, images = AttributeCNN(32, 3).eval(), IMAGES[:4]
    (found,) = edit_scores(model, [judge], images, keep="photo", strength=2.0)
    x = to_float(torch.from_numpy(images))
    with torch.no_grad():
        unedited = predict(judge, images)
        for index in range(3):
            present = predict(judge, to_uint8(edited_photos(model.eval(), x, {index: 1.0}, strength=2.0)).numpy())
            np.testing.assert_allclose(found.present[:, index], present[:, index], atol=1e-4)
            np.testing.assert_allclose(found.unedited[:, index], unedited[:, index], atol=1e-4)


def test_a_strength_out_of_range_is_refused(model: IterativeGAN) -> None:
    with pytest.raises(ValueError, match="strength: found -1"):
        edit_scores(model, [AttributeCNN(32, 3).eval()], IMAGES, strength=-1)

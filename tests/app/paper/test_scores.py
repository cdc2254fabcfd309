"""Scores against methods made by hand, whose edits are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from igan_fast.app.paper.comparison import PhotoFeatures
from igan_fast.app.paper.identity import identity_range, identity_sentence
from igan_fast.app.paper.images import flipped
from igan_fast.app.paper.methods import NoEdit
from igan_fast.app.paper.numbers import Choice, Score, choose, frechet_score
from igan_fast.app.paper.score_tables import edit_tables, face_table
from igan_fast.app.paper.scores import method_edits, method_faces
from igan_fast.baselines.cnn import predict
from igan_fast.data import to_float
from igan_fast.metrics import FeatureNetwork, IdentityScale, bootstrap_interval, frechet_distance
from igan_fast.metrics.kid import kid

NAMES = ("red", "green", "blue")


class ByHand(NoEdit):
    """Edits colours; ``kind`` says how."""

    name = "by hand"

    def __init__(self, kind: str, editable: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__(3)
        self.kind, self.editable = kind, editable

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        result = images.clone()
        for index, value in changes.items():
            if self.kind == "oracle":
                result[:, index] = 2 * value - 1
            elif self.kind == "bright":  # whatever is asked for
                result[:, index] = 1
            elif self.kind == "all":  # changes the other attributes too
                result[:] = 2 * value - 1
        return result


def of_photos(photos: np.ndarray) -> np.ndarray:
    """Embeddings: the mean colour, in which black and white are √3 apart."""
    return photos.mean(axis=(1, 2)) / 255


def scores(coloured, kind: str, **options):
    return method_edits(ByHand(kind), coloured.photos, coloured.labels, [0, 1, 2], NAMES, coloured.judges, **options)


def test_an_edit_that_changes_nothing_confirms_only_what_the_photos_do(coloured, drawn) -> None:
    found = scores(coloured, "nothing")
    for judge in found.judges:
        assert judge.mean.confirmed == judge.mean.unedited_confirmed == Score(0.0, (0.0, 0.0))
        assert judge.mean.confirmed_balanced == judge.mean.unedited_confirmed_balanced
        assert judge.mean.change.value == judge.mean.change_of_others.value == 0
    assert found.frechet.value == pytest.approx(0, abs=1e-9)
    assert found.identity is None
    # Judges that know nothing are wrong about many photos, and confirm just these.
    names = ("a", "b", "c", "d", "e")
    found = method_edits(NoEdit(5), drawn.photos, drawn.labels, [1, 4], names, drawn.judges)
    for judge, known in zip(found.judges, drawn.judges, strict=True):
        answers = predict(known.network, drawn.photos)
        for threshold, ours, theirs in (
            (0.5, "confirmed", "unedited_confirmed"),
            (known.thresholds, "confirmed_balanced", "unedited_confirmed_balanced"),
        ):
            wrong = ((answers > threshold) != drawn.labels)[:, [1, 4]]
            score = getattr(judge.mean, ours)
            assert score == getattr(judge.mean, theirs)
            assert 0 < score.value == pytest.approx(wrong.mean())
            assert score.interval == bootstrap_interval(wrong.mean(axis=1))
            assert getattr(judge.attributes["b"], ours).value == pytest.approx(wrong[:, 0].mean())


def test_an_edit_that_swaps_in_the_attribute_is_confirmed(coloured) -> None:
    found = scores(coloured, "oracle", identities=IdentityScale(of_photos, coloured.photos, coloured.photos))
    assert found.attributes == NAMES
    assert found.photos == 5
    for judge in found.judges:
        for each in (judge.mean, *judge.attributes.values()):
            assert each.confirmed.value == each.confirmed_balanced.value == 1
            assert each.unedited_confirmed.value == 0
            assert each.change.value == pytest.approx(1, abs=1e-5)
            assert each.change_of_others.value == pytest.approx(0, abs=1e-5)
    # One channel of three is wrong: the distance is 1 for each flip.
    assert found.identity is not None
    assert found.identity.value == pytest.approx(1, abs=1e-6)


def test_identity_is_measured_once_for_equal_images_and_only_on_the_photos_of_the_scale(coloured) -> None:
    calls: list[int] = []

    def counted(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return of_photos(images)

    scale = IdentityScale(counted, coloured.photos[:3], coloured.photos[:3])
    calls.clear()
    assert scores(coloured, "nothing", identities=scale).identity == Score(0.0, (0.0, 0.0))
    assert calls == [3]
    found = scores(coloured, "bright", identities=scale)
    assert calls == [3] * 4
    # The first three photos are black, red and white; painting a bright channel moves those that lack it by 1.
    assert found.identity.value == pytest.approx(np.mean([1, 2 / 3, 0]))


def test_an_edit_that_always_paints_is_confirmed_where_the_attribute_was_absent(coloured) -> None:
    found = scores(coloured, "bright")
    absent = 1 - coloured.labels.mean(axis=0)
    for place, name in enumerate(NAMES):
        assert found.judges[0].attributes[name].confirmed.value == pytest.approx(absent[place])
    assert found.judges[1].mean.confirmed.value == pytest.approx(absent.mean())
    assert found.judges[0].mean.change.value == pytest.approx(0, abs=1e-6)


def test_other_attributes_are_compared_with_the_photo(coloured) -> None:
    found = scores(coloured, "all")
    # By hand: a flip to v sets both others to v; the share of the two that differ from v in the photo.
    labels = coloured.labels.astype(int)
    for index, name in enumerate(NAMES):
        others = np.delete(labels, index, axis=1)
        expected = (others != 1 - labels[:, [index]]).mean()
        assert found.judges[0].attributes[name].change_of_others.value == pytest.approx(expected, abs=1e-5)


def test_attributes_that_a_method_cannot_change_are_left_out(coloured) -> None:
    method = ByHand("oracle", editable=(2,))
    found = method_edits(method, coloured.photos, coloured.labels, [0, 2], NAMES, coloured.judges)
    assert found.attributes == ("blue",)
    assert list(found.judges[0].attributes) == ["blue"]
    assert found.judges[0].mean == found.judges[0].attributes["blue"]


def test_a_judge_without_a_threshold_has_no_balanced_score(coloured) -> None:
    judge = coloured.judges[0]._replace(thresholds=np.array([np.nan, 0.5, np.nan]))
    found = method_edits(ByHand("oracle"), coloured.photos, coloured.labels, [0, 1], NAMES, [judge])
    assert found.judges[0].attributes["red"].confirmed_balanced == Score(None)
    assert found.judges[0].mean.confirmed_balanced.value == 1
    alone = method_edits(ByHand("oracle"), coloured.photos, coloured.labels, [0], NAMES, [judge])
    assert alone.judges[0].mean.confirmed_balanced == Score(None)
    assert edit_tables([alone])[0].rows[0][2] == "–"


def test_faces_are_scored_against_their_labels(coloured) -> None:
    right = method_faces("right", coloured.photos, coloured.photos, coloured.labels, coloured.judges)
    assert [judge.hamming_loss.value for judge in right.judges] == [0, 0]
    assert right.frechet.value == pytest.approx(0, abs=1e-9)
    inverted = method_faces("inverted", 255 - coloured.photos, coloured.photos, coloured.labels, coloured.judges)
    assert [judge.hamming_loss_balanced.value for judge in inverted.judges] == [1, 1]
    # One answer of three is wrong in each of two of the five faces.
    faces = coloured.photos.copy()
    faces[:2, :, :, 2] = 255
    found = method_faces("two", faces, coloured.photos, coloured.labels, coloured.judges, ours=True)
    assert found.judges[0].hamming_loss.value == pytest.approx(2 / 15)
    assert found.judges[0].hamming_loss.interval == bootstrap_interval(np.array([1, 1, 0, 0, 0]) / 3)
    features = [to_float(torch.from_numpy(images)).mean(dim=(2, 3)).numpy() for images in (faces, coloured.photos)]
    assert found.frechet.value == pytest.approx(frechet_distance(*features), rel=1e-5)
    assert face_table([right, found]).rows[1][0] == "▶ two (ours)"


def mean_colours() -> FeatureNetwork:
    return FeatureNetwork("mean colours", lambda images: images.float().mean(dim=(1, 2)) / 255, torch.device("cpu"))


def test_the_kernel_distance_of_edits_and_faces(coloured) -> None:
    """It is that of ``igan_fast.metrics.kid``, which has tests of its own, of the edits of all attributes together."""
    features = PhotoFeatures.of(mean_colours(), coloured.photos)
    seen = mean_colours().features(coloured.photos)
    inverted = 255 - coloured.photos
    found = method_faces("x", inverted, coloured.photos, coloured.labels, coloured.judges, features=features)
    expected = kid(mean_colours().features(inverted), seen)
    assert (found.kernel.value, *found.kernel.interval) == pytest.approx(expected[:3])
    method = ByHand("oracle")
    scores = method_edits(method, coloured.photos, coloured.labels, [0, 1], NAMES, coloured.judges, features=features)
    flips = np.stack([flipped(method, coloured.photos, coloured.labels, [index]) for index in (0, 1)], axis=1)
    expected = kid(mean_colours().features(flips.reshape(-1, *coloured.photos.shape[1:])), seen)
    assert scores.kernel.value == pytest.approx(expected.value)
    assert edit_tables([scores])[-1].rows[0][3] == scores.kernel.text(".4f")
    assert face_table([found]).rows[0][-1] == found.kernel.text(".4f")


def test_without_a_network_or_with_one_image_there_is_no_kernel_distance(coloured) -> None:
    assert PhotoFeatures.of(None, coloured.photos) is None
    alone = PhotoFeatures.of(mean_colours(), coloured.photos[:1])
    assert alone.distance(coloured.photos).value is None
    none = method_faces("x", coloured.photos, coloured.photos, coloured.labels, coloured.judges)
    assert none.kernel is None
    assert face_table([none]).rows[0][-1] == "–"


def test_at_most_600_images_are_compared() -> None:
    looked_at = []

    def compute(images: torch.Tensor) -> torch.Tensor:
        looked_at.append(len(images))
        return images.float().mean(dim=(1, 2))

    network = FeatureNetwork("x", compute, torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (700, 8, 8, 3), np.uint8)
    PhotoFeatures.of(network, images).distance(images)
    assert sum(looked_at) == 1200


def test_identities_lie_between_floor_and_ceiling(coloured) -> None:
    originals = np.repeat(np.repeat(coloured.photos, 2, axis=1), 2, axis=2)
    originals[:, :, :, 0] = 255 - originals[:, :, :, 0]  # the size costs 1
    two = IdentityScale(of_photos, coloured.photos[[0, 2]], originals[[0, 2]])
    found = identity_range(two)
    assert found.floor.value == pytest.approx(1)
    # Black is √2 from white's original (0, 1, 1), and white from black's (1, 0, 0).
    assert found.ceiling.value == pytest.approx(np.sqrt(2))
    assert found.photos == 2
    assert "1.00 (1.00–1.00), that of the photo itself at this size, and 1.41" in identity_sentence(found)
    same = identity_range(IdentityScale(of_photos, coloured.photos, coloured.photos, identities=np.full(5, 3)))
    assert same.ceiling == Score(None)
    assert identity_range(None) is None
    assert "no embedder" in identity_sentence(None)


def test_the_interval_of_a_frechet_distance_is_the_jackknife_s() -> None:
    rng = np.random.default_rng(0)
    photos, images = rng.normal(size=(60, 4)), rng.normal(0.5, 1, (60, 2, 4))
    found = frechet_score(images, photos)
    both = [images[:, 0], images[:, 1]]
    assert found.value == pytest.approx(np.mean([frechet_distance(part, photos) for part in both]))
    left = []
    for k in range(20):
        gone = [k, k + 20, k + 40]
        rest = np.delete(photos, gone, axis=0)
        left.append(np.mean([frechet_distance(np.delete(part, gone, axis=0), rest) for part in both]))
    error = np.std(left) * np.sqrt(19)
    assert found.interval == pytest.approx((found.value - 2.093 * error, found.value + 2.093 * error))
    assert frechet_score(images[:39], photos[:39]).interval is None
    assert frechet_score(images[:1, :1], photos[:1]) == Score(None)


def test_the_interval_of_a_frechet_distance_holds_the_value_of_new_samples() -> None:
    def sample(seed: int) -> Score:
        rng = np.random.default_rng(seed)
        return frechet_score(rng.normal(0.6, 1.2, (200, 1, 3)), rng.normal(size=(200, 3)))

    found = [sample(seed) for seed in range(60)]
    centre = np.mean([each.value for each in found])
    inside = [each.interval[0] <= centre <= each.interval[1] for each in found]
    assert 0.85 <= np.mean(inside) <= 1


def test_a_score_as_text() -> None:
    assert Score.of(np.array([0.25, np.nan, 0.75])).value == 0.5
    assert Score.of(np.array([np.nan])) == Score(None) == Score.of(np.empty(0))
    assert Score.of(np.array([0.5])) == Score(0.5)
    assert Score(None).text() == "–"
    assert Score(0.5).text(".0f", percent=True) == "50 %"
    assert Score(0.295, (0.29, 0.3)).text(".0f", percent=True) == "30 % (29–30)"
    assert Score(-0.0001, (-0.2, 0.1)).text("+.2f") == "+0.00 (−0.20 to 0.10)"
    assert Score(0.25, (0.1, 0.4)).text("+.1f") == "+0.2 (0.1–0.4)"


def test_attributes_that_the_data_has_are_taken_else_its_first() -> None:
    wanted = ("Male", "Eyeglasses", "Bangs")
    assert choose(("Bangs", "x", "Male"), wanted) == Choice(("Male", "Bangs"), (2, 0), ("Eyeglasses",))
    assert choose(("x", "y", "z", "w"), wanted) == Choice(("x", "y", "z"), (0, 1, 2), wanted)
    assert choose(("x",), wanted).names == ("x",)
    assert choose(("x", "Male"), wanted).sentence == "Attributes: Male. The data has no Eyeglasses, Bangs."
    assert choose(wanted, wanted).sentence == "Attributes: Male, Eyeglasses, Bangs."

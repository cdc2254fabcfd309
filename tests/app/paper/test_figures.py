"""The figures: their pictures and numbers, against hand-counted ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from igan_fast.app.paper.ablation import ablation
from igan_fast.app.paper.editing import several_attributes, single_attributes, translations
from igan_fast.app.paper.faces import compared_faces, faces_from_noise
from igan_fast.app.paper.images import NotFinite, flipped, generated, rebuilt
from igan_fast.app.paper.methods import NoEdit, Ours
from igan_fast.app.paper.scores import method_faces
from igan_fast.metrics import IdentityScale, bootstrap_interval

NAMES = ("red", "green", "blue")
DRAWN = ("Smiling", "Bangs", "Male", "Eyeglasses", "Bald")


def cells(picture: Image.Image, rows: int, columns: int, *, top: int = 0, captions: bool) -> np.ndarray:
    """The images in a grid of 32² images, which are drawn at twice the size: (rows, columns, 32, 32, 3)."""
    array = np.asarray(picture)
    left = array.shape[1] - (columns * 66 - 2)
    height = (len(array) - top + 2) // rows
    assert (height > 66) == captions
    assert len(array) == top + rows * height - 2
    starts = [[(top + row * height, left + column * 66) for column in range(columns)] for row in range(rows)]
    return np.array([[array[y : y + 64 : 2, x : x + 64 : 2] for y, x in row] for row in starts])


class Painter(Ours):
    """Ours as if it were perfect: it paints the channels that are asked for."""

    def __init__(self, *ignored: int) -> None:
        self.name, self.ours, self.editable, self.device = "painter", True, (0, 1, 2), torch.device("cpu")
        self.ignored = list(ignored)

    device = torch.device("cpu")

    def rebuild(self, images: Tensor) -> Tensor:
        return images

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        result = images.clone()
        for index, value in changes.items():
            if index not in self.ignored:
                result[:, index] = 2 * value - 1
        return result

    def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, 2, generator=generator)

    def changed_labels(self, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        result = labels.clone()
        for index, value in changes.items():
            result[:, index] = value
        return result

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        c = c.clone()
        c[:, self.ignored] = 0
        return (2 * c - 1)[:, :, None, None].expand(-1, -1, 32, 32)


class Broken(Painter):
    def rebuild(self, images: Tensor) -> Tensor:
        return images * float("nan")

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        return images * float("nan")

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        return super().generate(z, c) * float("nan")


def named(method, name: str, **attributes):
    method.name = name
    for attribute, value in attributes.items():
        setattr(method, attribute, value)
    return method


def colour(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(1, 2)) / 255


def test_figure_5_shows_and_scores_rebuilds(coloured) -> None:
    class Darker(Painter):
        def rebuild(self, images: Tensor) -> Tensor:
            return images.clamp(max=0)  # 255 becomes 128

    methods = [named(Darker(), "pixel only", ours=False), named(Broken(), "latent only"), named(Painter(), "all three")]
    identities = IdentityScale(colour, coloured.photos, coloured.photos)
    numbers, picture = ablation(methods, coloured.photos, identities=identities, shown=3)
    assert numbers.photos == 5
    assert [(each.method, each.ours) for each in numbers.methods] == [("pixel only", False), ("all three", True)]
    assert numbers.failed == {"latent only": "latent only: its images are NaN or infinite; its training has diverged"}
    bright = coloured.labels.sum(axis=1)
    darker = numbers.methods[0]
    l1 = bright / 3 * 127 / 127.5
    assert darker.l1.value == pytest.approx(l1.mean())
    assert darker.l1.interval == pytest.approx(bootstrap_interval(l1))
    apart = np.sqrt(bright) * 127 / 255
    assert darker.identity is not None
    assert darker.identity.value == pytest.approx(apart.mean())
    assert darker.shown_identity == pytest.approx(apart[:3])
    assert numbers.methods[1].l1.value == 0
    shown = cells(picture, 3, 3, captions=True)
    np.testing.assert_array_equal(shown[0], coloured.photos[:3])
    np.testing.assert_array_equal(shown[1], np.minimum(coloured.photos[:3], 128))
    np.testing.assert_array_equal(shown[2], coloured.photos[:3])
    assert "other people" in numbers.shown
    assert numbers.tables()[0].rows[1][0] == "▶ all three (ours)"

    two = IdentityScale(colour, coloured.photos[:2], coloured.photos[:2])
    fewer, picture = ablation(methods[:1], coloured.photos, identities=two)
    assert fewer.methods[0].shown_identity == pytest.approx(apart[:2])
    assert "of 2 photos" in fewer.shown
    assert cells(picture, 2, 5, captions=True).shape == (2, 5, 32, 32, 3)

    without, picture = ablation(methods[:1], coloured.photos)
    assert without.methods[0].identity is without.identity is None
    assert without.methods[0].shown_identity == ()
    assert "no embedder" in without.shown
    assert cells(picture, 2, 5, captions=False).shape == (2, 5, 32, 32, 3)


def test_figure_6_flips_the_paper_s_attributes(drawn) -> None:
    method = Ours(drawn.model)
    numbers, picture = single_attributes(method, drawn.photos, drawn.labels, DRAWN, drawn.judges, shown=4)
    assert numbers.choice.names == ("Male", "Eyeglasses", "Bangs", "Bald")
    assert [each.method for each in numbers.methods] == [
        "no edit: the photos", "iterative GAN", "iterative GAN, rebuilt without an edit"
    ]  # fmt: skip
    assert all(each.attributes == numbers.choice.names and each.photos == 44 for each in numbers.methods)
    shown = cells(picture, 6, 4, captions=True)
    np.testing.assert_array_equal(shown[0], drawn.photos[:4])
    expected = [rebuilt(method, drawn.photos[:4])]
    expected += [flipped(method, drawn.photos[:4], drawn.labels[:4], [index]) for index in (2, 3, 1, 4)]
    np.testing.assert_array_equal(shown[1:], expected)


def test_figure_6_of_other_data_says_which_attributes_it_took(coloured) -> None:
    numbers, picture = single_attributes(Painter(), coloured.photos, coloured.labels, NAMES, coloured.judges, shown=2)
    assert numbers.choice.names == NAMES
    assert "Attributes: red, green, blue. The data has no Male, Eyeglasses, Bangs, Bald." in numbers.shown
    assert numbers.methods[1].judges[0].mean.confirmed.value == 1
    assert numbers.methods[0].judges[0].mean.confirmed.value == 0
    assert cells(picture, 5, 2, captions=True)[3, 0, 0, 0].tolist() == [0, 255, 0]


def test_figure_7_changes_more_and_more_attributes(coloured) -> None:
    identities = IdentityScale(colour, coloured.photos, coloured.photos)
    numbers, picture = several_attributes(
        Painter(1), coloured.photos, coloured.labels, NAMES, coloured.judges, identities=identities, shown=2
    )
    assert [step.attributes for step in numbers.steps] == [NAMES[:1], NAMES[:2], NAMES]
    # The second attribute never changes, so one, then one of two, then two of three changes are seen.
    assert [step.seen["channels"].value for step in numbers.steps] == pytest.approx([1, 1 / 2, 2 / 3])
    assert [step.seen_balanced["again"].value for step in numbers.steps] == pytest.approx([1, 1 / 2, 2 / 3])
    assert [step.all_seen["channels"].value for step in numbers.steps] == [1, 0, 0]
    assert [step.identity.value for step in numbers.steps if step.identity] == pytest.approx([1, 1, np.sqrt(2)])
    shown = cells(picture, 5, 2, captions=False)[:, :, 0, 0]
    np.testing.assert_array_equal(shown[4], np.where([[1, 0, 1], [0, 0, 1]], 255, 0))
    assert len(numbers.tables()) == 2


def test_figure_8_asks_for_one_and_several_attributes(coloured) -> None:
    numbers, picture = faces_from_noise(Painter(2), coloured.labels, NAMES, coloured.judges, shown=5)
    assert [row.attributes for row in numbers.rows] == [("red",), ("green",), ("blue",), NAMES[:2], NAMES]
    assert [row.seen["channels"].value for row in numbers.rows] == pytest.approx([1, 1, 0, 1, 2 / 3])
    assert [row.unasked["channels"].value for row in numbers.rows] == pytest.approx([0.4, 0.4, 0, 0.4, 0.8 / 3])
    shown = cells(picture, 6, 5, captions=False)[:, :, 0, 0]
    np.testing.assert_array_equal(shown[0], 255 * coloured.labels * [1, 1, 0])
    np.testing.assert_array_equal(shown[1], 255 * np.maximum(coloured.labels * [1, 1, 0], [1, 0, 0]))
    np.testing.assert_array_equal(shown[5], np.broadcast_to([255, 255, 0], (5, 3)))


def test_figure_8_keeps_the_noise_of_a_column(drawn) -> None:
    method = Ours(drawn.model)
    numbers, picture = faces_from_noise(method, drawn.labels[:6], DRAWN, drawn.judges, seed=4, shown=3)
    assert numbers.faces == 6
    noise = method.draw_noise(6, torch.Generator().manual_seed(4))
    labels = torch.from_numpy(drawn.labels[:6]).float()
    asked = method.changed_labels(labels, {2: 1.0, 3: 1.0})
    shown = cells(picture, 8, 3, captions=False)
    np.testing.assert_array_equal(shown[0], generated(method, noise, labels)[:3])
    np.testing.assert_array_equal(shown[5], generated(method, noise, asked)[:3])


def test_figure_9a_compares_what_every_method_can_do(coloured) -> None:
    cycle = named(Painter(), "CycleGAN", ours=False, editable=(0, 2))
    ours = named(Painter(2), "ours")
    broken, other = named(Broken(), "StarGAN", ours=False), named(NoEdit(3), "other", editable=())
    numbers, picture = translations(
        [cycle, broken, other, ours], coloured.photos, coloured.labels, NAMES, coloured.judges, shown=2
    )
    assert [(each.method, each.ours) for each in numbers.methods] == [
        ("no edit: the photos", False), ("CycleGAN", False), ("CycleGAN, rebuilt without an edit", False),
        ("ours", True), ("ours, rebuilt without an edit", True),
    ]  # fmt: skip
    assert all(each.attributes == ("red", "blue") for each in numbers.methods)
    assert [each.judges[0].mean.confirmed.value for each in numbers.methods] == [0, 1, 0, 0.5, 0]
    assert numbers.failed == {
        "other": "other changes none of red, green, blue",
        "green": "Edits of green are not scored, as not every method can make them",
        "StarGAN": "StarGAN: its images are NaN or infinite; its training has diverged",
    }
    # The photos; red by both, green by ours, blue by both.
    shown = cells(picture, 6, 2, captions=True)[:, :, 0, 0]
    expected = [[[0, 0, 0], [1, 0, 0]], [[1, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]], [[0, 1, 0], [1, 1, 0]],
                [[0, 0, 1], [1, 0, 1]], [[0, 0, 0], [1, 0, 0]]]  # fmt: skip
    np.testing.assert_array_equal(shown, 255 * np.array(expected))
    assert [table.title.startswith("Edits, as the") for table in numbers.tables()] == [True] * 4 + [False]


def test_figure_9a_without_a_common_attribute_has_no_scores(coloured) -> None:
    methods = [named(Painter(), "a", editable=(0,)), named(Painter(), "b", editable=(1,))]
    numbers, picture = translations(methods, coloured.photos, coloured.labels, NAMES, coloured.judges, shown=1)
    assert numbers.methods == numbers.tables() == ()
    assert cells(picture, 3, 1, captions=True).shape[0] == 3


def test_figure_9b_gives_the_same_noise_where_it_can(coloured) -> None:
    class Longer(Painter):
        def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
            return torch.randn(n, 3, generator=generator)

    class Normal(Painter):
        def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
            return torch.randn(n, 2, generator=generator)

    methods = [named(Painter(0), "CGAN", ours=False), named(Longer(), "AC-GAN", ours=False),
               named(Normal(), "normal", ours=False), named(Broken(), "DCGAN"), named(Painter(), "ours")]  # fmt: skip
    others = 255 - coloured.photos
    numbers, picture = compared_faces(methods, coloured.photos, coloured.labels, coloured.judges, others=others)
    assert numbers.same_noise == (("CGAN", "ours"), ("AC-GAN",), ("normal",))
    assert "CGAN, ours got the same noise; AC-GAN got noise of its own" in numbers.shown
    assert [each.method for each in numbers.methods] == ["photos", "CGAN", "AC-GAN", "normal", "ours"]
    losses = [each.judges[0].hamming_loss.value for each in numbers.methods]
    assert losses == pytest.approx([0, coloured.labels[:, 0].mean() / 3, 0, 0, 0])
    assert list(numbers.failed) == ["DCGAN"]
    shown = cells(picture, 5, 5, captions=False)
    np.testing.assert_array_equal(shown[0], coloured.photos)
    np.testing.assert_array_equal(shown[1][:, 0, 0], 255 * coloured.labels * [0, 1, 1])
    np.testing.assert_array_equal(shown[4], coloured.photos)
    alone, _ = compared_faces(methods[:1], coloured.photos, coloured.labels, coloured.judges)
    assert "“photos” are the photos themselves. CGAN" in alone.shown
    assert alone.methods[0].frechet.value == pytest.approx(0, abs=1e-9)


def test_the_photos_of_figure_9b_have_the_errors_of_judges_and_the_distances_of_others(coloured) -> None:
    """A judge may have learnt the other photos by heart. Of these photos every label is turned round."""
    photos, wrong = coloured.photos, 1 - coloured.labels
    others = 255 - photos
    numbers, _ = compared_faces([Painter()], photos, wrong, coloured.judges, others=others)
    assert [judge.hamming_loss.value for judge in numbers.methods[0].judges] == [1, 1]
    assert "“photos” are the photos themselves; their distances are those of other photos." in numbers.shown
    expected = method_faces("others", others, photos, wrong, coloured.judges)
    assert expected.frechet.value
    assert numbers.methods[0].frechet == expected.frechet


@pytest.mark.parametrize("figure", [single_attributes, several_attributes])
def test_figures_of_ours_alone_refuse_what_is_not_finite(coloured, figure) -> None:
    with pytest.raises(NotFinite, match="painter: its images are NaN"):
        figure(Broken(), coloured.photos, coloured.labels, NAMES, coloured.judges)


def test_one_photo_is_enough(coloured) -> None:
    photos, labels = coloured.photos[1:2], coloured.labels[1:2]
    numbers, _ = single_attributes(Painter(), photos, labels, NAMES, coloured.judges)
    mean = numbers.methods[1].judges[0].mean
    assert (mean.confirmed.value, mean.confirmed.interval) == (1, None)
    assert numbers.methods[1].frechet.value is None
    assert dataclasses.asdict(numbers)["photos"] == 1
    faces, _ = compared_faces([Painter()], photos, labels, coloured.judges)
    assert faces.methods[1].judges[0].hamming_loss.value == 0

import dataclasses
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from igan_fast.app.paper.markdown import Table, markdown_table
from igan_fast.app.paper.recognition import (
    AnsweredPhotos,
    ComparedRecognition,
    answered_photos,
    compare_recognition,
)
from igan_fast.app.paper.recognition_plot import COLOURS, RIGHT, WRONG, draw_answers, draw_recognition
from igan_fast.app.plot import write_figure
from igan_fast.errors import InputError
from igan_fast.metrics import bootstrap_interval, majority_labels

#: Four photos, three attributes.
LABELS = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1]])
NAMES = ("Male", "Bald", "Young")
OURS = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0]], bool)  # 3 of 12 are wrong
CNN = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 1]], bool)  # 1 of 12
METHODS = {"iterative GAN": OURS, "plain CNN": CNN, "majority": np.broadcast_to(majority_labels(LABELS), LABELS.shape)}
ODD_NAMES = (
    "a|b",
    "Ünï_cödé",
    r"back\slash",
    "_x_ *y* `z` <b>",
    "line\nend\x1b[31m",
    "$a$ $\\frac$ 100 %",
    "日本 ✗",
    " ",
)


@functools.cache
def comparison() -> ComparedRecognition:
    return compare_recognition(METHODS, LABELS, NAMES)


def table3(*, count: int = 2) -> AnsweredPhotos:
    probabilities = np.array([[0.9, 0.2, 0.5], [0.1, 0.75, 0.51], [0.0, 0.0, 0.0], [1.0, 0.0, 0.25]], np.float32)
    return answered_photos(probabilities, LABELS, NAMES, count=count)


def cells(markdown: str) -> list[list[str]]:
    """Read a Markdown table as GitHub does: cells end at pipes without a backslash, which then goes."""
    lines = [line for line in markdown.splitlines() if not re.fullmatch(r"[|\s:-]+", line)]
    parts = [re.findall(r"((?:\\.|[^|\\])*)\|", line) for line in lines]
    return [[re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", part).strip() for part in row[1:]] for row in parts]


def bars(axes: Axes) -> list[tuple[float, float]]:
    """The place and the length of each bar."""
    return [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in axes.patches]


def written(figure: Figure, path: Path) -> Image.Image:
    write_figure(figure, path)
    with Image.open(path) as image:
        image.load()
    assert image.format == "PNG"
    assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 20
    return image


def test_numbers_of_figure_4_by_hand() -> None:
    found = comparison()
    ours, cnn, majority = found.methods
    assert (found.photos, found.attributes) == (4, NAMES)
    assert [method.name for method in found.methods] == ["iterative GAN", "plain CNN", "majority"]
    assert ours.hamming_loss == pytest.approx(3 / 12)
    assert cnn.hamming_loss == pytest.approx(1 / 12)
    assert majority.hamming_loss == pytest.approx(2 / 12)
    assert ours.accuracy == (1.0, 0.75, 0.5)
    assert cnn.accuracy == (0.75, 1.0, 1.0)
    assert majority.accuracy == (0.75, 1.0, 0.75)
    assert (ours.difference, ours.difference_interval) == (None, None)
    assert cnn.difference == pytest.approx(-2 / 12)
    assert majority.difference == pytest.approx(-1 / 12)


def test_intervals_are_over_photos_and_those_of_differences_are_paired() -> None:
    ours, cnn, _ = comparison().methods
    assert ours.hamming_loss_interval == bootstrap_interval(np.array([0, 1, 0, 2]) / 3)
    assert cnn.hamming_loss_interval == bootstrap_interval(np.array([0, 0, 1, 0]) / 3)
    assert cnn.difference_interval == pytest.approx(bootstrap_interval(np.array([0, -1, 1, -2]) / 3))
    assert ours.accuracy_intervals[0] == (1, 1)
    assert ours.accuracy_intervals[1] == bootstrap_interval(np.array([1.0, 1, 1, 0]))
    assert ours.accuracy_intervals[2] == bootstrap_interval(np.array([1.0, 0, 1, 0]))


def test_two_methods_that_err_on_the_same_photos_are_told_apart() -> None:
    """Each loss varies from photo to photo; their difference does not."""
    labels = np.zeros((50, 10), bool)
    first = np.arange(10) < np.arange(50)[:, None] % 9
    second = np.arange(10) < np.arange(50)[:, None] % 9 + 1
    found = compare_recognition({"first": first, "second": second}, labels, [f"{index}" for index in range(10)])
    one, other = found.methods
    assert one.hamming_loss_interval is not None
    assert other.hamming_loss_interval is not None
    assert one.hamming_loss_interval[1] > other.hamming_loss_interval[0]  # the intervals overlap
    assert other.difference_interval == pytest.approx((0.1, 0.1))


def test_a_single_photo_has_no_intervals() -> None:
    found = compare_recognition({"ours": OURS[:1], "other": CNN[:1]}, LABELS[:1], NAMES)
    for method in found.methods:
        assert method.hamming_loss_interval is method.difference_interval is None
        assert method.accuracy_intervals == (None, None, None)
    assert "NaN" not in found.to_json()
    assert found.tables()[0].rows == (
        ("ours", "0.0000", "–", "1.0000"),
        ("other", "0.0000", "+0.0000", "1.0000"),
    )


@pytest.mark.parametrize("numbers", [comparison(), table3()], ids=["figure 4", "table 3"])
def test_numbers_are_plain(numbers: ComparedRecognition | AnsweredPhotos) -> None:
    assert json.loads(numbers.to_json()) == json.loads(json.dumps(dataclasses.asdict(numbers), allow_nan=False))
    assert dataclasses.fields(numbers)
    with pytest.raises(dataclasses.FrozenInstanceError):
        numbers.photos = 1  # type: ignore[misc]


def test_the_tables_of_figure_4() -> None:
    losses, accuracies = comparison().tables()
    assert losses.header == ("method", "Hamming loss", "difference from iterative GAN", "mean accuracy")
    assert [row[0] for row in losses.rows] == list(METHODS)
    assert re.fullmatch(r"0\.2500 \(0\.\d{4}–0\.\d{4}\)", losses.rows[0][1])
    assert losses.rows[0][2:] == ("–", "0.7500")
    assert re.fullmatch(r"−0\.1667 \(−0\.\d{4} to 0\.\d{4}\)", losses.rows[1][2])
    assert accuracies.header == ("attribute", *METHODS)
    assert [row[0] for row in accuracies.rows] == list(NAMES)
    assert accuracies.rows[0][1] == "1.000 (1.000–1.000)"
    assert accuracies.rows[1][1].startswith("0.750 (")


def test_ours_is_marked_in_the_tables_and_in_the_picture_of_figure_4() -> None:
    numbers = compare_recognition(
        {"iterative GAN": np.array([[True], [False]]), "plain CNN": np.array([[True], [True]])},
        np.array([[1], [0]]), ["Bald"], ours="iterative GAN",
    )  # fmt: skip
    losses, accuracies = numbers.tables()
    assert [row[0] for row in losses.rows] == ["▶ iterative GAN (ours)", "plain CNN"]
    assert accuracies.header == ("attribute", "▶ iterative GAN (ours)", "plain CNN")
    labels = [label.get_text() for label in draw_recognition(numbers).axes[0].get_yticklabels()]
    assert labels == ["iterative GAN (ours)", "plain CNN"]


def test_answers_that_are_wrong_are_marked() -> None:
    found = table3()
    assert (found.photos, [answers.photo for answers in found.answers]) == (4, [0, 2])
    assert found.answers[0].labels == (True, False, True)
    assert found.answers[0].right == (True, True, False)  # 0.5 is not above 0.5
    assert found.answers[1].right == (False, True, True)
    (table,) = found.tables()
    assert table.header == ("attribute", "photo 1", "photo 3")
    assert table.rows == (
        ("Male", "1: 0.90 ✓", "1: 0.00 ✗"),
        ("Bald", "0: 0.20 ✓", "0: 0.00 ✓"),
        ("Young", "1: 0.50 ✗", "0: 0.00 ✓"),
        ("wrong", "1 of 3", "1 of 3"),
    )
    assert "for 2 of 4 photos" in found.shown
    assert "iterative GAN" in found.shown


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (3, [0, 3, 6]), (10, list(range(10))), (99, list(range(10)))])
def test_photos_are_chosen_by_their_numbers_alone(count: int, shown: list[int]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (10, 3))
    for probabilities in (rng.random((10, 3)), 1.0 * labels, 1.0 - labels):
        found = answered_photos(probabilities, labels, NAMES, count=count)
        assert [answers.photo for answers in found.answers] == shown


def test_labels_of_other_dtypes_give_the_same() -> None:
    for dtype in (np.bool_, np.uint8, np.float32):
        assert compare_recognition(METHODS, LABELS.astype(dtype), NAMES) == comparison()


NAN = np.full((4, 3), np.nan)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ({}, LABELS, "found no method"),
        ({"x": OURS[:, :2]}, LABELS, r"predictions of x: found bool of shape \(4, 2\), expected bool of \(4, 3\)"),
        ({"x": OURS.astype(np.float32)}, LABELS, "predictions of x: found float32"),
        ({"x": OURS}, LABELS[:, :2], r"labels: found the shape \(4, 2\), expected \(N, 3\)"),
        ({"x": OURS[:0]}, LABELS[:0], r"labels: found the shape \(0, 3\), expected \(N, 3\), not empty"),
        ({"x": OURS}, LABELS * 2 - 1, "labels: found other numbers, expected 0 and 1"),
        ({"x": OURS}, NAN, "labels: found other numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    predictions: dict[str, NDArray[np.bool_]], labels: NDArray[np.int64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare_recognition(predictions, labels, NAMES)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [(NAN, "found NaN"), (NAN[:, :2], r"the shape \(4, 2\)"), (LABELS * 1.5, "out of range"), (-0.1 * LABELS, "range")],
)
def test_probabilities_that_are_none_are_refused(probabilities: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ValueError, match=f"probabilities: .*{message}"):
        answered_photos(probabilities, LABELS, NAMES)
    with pytest.raises(InputError, match="count: found 0, expected at least 1 photo"):
        table3(count=0)


def test_markdown_can_be_read_back() -> None:
    for table in (*comparison().tables(), *table3().tables()):
        assert cells(markdown_table(table)) == [list(row) for row in (table.header, *table.rows)]


def test_odd_names_stay_in_their_cells() -> None:
    labels = np.zeros((2, len(ODD_NAMES)), bool)
    found = compare_recognition({"a|b": labels, "c": ~labels}, labels, ODD_NAMES)
    _, table = found.tables()
    text = markdown_table(table)
    assert len(text.splitlines()) == 2 + len(ODD_NAMES)
    rows = cells(text)
    assert {len(row) for row in rows} == {3}
    assert rows[0] == ["attribute", "a|b", "c"]
    shown = [*ODD_NAMES[:4], r"line\nend\x1b[31m", *ODD_NAMES[5:7], ""]
    assert [row[0] for row in rows[1:]] == shown
    assert "Ünï_cödé" in text  # an underscore inside a word means nothing in Markdown
    assert r"\_x\_ \*y\* \`z\` \<b\>" in text


def test_a_table_of_one_column_and_without_rows() -> None:
    assert markdown_table(Table(("only",), (("a",), ("b",)))) == "| only |\n| --- |\n| a |\n| b |\n"
    assert markdown_table(Table(("x", "y"), ())) == "| x | y |\n| --- | ---: |\n"


def test_figure_4_has_a_bar_for_each_number(tmp_path: Path) -> None:
    found = comparison()
    figure = draw_recognition(found)
    written(figure, tmp_path / "new" / "figure4.png")
    upper, lower = figure.axes
    assert [length for _, length in bars(upper)] == [method.hamming_loss for method in found.methods]
    assert [place for place, _ in bars(upper)] == pytest.approx([0, 1, 2])
    assert [label.get_text() for label in upper.get_yticklabels()] == list(METHODS)
    assert [text.get_text() for text in upper.texts] == ["0.2500", "0.0833", "0.1667"]
    assert [label.get_text() for label in lower.get_yticklabels()] == list(NAMES)
    drawn = bars(lower)
    assert len(drawn) == 9
    assert [length for _, length in drawn] == [value for method in found.methods for value in method.accuracy]
    for order in range(3):  # of one attribute below each other, around its place, and apart from the next attribute's
        places = [place for place, _ in drawn[order::3]]
        assert places == sorted(places)
        assert np.mean(places) == pytest.approx(order)
        assert max(places) - min(places) < 0.8
    for axes in (upper, lower):
        colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
        assert colours == [COLOURS[order] for order in range(3) for _ in range(len(colours) // 3)]
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_figure_4_has_a_line_for_each_interval() -> None:
    found = comparison()
    figure = draw_recognition(found)
    lines = [[segment for drawn in axes.collections for segment in drawn.get_segments()] for axes in figure.axes]
    intervals = [method.hamming_loss_interval for method in found.methods]
    assert [tuple(segment[:, 0]) for segment in lines[0]] == intervals
    intervals = [interval for method in found.methods for interval in method.accuracy_intervals]
    assert [tuple(segment[:, 0]) for segment in lines[1]] == intervals
    for axes, segments in zip(figure.axes, lines, strict=True):
        assert [segment[0, 1] for segment in segments] == pytest.approx([place for place, _ in bars(axes)])


def test_figure_4_of_a_single_photo_without_errors_and_of_many_methods(tmp_path: Path) -> None:
    right = LABELS[:1].astype(bool)
    figure = draw_recognition(compare_recognition({"ours": right}, LABELS[:1], NAMES))
    written(figure, tmp_path / "one.png")
    assert [length for _, length in bars(figure.axes[0])] == [0]
    wrong = {f"method {index}": ~right for index in range(10)}
    figure = draw_recognition(compare_recognition(wrong, LABELS[:1], NAMES))
    written(figure, tmp_path / "many.png")
    assert [len(axes.patches) for axes in figure.axes] == [10, 30]
    assert figure.axes[1].get_xlim() == (0, 1)


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")  # which glyphs the font has is not our matter
def test_odd_names_can_be_drawn(tmp_path: Path) -> None:
    labels = np.zeros((2, len(ODD_NAMES)), bool)
    found = compare_recognition(dict.fromkeys(ODD_NAMES, labels), labels, ODD_NAMES)
    figure = draw_recognition(found)
    written(figure, tmp_path / "figure.png")
    assert [len(axes.patches) for axes in figure.axes] == [8, 64]
    answers = answered_photos(labels * 1.0, labels, ODD_NAMES, method="$x$ $y_")
    written(draw_answers(answers), tmp_path / "answers.png")


def test_table_3_has_a_bar_for_each_probability_and_marks_what_is_wrong(tmp_path: Path) -> None:
    found = table3()
    figure = draw_answers(found)
    written(figure, tmp_path / "table3.png")
    assert len(figure.axes) == 2
    for axes, answers in zip(figure.axes, found.answers, strict=True):
        assert [length for _, length in bars(axes)] == list(answers.probabilities)
        assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [
            RIGHT if right else WRONG for right in answers.right
        ]
        crosses = [text.get_position()[1] for text in axes.texts]
        assert crosses == [place for place, right in enumerate(answers.right) if not right]
        (dots,) = axes.collections
        np.testing.assert_array_equal(dots.get_offsets(), [(label, y) for y, label in enumerate(answers.labels)])
        assert axes.get_title() == f"photo {answers.photo + 1}"
        assert axes.get_xlabel() == "1 wrong"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(NAMES)
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == [""] * 3


def test_table_3_shows_the_photos_above_their_columns(tmp_path: Path) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    figure = draw_answers(table3(), photos)
    written(figure, tmp_path / "table3.png")
    first, second, *columns = figure.axes
    assert [axes.get_title() for axes in columns] == ["photo 1", "photo 3"]
    for axes, photo in ((first, photos[0]), (second, photos[2])):
        np.testing.assert_array_equal(axes.images[0].get_array(), photo)
    for wrong in (photos[:3], photos[..., :2], photos[0], photos.astype(np.float32)):
        with pytest.raises(ValueError, match=r"photos: found .*, expected uint8 of \(4, S, S, 3\)"):
            draw_answers(table3(), wrong)


def test_a_figure_is_written_in_the_format_of_the_name_or_not_at_all(tmp_path: Path) -> None:
    figure = draw_recognition(comparison())
    write_figure(figure, tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    with pytest.raises(InputError, match=r"figure\.xyz: Matplotlib cannot write \.xyz"):
        write_figure(figure, tmp_path / "figure.xyz")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.svg"]

"""Picture grids: every picture in its place, pixel for pixel, labels beside and never over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from igan_fast.errors import InputError
from igan_fast.train.grids import edit_title, grid, sample_grid, save_png


def pictures(count: int, size: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (count, size, size, 3), dtype=np.uint8)


def test_places_and_pixels_without_labels() -> None:
    rows = [pictures(3, seed=1), list(pictures(2, seed=2))]
    canvas = np.asarray(grid(rows))
    assert canvas.shape == (2 * 64 + 2, 3 * 64 + 2 * 2, 3)
    for row in range(2):
        for column in range(3):
            cell = canvas[row * 66 : row * 66 + 64, column * 66 : column * 66 + 64]
            expected = rows[row][column] if column < len(rows[row]) else np.full((64, 64, 3), 255)
            assert np.array_equal(cell, expected)


def test_labels_lie_in_the_margins() -> None:
    rows = [pictures(2, seed=1), pictures(2, seed=2)]
    plain = np.asarray(grid(rows))
    labelled = np.asarray(grid(rows, ["real", "Smiling ⇄"], ["a", "b"]))
    top, left = labelled.shape[0] - plain.shape[0], labelled.shape[1] - plain.shape[1]
    assert top > 10
    assert left > 30
    assert np.array_equal(labelled[top:, left:], plain)
    dark = labelled.min(axis=2) < 128
    assert dark[top : top + 64, :left].any()
    assert dark[top + 66 :, :left].any()
    assert dark[:top, left : left + 64].any()
    assert dark[:top, left + 66 :].any()
    assert not dark[:top, :left].any()


def test_longer_row_labels_get_a_wider_margin_and_column_labels_are_shortened() -> None:
    row = [pictures(2)]
    short, long = (grid(row, [label]) for label in ("x", "a label that is long"))
    assert long.width > short.width
    huge = np.asarray(grid(row, (), ["W" * 200, ""]))
    assert huge.shape[1] == 2 * 64 + 2
    assert (huge[: huge.shape[0] - 64, 66:] == 255).all()  # the neighbour's label space stays free


def test_a_label_of_two_lines_lies_in_its_margin() -> None:
    rows = [pictures(2, seed=1), pictures(2, seed=2)]
    one, two = (np.asarray(grid(rows, labels)) for labels in (("Male=1", "x"), ("Male=1\nx", "x")))
    assert one.shape == two.shape  # as wide as its longest line
    left = one.shape[1] - (2 * 64 + 2)
    assert np.array_equal(two[:, left:], one[:, left:])
    assert np.array_equal(two[66:], one[66:])
    ink = two[:64, :left].min(axis=(1, 2)) < 128
    starts = np.flatnonzero(np.diff(ink.astype(int)) == 1)
    assert len(starts) == 2
    assert np.ptp(np.asarray(grid(rows, ("Male=1\na much longer line", "x"))).shape) > np.ptp(two.shape)
    for line in two[:64, :left][ink]:  # flush right, as labels of one line
        assert (line[-6:] == 255).all()


@pytest.mark.parametrize(
    ("strength", "companions", "expected"),
    [
        (1.0, False, "Male=1"),
        (1.5, False, "Male=1\nstrength 1.5"),
        (1, True, "Male=1\nwith companions"),
        (2.0, True, "Male=1\nstrength 2, with companions"),
    ],
)
def test_the_title_of_an_edit(strength: float, companions: bool, expected: str) -> None:
    assert edit_title("Male=1", strength=strength, companions=companions) == expected


def test_the_letters_of_labels_exist() -> None:
    def ink(label: str) -> bytes:
        return np.asarray(grid([pictures(1)], [label]))[:, :20].tobytes()

    assert len({ink(letter) for letter in ("⇄", "é", "×", "−", "\U0010fffe")}) == 5


@pytest.mark.parametrize(("size", "factor"), [(16, 4), (32, 2), (48, 2), (63, 2), (64, 1), (100, 1)])
def test_small_pictures_are_enlarged_by_a_whole_factor(size: int, factor: int) -> None:
    (picture,) = pictures(1, size)
    assert np.array_equal(np.asarray(grid([[picture]])), np.kron(picture, np.ones((factor, factor, 1), np.uint8)))


def test_sample_grid_names_its_rows() -> None:
    generated = {"": pictures(4, 32), "Male=1": pictures(4, 32)}
    edited = {"Smiling ⇄": pictures(4, 32), "Bald ⇄\nstrength 2": pictures(4, 32)}
    made = sample_grid(pictures(4, 32), pictures(4, 32), edited, generated)
    labels = ["real", "rebuilt", "Smiling ⇄", "Bald ⇄\nstrength 2", "noise", "noise, Male=1"]
    assert np.array_equal(np.asarray(made), np.asarray(grid([pictures(4, 32)] * 6, labels)))


def test_a_caption_stands_below_its_image() -> None:
    rows = [pictures(2), pictures(1, seed=1)]
    plain, captioned = np.asarray(grid(rows)), np.asarray(grid(rows, captions=[["0.31", ""], ["x"]]))
    below = (len(captioned) - len(plain)) // 2
    assert below > 10
    assert captioned.shape == (2 * (64 + below) + 2, 2 * 64 + 2, 3)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            y, x = row * (64 + below + 2), column * 66
            assert np.array_equal(captioned[y : y + 64, x : x + 64], image)
            blank = (captioned[y + 64 : y + 64 + below, x : x + 64] == 255).all()
            assert blank == ((row, column) == (0, 1))
    for wrong in ([["a", "b"]], [["a"], ["b"]]):
        with pytest.raises(ValueError, match=r"captions: found rows of .*, expected \[2, 1\]"):
            grid(rows, captions=wrong)


@pytest.mark.parametrize(
    ("rows", "row_labels", "message"),
    [
        ([], (), "found images of none"),
        ([[]], (), "found images of none"),
        ([pictures(1, 32), pictures(1, 64)], (), "expected one size"),
        ([pictures(1).astype(np.float32)], (), "float32"),
        ([pictures(1)[..., :1]], (), r"shape \(64, 64, 1\)"),
        ([pictures(1)[:, :0]], (), r"shape \(0, 64, 3\)"),
        ([pictures(1)], ("a", "b"), "row_labels: found 2, expected 1"),
    ],
)
def test_what_cannot_be_laid_out(rows: list[NDArray[np.uint8]], row_labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(rows, row_labels)


def test_save_png_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = grid([pictures(2)])
    path = save_png(picture, tmp_path / "new" / "grid.png")
    with Image.open(path) as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(picture))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"grid\.png: the disk is full"):
        save_png(grid([pictures(3)]), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["grid.png"]

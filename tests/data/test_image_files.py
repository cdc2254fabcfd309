"""Stores whose images are divided into several files, and ``JoinedImages``, against NumPy's arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ramp_source import RampSource

from igan_fast.data import image_files
from igan_fast.data.image_files import JoinedImages, take
from igan_fast.data.loader import BatchLoader
from igan_fast.data.store import FaceStore, build_store

SIZE = 5


def small_files(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Files of so many images from now on."""
    monkeypatch.setattr(image_files, "FILE_BYTES", rows * SIZE * SIZE * 3 + 2)  # a rest that is too small for one


@pytest.fixture
def parts() -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, 4, 4, 3), np.uint8) for count in (3, 1, 5)]


@pytest.mark.parametrize(
    "rows",
    [
        0, 2, 3, 8, -1, -9, np.int64(4), slice(None), slice(2, 5), slice(-2, None), slice(8, 1, -3), slice(4, 4),
        [0, 8, 3, 3, -1], np.array([], np.int64), np.array([[1, 2], [8, 0]]), np.arange(9) % 2 == 0, np.int32([7, 2]),
    ],
    ids=str,
)  # fmt: skip
def test_several_arrays_are_indexed_as_one(parts: list[NDArray[np.uint8]], rows: object) -> None:
    joined, whole = JoinedImages(parts), np.concatenate(parts)
    assert (len(joined), joined.shape, joined.dtype) == (9, whole.shape, whole.dtype)
    expected = whole[rows]  # type: ignore[index]
    found = joined[rows]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected, strict=True)
    np.testing.assert_array_equal(np.asarray(joined), whole)
    assert np.asarray(joined, np.float32).dtype == np.float32


@pytest.mark.parametrize("rows", [9, -10, [0, 9], np.ones(8, bool)], ids=str)
def test_rows_that_do_not_exist_are_refused(parts: list[NDArray[np.uint8]], rows: object) -> None:
    with pytest.raises(IndexError):
        JoinedImages(parts)[rows]


def test_the_images_can_be_written_to_an_array(parts: list[NDArray[np.uint8]]) -> None:
    whole, rows = np.concatenate(parts), np.array([8, 0, 3, 3, 2])
    for images in (JoinedImages(parts), whole):
        out = np.zeros((5, 4, 4, 3), np.uint8)
        take(images, rows, out)
        np.testing.assert_array_equal(out, whole[rows])
    with pytest.raises(ValueError, match="without a copy"):
        np.array(JoinedImages(parts), copy=False)


@pytest.mark.parametrize(
    ("workers", "count", "rows", "files"),
    [
        (1, 20, 20, 1), (1, 20, 19, 2), (1, 20, 7, 3), (1, 3, 1, 3),
        pytest.param(2, 300, 130, 3, marks=pytest.mark.every_build),
    ],
)  # fmt: skip
def test_a_store_of_several_files_is_read_as_one(
    workers: int, count: int, rows: int, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(monkeypatch, rows)
    source = RampSource(count)
    store = build_store(source, SIZE, cache=tmp_path, workers=workers, progress=False)
    assert store.path is not None
    names = ["images.npy"] if files == 1 else [f"images-{number:05}.npy" for number in range(files)]
    assert sorted(file.name for file in store.path.glob("images*")) == names
    assert [len(np.load(store.path / name)) for name in names][:-1] == [rows] * (files - 1)  # plain .npy files
    expected = np.array([source.image(index, SIZE) for index in range(count)])
    np.testing.assert_array_equal(np.asarray(store.images), expected)
    again = RampSource(count)
    np.testing.assert_array_equal(build_store(again, SIZE, cache=tmp_path, progress=False).images[:], expected)
    assert again.calls == []


@pytest.mark.parametrize("broken", [{0}, {6, 7}, {19}, set(range(7)), set(range(7, 14)), set(range(1, 20)), {2, 9, 18}])
def test_broken_images_leave_each_file(broken: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of which all images are broken is not kept."""
    small_files(monkeypatch, 7)
    with pytest.warns(UserWarning, match=f"{len(broken)} of 20 pictures are broken"):
        store = build_store(RampSource(20, broken=frozenset(broken)), SIZE, cache=tmp_path, progress=False)
    kept = [index for index in range(20) if index not in broken]
    whole = RampSource(20)
    np.testing.assert_array_equal(store.images[:], [whole.image(index, SIZE) for index in kept])
    small_files(monkeypatch, 20)
    with pytest.warns(UserWarning, match="are broken"):
        one = build_store(RampSource(20, broken=frozenset(broken)), SIZE, cache=tmp_path / "one", progress=False)
    assert store.digest == one.digest


def test_a_loader_reads_several_files_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for rows in (20, 7):
        small_files(monkeypatch, rows)
        store: FaceStore = build_store(RampSource(20), SIZE, cache=tmp_path / str(rows), progress=False)
        loader = BatchLoader(store, store.splits["train"], 6, seed=3)
        batches.append([loader.next() for _ in range(5)])
    for one, several in zip(*batches, strict=True):
        np.testing.assert_array_equal(one.images.numpy(), several.images.numpy())
        np.testing.assert_array_equal(one.labels.numpy(), several.labels.numpy())

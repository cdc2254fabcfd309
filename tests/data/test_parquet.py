"""``ParquetFaces``: the forms in which Hugging Face distributes CelebA; splits, single rows, and the fingerprint."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blue_aligner import Blue
from grey_celeba import ATTRIBUTES, PHOTOS, photo, write
from no_warnings import no_warning

from igan_fast.data import build_store, open_source
from igan_fast.data.celeba import CelebA
from igan_fast.errors import InputError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from parquet_samples import flower, images, tpremoli, write_parquet  # noqa: E402

from igan_fast.data.parquet import ParquetFaces  # noqa: E402


def numbers(source: ParquetFaces, rows: Sequence[int] | None = None) -> list[int]:
    """The numbers of the photos, which their brightness shows."""
    rows = range(len(source)) if rows is None else rows
    return [int(source.image(int(row), 16)[8, 8, 0]) // 10 for row in rows]


def in_splits(source: ParquetFaces) -> dict[str, list[int]]:
    return {name: numbers(source, rows.tolist()) for name, rows in source.splits.items()}


def shards(folder: Path, *names: str, columns: Callable[[Sequence[int]], dict[str, Any]] = flower) -> Path:
    """Write a file of three photos for each name: 1, 2, 3 to the first, 4, 5, 6 to the second and so on."""
    for k, name in enumerate(names):
        write_parquet(folder / name, columns([3 * k + 1, 3 * k + 2, 3 * k + 3]))
    return folder


HUB = ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "valid-00000-of-00001.parquet",
       "test-00000-of-00001.parquet")  # fmt: skip


@pytest.mark.parametrize("columns", [flower, tpremoli])
@pytest.mark.parametrize(
    "names",
    [
        HUB,
        tuple(f"img_align+identity+attr/{name}" for name in HUB),
        tuple(f"data/{name.replace('valid', 'validation')}" for name in HUB),
        ("train/0000.parquet", "train/0001.parquet", "valid/0000.parquet", "test/0000.parquet"),
        ("celeba_train_1.parquet", "celeba_train_2.parquet", "CelebA-val.PARQUET", "celeba.test.parquet"),
    ],
)
def test_shards_of_the_hub(names: tuple[str, ...], columns: Callable[..., Any], tmp_path: Path) -> None:
    shards(tmp_path, *names, columns=columns)
    write(tmp_path, {"README.md": "a card", ".gitattributes": "", ".cache/huggingface/x.parquet": b"x"})
    with no_warning():
        source = open_source(tmp_path, strict=True)
    assert isinstance(source, ParquetFaces)
    assert source.attributes == ("Bald", "Young")
    assert source.labels.dtype == np.uint8
    found = numbers(source)
    assert sorted(found) == list(range(1, 13))
    np.testing.assert_array_equal(source.labels, [[n % 2, n >= 3] for n in found])
    assert in_splits(source) == {"train": [1, 2, 3, 4, 5, 6], "val": [7, 8, 9], "test": [10, 11, 12]}
    if columns is flower:
        assert source.identities is not None
        assert source.identities.dtype == np.int64
        assert source.identities.tolist() == [100 + n // 2 for n in found]
    else:
        assert source.identities is None
    people = ", 7 people" if columns is flower else ""
    assert source.describe() == (
        f"12 photos in {tmp_path} (4 parquet files), 2 attributes{people}; split by file names: 6 train, 3 val, "
        "3 test; nothing skipped"
    )


def test_a_single_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "faces.parquet", flower(range(1, 21)))
    write(tmp_path, {"beside.png": photo(9), "other.parquet": b"x"})
    with no_warning():
        source = open_source(path, strict=True)
    assert numbers(source) == list(range(1, 21))
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 18, "val": 1, "test": 1}
    assert (
        "(1 parquet file), 2 attributes, 11 people; no train, val and test files: random 90/5/5 %" in source.describe()
    )


def test_train_files_alone_are_split_at_random(tmp_path: Path) -> None:
    source = ParquetFaces(shards(tmp_path, *HUB[:2]))
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 4, "val": 1, "test": 1}
    assert "no val and no test file: random 90/5/5 % split, seed 0" in source.describe()


def test_a_test_file_alone_is_for_scoring(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no photos for validation"):
        source = ParquetFaces(shards(tmp_path, HUB[3]) / HUB[3])
    assert in_splits(source) == {"train": [], "val": [], "test": [1, 2, 3]}


def test_the_papers_split_takes_all_rows(tmp_path: Path) -> None:
    source = ParquetFaces(shards(tmp_path, *HUB), split="paper")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 11, "val": 1}


def test_chosen_columns_in_any_order(tmp_path: Path) -> None:
    """A column that is not chosen may hold anything."""
    columns = {**tpremoli([1, 2, 3]), "age": [31, 4, 70]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    source = open_source(path, attributes=["Young", "Bald"])
    assert source.labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    with pytest.raises(InputError, match="unknown attribute 'yuong'; did you mean Young"):
        open_source(path, attributes=["yuong"])
    with pytest.raises(InputError, match=r"attributes: the column 'prompt_string' holds string, expected 0 and 1"):
        open_source(path, attributes=["prompt_string"])


@pytest.mark.parametrize(
    "values",
    [
        pa.array([True, False, True]), pa.array([1, 0, 1], pa.int8()), pa.array([1, -1, 1], pa.int64()),
        pa.array([1, 0, 1], pa.uint64()), pa.array([1.0, -1.0, 1.0], pa.float32()),
        pa.chunked_array([[1, 0], [], [1]]),
    ],
)  # fmt: skip
def test_every_spelling_of_labels(values: Any, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": images([1, 2, 3]), "Bald": values})
    assert ParquetFaces(path).labels.tolist() == [[1], [0], [1]]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.large_binary())])])
def test_photos_as_plain_bytes_and_in_other_columns(kind: Any, tmp_path: Path) -> None:
    values = [photo(n) if not pa.types.is_struct(kind) else {"bytes": photo(n)} for n in (1, 2)]
    path = write_parquet(tmp_path / "a.parquet", {"Bald": [0, 1], "picture": pa.array(values, kind)})
    assert numbers(ParquetFaces(path)) == [1, 2]


def test_of_several_columns_of_photos_image_is_taken(tmp_path: Path) -> None:
    columns = {"mask": images([8, 9]), "image": images([1, 2]), "Bald": [0, 1]}
    assert numbers(ParquetFaces(write_parquet(tmp_path / "a.parquet", columns))) == [1, 2]


def test_missing_people_are_unknown(tmp_path: Path) -> None:
    columns = {"image": images([1, 2, 3]), "identity": pa.array([7, None, -5]), "Bald": [0, 1, 1]}
    source = ParquetFaces(write_parquet(tmp_path / "a.parquet", columns))
    assert source.identities is not None
    assert source.identities.tolist() == [7, -1, -1]
    assert ", 1 people;" in source.describe()


# ClassLabel -----------------------------------------------------------------------------------------------------------


def test_each_class_of_a_class_label_is_an_attribute(tmp_path: Path) -> None:
    """CelebA-HQ's mirrors have a column ``label`` of 0 (female) and 1 (male)."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["female", "male", "both"]}}
    path = write_parquet(tmp_path / "a.parquet", {"image": images([1, 2, 3]), "label": [1, 0, 2]}, features=features)
    source = ParquetFaces(path)
    assert source.attributes == ("female", "male", "both")
    assert source.labels.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert ParquetFaces(path, attributes=["male"]).labels.tolist() == [[1], [0], [0]]


@pytest.mark.parametrize("names", [["no", "yes"], ["False", "True"], ["-1", "1"], ["0", "1"]])
def test_no_and_yes_are_one_attribute(names: list[str], tmp_path: Path) -> None:
    features = {"Bald": {"_type": "ClassLabel", "names": names}}
    path = write_parquet(tmp_path / "a.parquet", {"image": images([1, 2]), "Bald": [1, 0]}, features=features)
    source = ParquetFaces(path)
    assert source.attributes == ("Bald",)
    assert source.labels.tolist() == [[1], [0]]


# Rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 7, 40, 1000])
def test_any_row_in_any_order(group: int, tmp_path: Path) -> None:
    """Row groups of every size: a row, more than are read at a time, the whole file."""
    for k in range(2):
        columns = {"image": images([(37 * k + n) % 25 for n in range(90)]), "Bald": [0, 1] * 45}
        write_parquet(tmp_path / f"{k}.parquet", columns, row_group_size=group)
    source = ParquetFaces(tmp_path)
    order = np.random.default_rng(0).permutation(180)
    expected = [(37 * (row // 90) + row % 90) % 25 for row in order]
    assert numbers(source, order.tolist()) == expected
    assert numbers(source) == [(37 * (row // 90) + row % 90) % 25 for row in range(180)]


def test_a_large_row_group_does_not_fill_the_memory(tmp_path: Path) -> None:
    """The file is one row group. Its pages are read one after the other: into Python's memory, then into pyarrow's."""
    noise = [os.urandom(20_000) for _ in range(3000)]
    path = write_parquet(tmp_path / "a.parquet", {"image": noise, "Bald": [0, 1] * 1500}, write_batch_size=64)
    del noise
    source = ParquetFaces(path)
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    tracemalloc.start()
    try:
        for row in range(0, 3000, 50):
            with pytest.raises(InputError, match=f"row {row}: is not a photo"):
                source.image(row, 16)
            most = max(most, pool.bytes_allocated() - before)
        most += tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < path.stat().st_size / 4


def test_a_source_can_be_pickled(tmp_path: Path) -> None:
    source = ParquetFaces(shards(tmp_path, *HUB))
    before = source.image(4, 24)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.image(4, 24), before)
    assert copy.fingerprint() == source.fingerprint()
    assert copy.describe() == source.describe()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.every_build)])
def test_broken_photos_are_skipped_and_counted(workers: int, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    columns = {"image": images([1, None, *range(3, 131)]), "Bald": [n % 2 for n in range(130)]}
    write_parquet(path, columns, row_group_size=50)
    source = ParquetFaces(path)
    message = rf"1 of 130 pictures are broken: {path}: row 1: holds no photo, expected its bytes\. They are left out"
    with pytest.warns(UserWarning, match=message):
        store = build_store(source, 16, cache=tmp_path / "cache", workers=workers, progress=False)
    assert store.positions.tolist() == [0, *range(2, 130)]
    expected = [np.full((16, 16, 3), 10 * n % 256) for n in (1, *range(3, 26))]
    np.testing.assert_array_equal(store.images[:24], expected)
    with pytest.raises(InputError, match="row 1: holds no photo"):
        build_store(source, 16, cache=tmp_path / "strict", strict=True, workers=1, progress=False)


def test_rows_whose_photos_cannot_be_read_are_named(tmp_path: Path) -> None:
    values = [{"bytes": None, "path": "a.jpg"}, {"bytes": b"text", "path": "b.jpg"}, {"bytes": b"", "path": None}]
    path = write_parquet(tmp_path / "a.parquet", {"image": pa.array(values, images([]).type), "Bald": [0, 1, 1]})
    source = ParquetFaces(path)
    for row, message in enumerate([
        r"row 0 \(a.jpg\): holds only the name of a photo, expected its bytes",
        r"row 1 \(b.jpg\): is not a photo",
        r"row 2: is truncated, broken or not a photo \(it is empty\)",
    ]):  # fmt: skip
        with pytest.raises(InputError, match=f"{path}: {message}"):
            source.image(row, 16)
    with pytest.raises(InputError, match=r"none of the 3 pictures can be read; the first: .*row 0"):
        build_store(source, 16, cache=tmp_path / "cache", workers=1, progress=False)


def test_faces_are_aligned(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", flower([1, 2]))
    source = ParquetFaces(path, align=Blue())
    assert (source.image(0, 16) == (0, 0, 255)).all()
    assert source.fingerprint() != ParquetFaces(path).fingerprint()


# The fingerprint ------------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_the_photos_and_their_order(tmp_path: Path) -> None:
    shards(tmp_path, *HUB)
    before = ParquetFaces(tmp_path).fingerprint()
    assert ParquetFaces(tmp_path, attributes=["Young"], split="paper", seed=4).fingerprint() == before
    write_parquet(tmp_path / HUB[1], flower([4, 5, 7]))
    changed = ParquetFaces(tmp_path).fingerprint()
    assert changed != before
    (tmp_path / HUB[0]).rename(tmp_path / "train-00009-of-00002.parquet")
    assert ParquetFaces(tmp_path).fingerprint() not in (before, changed)


def test_the_fingerprint_changes_with_the_column_of_photos(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": images([1]), "mask": images([2]), "Bald": [1]})
    source = ParquetFaces(path)
    before = source.fingerprint()
    stat = path.stat()
    write_parquet(path, {"mask": images([1]), "img": images([2]), "Bald": [1]})
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ParquetFaces(path).fingerprint() != before


def test_photos_with_an_attribute_file_come_first(tmp_path: Path) -> None:
    write(
        tmp_path, {**{f"img/{name}": content for name, content in PHOTOS.items()}, "list_attr_celeba.csv": ATTRIBUTES}
    )
    shards(tmp_path, *HUB)
    assert isinstance(open_source(tmp_path), CelebA)

"""Parquet files that cannot be used: one message each, which names the file and what was expected."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from grey_celeba import photo, write

from igan_fast.data import build_store, open_source
from igan_fast.errors import InputError, PackageMissing

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from parquet_samples import flower, images, tpremoli, write_parquet  # noqa: E402


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole[:-40], r"is a truncated or damaged parquet file \([0-9,]+ bytes\); download it again"),
        (lambda whole: whole[:500], r"is a truncated or damaged parquet file \(500 bytes\)"),
        (lambda whole: b"", "is empty, not a parquet file"),
        (lambda whole: b"<!DOCTYPE html><title>Sign in</title>", "is a web page, not a parquet file"),
        (
            lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
            r"is a pointer of Git LFS.*git lfs pull",
        ),
        (lambda whole: b"image,Bald\n", r"is not a parquet file \(it begins with b'image,Ba'\)"),
    ],
)
def test_a_damaged_file(change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train-0.parquet", flower([1, 2, 3]))
    path.write_bytes(change(path.read_bytes()))
    refused(path, f"^{re.escape(str(path))}: {message}")
    refused(tmp_path, f"^{re.escape(str(path))}: {message}")


def test_a_damaged_row_group_leaves_the_others(tmp_path: Path) -> None:
    columns = {"image": images(range(20)), "Bald": [0, 1] * 10}
    path = write_parquet(tmp_path / "a.parquet", columns, row_group_size=5, compression="none", use_dictionary=False)
    whole = bytearray(path.read_bytes())
    start = pa.parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    whole[start : start + 12] = b"\xff" * 12
    path.write_bytes(whole)
    source = open_source(path)
    with pytest.raises(InputError, match=r"a.parquet: row 6: cannot be read: the parquet file is damaged \("):
        source.image(6, 16)
    assert source.image(3, 16)[8, 8, 0] == 30
    with pytest.warns(UserWarning, match=r"5 of 20 pictures are broken: .*row 5: cannot be read"):
        store = build_store(source, 16, cache=tmp_path / "cache", workers=1, progress=False)
    assert store.images[:, 8, 8, 0].tolist() == [10 * n for n in (*range(5), *range(10, 20))]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": images([1, 2])}, r"has photos but no labels \(its columns: image: struct<.*>\); expected"),
        ({"image": images([1, 2]), "prompt": ["a", "b"]}, "has photos but no labels"),
        ({"image": images([1, 2]), "celeb_id": [1, 2]}, "has photos but no labels"),
        ({"Bald": [0, 1], "Young": [1, 1]}, r"no column of photos among its columns \(Bald: int64, Young: int64\)"),
        ({"image": [[[0, 1]], [[2, 3]]], "Bald": [0, 1]}, r"has no column of photos .*image: list<"),
        ({"one": images([1, 2]), "two": images([1, 2]), "Bald": [0, 1]}, r"several columns .* photos \(one, two\)"),
        ({"image": images([1, 2]), "age": [1, 37]}, r"row 1: age is 37, expected -1, 0 or 1, or True or False \("),
        ({"image": images([1, 2]), "Bald": [0.5, 1.0]}, r"row 0: Bald is 0.5, expected -1, 0 or 1"),
        ({"image": images([1, 2]), "Bald": [1.0, float("nan")]}, r"row 1: Bald is nan, expected -1, 0 or 1"),
        ({"image": images([1, 2]), "Bald": pa.array([1, None])}, r"row 1: Bald is missing, expected -1, 0 or 1"),
        ({"image": images([1, 2]), "Bald": pa.array([None, True])}, r"row 0: Bald is missing, expected -1, 0 or 1"),
        ({"image": images([1, 2, 3]), "Bald": [1, 0, -1]}, "Bald is both 0 and -1, so 0 may mean unknown"),
        ({"image": images([]), "Bald": pa.array([], pa.bool_())}, "has no rows in 1 parquet file"),
        ({"image": images([1, 2]), "a=b": [0, 1]}, "the column or class 'a=b' cannot be an attribute's name"),
        ({"image": images([1, 2]), "x,y": [0, 1]}, "the column or class 'x,y' cannot be an attribute's name"),
        ({"image": images([1, 2]), "-z": [0, 1]}, "the column or class '-z' cannot be an attribute's name"),
        ({"image": images([1, 2]), "": [0, 1]}, "the column or class '' cannot be an attribute's name"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_used(columns: dict[str, object], message: str, tmp_path: Path) -> None:
    refused(write_parquet(tmp_path / "a.parquet", columns), message)


@pytest.mark.parametrize(("value", "found"), [(2, "is 2"), (-1, "is -1"), (None, "is missing")])
def test_a_number_of_no_class(value: int | None, found: str, tmp_path: Path) -> None:
    features = {"label": {"_type": "ClassLabel", "names": ["female", "male"]}}
    columns = {"image": images([1, 2]), "label": pa.array([1, value], pa.int64())}
    path = write_parquet(tmp_path / "a.parquet", columns, features=features)
    refused(path, rf"row 1: label {found}, expected a number below 2 \(or choose other columns")


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    features = {"label": {"_type": "ClassLabel", "names": ["Bald", "Young"]}}
    columns = {"image": images([1, 2]), "label": [0, 1], "Bald": [0, 1]}
    refused(
        write_parquet(tmp_path / "a.parquet", columns, features=features), "two columns or classes are called 'Bald'"
    )
    table = pa.table([images([1, 2]), [0, 1], [0, 1]], names=["image", "Bald", "Bald"])
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "two columns or classes are called 'Bald'")


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"info": null}', b'{"info": {"features": [1]}}', b"\xff"])
def test_odd_metadata_is_ignored(text: bytes, tmp_path: Path) -> None:
    table = pa.table({"image": images([1, 2]), "Bald": [0, 1]}).replace_schema_metadata({"huggingface": text})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    assert open_source(tmp_path).labels.tolist() == [[0], [1]]


def test_files_with_other_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", flower([1, 2]))
    path = write_parquet(tmp_path / "train-1.parquet", {"image": images([1]), "celeb_id": [1], "Bald": [1]})
    refused(tmp_path, rf"{path}: has no labels of Young, which train-0.parquet has")
    write_parquet(path, {**flower([1, 2]), "Hat": [0, 1]})
    refused(tmp_path, rf"{path}: has labels of Hat, which train-0.parquet does not have")
    write_parquet(path, tpremoli([1, 2]))
    refused(tmp_path, rf"{path}: has photos, people or classes in other columns than train-0.parquet")


def test_files_of_which_some_are_named_after_splits(tmp_path: Path) -> None:
    for name in ("train-0.parquet", "more.parquet", "train-test.parquet"):
        write_parquet(tmp_path / name, flower([1, 2]))
    refused(
        tmp_path, r"more.parquet, train-test.parquet are not named after one split, but train-0.parquet is; expected"
    )


def test_photos_beside_the_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", flower([1, 2]))
    write(tmp_path, {"Bald/a.png": photo(1), "Young/b.png": photo(2)})
    refused(tmp_path, r"found 1 parquet file \(train-0.parquet\) and 2 photos \(Bald/a.png, Young/b.png\); expected")


def test_things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").symlink_to("nowhere")
    refused(tmp_path, r"a.parquet: cannot be read: No such file")
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "a.parquet").symlink_to("/dev/zero")
    refused(tmp_path, r"a.parquet: found a device, expected a file")
    refused(tmp_path / "b.parquet", r"b.parquet: no such folder; expected a folder .*, a zip or parquet file")


def test_a_folder_called_like_a_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "faces.parquet" / "part-0.parquet", flower([1, 2, 3]))  # as Spark writes them
    assert len(open_source(tmp_path / "faces.parquet")) == 3
    assert len(open_source(tmp_path)) == 3


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", flower([1, 2, 3]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PackageMissing, match=r"^data: parquet files cannot be read \(.*\); pip install pyarrow$"):
        open_source(path)

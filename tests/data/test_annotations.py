"""Annotation files: all spellings of labels, and one-line error messages for damaged files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from igan_fast.data.annotations import (
    MAX_ANNOTATION_BYTES,
    annotation_file,
    read_attributes,
    read_identities,
    read_originals,
    read_partition,
)
from igan_fast.data.attributes import attribute_indices
from igan_fast.data.celeba_files import find_files
from igan_fast.errors import InputError

HEADER = "image_id,Bald,Young\n"


def labels_of(path: Path, content: str | bytes, wanted: tuple[str, ...] = ()) -> list[list[int]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    table = read_attributes(annotation_file(path), wanted)
    assert table.labels.dtype == np.uint8
    return table.labels.tolist()


def error_of(read: Callable[[], object]) -> str:
    """The message of the ``InputError`` that ``read`` raises: one line of limited length."""
    with pytest.raises(InputError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


# Labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yes", "no"),
    [("1", "-1"), ("1", "0"), ("True", "False"), ("TRUE", "FALSE"), ("true", "false"), ("1.0", "-1.0"), ("1.0", "0.0"),
     ("+1", "-1"), ("1", "-0.0")],
)  # fmt: skip
@pytest.mark.parametrize("form", ["csv", "txt"])
def test_labels_are_read_in_every_spelling(yes: str, no: str, form: str, tmp_path: Path) -> None:
    if form == "csv":
        content = f"{HEADER}a.jpg,{yes},{no}\nb.jpg,{no},{no}\nc.jpg,{no},{yes}\n"
    else:
        content = f"3\nBald Young\na.jpg {yes} {no}\nb.jpg {no}  {no}\nc.jpg {no} {yes}\n"
    assert labels_of(tmp_path / f"list_attr.{form}", content) == [[1, 0], [0, 0], [0, 1]]


def test_two_columns_may_use_different_spellings(tmp_path: Path) -> None:
    content = f"{HEADER}a.jpg,1,True\nb.jpg,-1,False\nc.jpg,1.0,0\n"
    assert labels_of(tmp_path / "a.csv", content) == [[1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("form", ["csv", "txt"])
def test_zero_and_minus_one_in_a_column_are_refused(form: str, tmp_path: Path) -> None:
    """The 0 may mean "unknown" instead of "no"."""
    content = f"{HEADER}a.jpg,1,1\nb.jpg,-1,-1\nc.jpg,1,0\n"
    if form == "txt":
        content = content.removeprefix("image_id,").replace(",", " ")
    message = error_of(lambda: labels_of(tmp_path / f"a.{form}", content))
    assert "line 4: Young is 0 in a file that also has -1, so 0 may mean unknown" in message
    message = error_of(lambda: labels_of(tmp_path / f"a.{form}", content, ("Bald", "Young")))
    assert "Young is 0" in message
    assert labels_of(tmp_path / f"a.{form}", content, ("Bald",))  # an ambiguous 0 in an unused column is no error


def test_zero_and_minus_one_in_one_column_make_all_zeros_ambiguous(tmp_path: Path) -> None:
    content = f"{HEADER}a.jpg,0,1\nb.jpg,1,-1\nc.jpg,1,0\n"
    message = error_of(lambda: labels_of(tmp_path / "a.csv", content))
    assert "line 2: Bald (and 1 more column) is 0 in a file that also has -1" in message


@pytest.mark.parametrize(
    "value", ["yes", "no", "NaN", "nan", "", " ", "2", "0.5", "-0.5", "1e0", "inf", "١", "1_0", "x" * 9999]
)
def test_an_invalid_label_is_refused(value: str, tmp_path: Path) -> None:
    message = error_of(lambda: labels_of(tmp_path / "a.csv", f"{HEADER}a.jpg,1,1\nb.jpg,{value},-1\n"))
    assert "line 3: Bald of 'b.jpg' is" in message
    assert "expected -1, 0 or 1, or True or False" in message
    assert ("is missing" in message) == (not value.strip())


# Headers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image_id,Bald,Bald", "attribute 'Bald' is named twice"),
        ("image_id,Bald,", "attribute 2 has no name"),
        ("image_id,,Young", "attribute 1 has no name"),
        ("image_id", "expected the names of the attributes"),
        ("image_id;Bald;Young", "expected the names of the attributes, with commas between them"),
        ("000001.jpg,-1,1", "found the label -1, expected the names of the attributes"),
        ("image_id,Bald,Y\udcffung", "is not UTF-8 text"),
    ],
)
def test_a_bad_header_is_refused(header: str, message: str, tmp_path: Path) -> None:
    assert f"line 1: {message}" in error_of(lambda: labels_of(tmp_path / "a.csv", f"{header}\na.jpg,1,-1\n"))


def test_many_attributes_with_long_names(tmp_path: Path) -> None:
    names = [f"Attribute_{number}" for number in range(3000)]
    content = " ".join(names) + "\n" + "a.jpg" + " 1 -1" * 1500 + "\n"
    assert labels_of(tmp_path / "a.txt", content, tuple(names)) == [[1, 0] * 1500]
    assert attribute_indices(reversed(names), names) == list(range(2999, -1, -1))
    with pytest.raises(InputError, match=r"the 3000 known ones are Attribute_0, .*, Attribute_99, …$"):
        attribute_indices(["zzz"], names)


# Lines and bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", " \n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_marks_do_not_matter(end: str, encoding: str, tmp_path: Path) -> None:
    for name, lines in (
        ("a.csv", ["image_id,Bald,Young", "a.jpg,1,-1", "b.jpg,-1,1"]),
        ("a.txt", ["2", "Bald Young", "a.jpg 1 -1", "b.jpg -1 1"]),
    ):
        content = end.join([*lines, ""]).encode(encoding)
        assert labels_of(tmp_path / name, content) == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEADER}a.jpg,1,-1\nb.jpg\0,1,1\n", "line 3: holds a NUL byte"),
        (f"{HEADER}a.jpg,1,-1\n".encode("utf-16"), "line 1: holds a NUL byte"),
        (f"{HEADER}{'a' * 131_073}.jpg,1,-1\n", "line 2: a field has more than 131,072 characters"),
        (f'{HEADER}"a.jpg,1,-1\nb.jpg,1,1\n', "line 2: is not CSV (unexpected end of data)"),
        (f'{HEADER}"a.jpg"x,1,-1\n', "line 2: is not CSV"),
        (f"{HEADER}a.jpg,1,-1\n,1,1\n", "line 3: the name of the photo is missing"),
        (f"{HEADER}a.jpg,1,-1\nb.jpg,1\n", "line 3: found 1 values after 'b.jpg', expected 2"),
        (f"{HEADER}a.jpg,1,-1\na.jpg,1,1\n", "line 3: 'a.jpg' is already listed in line 2"),
        (f'{HEADER}a.jpg,1,-1\n"b\n.jpg",1,1\nc.jpg,1\n', "line 5: found 1 values after 'c.jpg'"),
        (f"{HEADER}a.jpg,1,\udcff\n", "line 2: Young of 'a.jpg' is '\\udcff'"),
        ("", "line 1: expected the names"),
    ],
)
def test_a_damaged_csv_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    assert f"{tmp_path / 'a.csv'}: {message}" in error_of(lambda: labels_of(tmp_path / "a.csv", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("9" * 4400 + "\nBald\na.jpg 1\n", "line 2: found 0 values after 'Bald'"),
        ("Bald\n" + "a" * 131_073 + " 1\n", "line 2: a field has more than 131,072 characters"),
        ("Bald\n" + "1" * 4400 + ".jpg " + "1" * 4400 + "\n", "line 2: Bald of '111"),
        ("٣\nBald\na.jpg 1\n", "line 2: found 0 values after 'Bald'"),
        ("Bald\na.jpg 1\0\n", "line 2: holds a NUL byte"),
    ],
)
def test_a_damaged_text_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    assert message in error_of(lambda: labels_of(tmp_path / "a.txt", content))


def test_a_line_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igan_fast.data.annotations.MAX_LINE", 1000)
    message = error_of(lambda: labels_of(tmp_path / "a.txt", "Bald\n" + "x y " * 1000))
    assert "line 2: has more than 1,000 characters" in message


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Bald\na.jpg 1\n")
    os.truncate(path, MAX_ANNOTATION_BYTES + 1)  # a sparse file
    message = error_of(lambda: read_attributes(annotation_file(path)))
    assert "has 268,435,457 bytes, expected at most 268,435,456 for an annotation file" in message


@pytest.mark.parametrize("read", [read_attributes, read_partition, read_identities, read_originals])
def test_a_path_that_is_not_a_regular_file_is_refused(read: Callable[..., object], tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, found in (
        ("zero", "found a device, expected a file"),
        ("folder", "found a folder, expected a file"),
        ("pipe", "found a pipe, expected a file"),
        ("dangling", "cannot be read: No such file"),
    ):
        assert f"{name}: {found}" in error_of(lambda name=name: read(annotation_file(tmp_path / name)))


# Partition, identities and the mapping of CelebA-HQ -------------------------------------------------------------------


@pytest.mark.parametrize("number", ["9" * 4400, "9" * 19, "-1", "1.0", "٣", "x", ""])
def test_an_invalid_number_is_refused(number: str, tmp_path: Path) -> None:
    path = tmp_path / "identity_CelebA.txt"
    path.write_text(f"a.jpg 1\nb.jpg {number}\n")
    assert "line 2: found 'b.jpg" in error_of(lambda: read_identities(annotation_file(path)))
    path = tmp_path / "list_eval_partition.csv"
    path.write_text(f"image_id,partition\na.jpg,1\nb.jpg,{number}\n")
    assert "line 3: found 'b.jpg" in error_of(lambda: read_partition(annotation_file(path)))


def test_the_mapping_of_celeba_hq(tmp_path: Path) -> None:
    path = tmp_path / "CelebA-HQ-to-CelebA-mapping.txt"
    path.write_text("idx     orig_idx     orig_file\n0       119613  119614.jpg\n1 99094 099095.jpg\n")
    assert read_originals(annotation_file(path)) == {"0": "119614.jpg", "1": "099095.jpg"}
    path.write_text("0 119613\n")
    assert "line 1: expected two numbers and a photo" in error_of(lambda: read_originals(annotation_file(path)))


# In a zip -------------------------------------------------------------------------------------------------------------


def zip_of(path: Path, **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("a.jpg", b"")
        archive.writestr("list_attr_celeba.csv", f"{HEADER}a.jpg,1,-1\n" + "\n" * 1_000_000)
    return path


def test_an_annotation_file_beyond_the_limit_in_a_zip_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_of(tmp_path / "archive.zip", compression=zipfile.ZIP_DEFLATED)
    file = find_files(path).attributes
    assert file is not None
    assert read_attributes(file).files == ["a.jpg"]
    monkeypatch.setattr("igan_fast.data.celeba_files.MAX_ANNOTATION_BYTES", 1_000_000)
    file = find_files(path).attributes
    assert file is not None
    message = error_of(lambda: read_attributes(file))
    assert "archive.zip: list_attr_celeba.csv: unpacks to 1,000,031 bytes, expected at most 1,000,000" in message

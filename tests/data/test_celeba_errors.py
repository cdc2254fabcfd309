"""``CelebA`` with photos and annotations that do not match, and with damaged files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_celeba import (
    FILES,
    LABELS,
    assert_is_centre_square,
    attribute_csv,
    attribute_text,
    draw_photos,
    write_celeba,
    write_layout,
    zip_photos,
)

from igan_fast.data import build_store, open_source
from igan_fast.data.celeba import CelebA
from igan_fast.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_celeba(tmp_path)


# Mismatches -----------------------------------------------------------------------------------------------------------


def test_rows_without_photo_and_photos_without_row(folder: Path) -> None:
    photos = folder / "img_align_celeba"
    (photos / "000002.jpg").unlink()
    draw_photos(photos, ["000007.jpg", "000008.jpg", "000009.jpg", "000010.jpg"])
    with pytest.warns(UserWarning, match="states|photo") as caught:
        source = CelebA(folder)
    messages = [str(warning.message) for warning in caught]
    assert any("1 row without a photo (000002.jpg)" in message for message in messages)
    assert any(re.search(r"4 photos without a row \(.*007.jpg, .*008.jpg, .*009.jpg, …\)", m) for m in messages)
    np.testing.assert_array_equal(source.labels, LABELS[[0, 2, 3, 4, 5]])
    assert_is_centre_square(source.image(1, 16), photos / "000003.jpg")
    assert "skipped: 1 row without a photo (000002.jpg), 4 photos without a row" in source.describe()
    assert "\n" not in source.describe()
    with pytest.raises(InputError, match="1 row without a photo"):
        CelebA(folder, strict=True)


def test_strict_refuses_photos_without_row(folder: Path) -> None:
    draw_photos(folder / "img_align_celeba", ["000007.jpg"])
    with pytest.raises(InputError, match=r"1 photo without a row \(img_align_celeba/000007.jpg\)"):
        CelebA(folder, strict=True)


def test_a_truncated_attribute_file_is_reported(folder: Path) -> None:
    lines = attribute_text().splitlines()
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines[:-2]))
    with pytest.raises(InputError, match="states that it has 6 rows, but has 4"):
        CelebA(folder, strict=True)
    with pytest.warns(UserWarning, match="states|photo") as caught:
        assert len(CelebA(folder)) == 4
    assert "states that it has 6 rows, but has 4" in str(caught[0].message)


def test_a_row_that_matches_two_photos_is_refused(folder: Path) -> None:
    draw_photos(folder / "img_align_celeba" / "copy", ["000003.jpg"])
    with pytest.raises(InputError, match=r"'000003.jpg' matches 2 photos"):
        CelebA(folder)


def test_two_rows_for_one_photo_are_refused(folder: Path) -> None:
    text = attribute_text().replace("000002.jpg", "000001.png")
    (folder / "list_attr_celeba.txt").write_text(text)
    with pytest.raises(InputError, match=r"two rows name the photo 'img_align_celeba/000001.jpg'"):
        CelebA(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("000003.jpg -1 -1  1", "000003.jpg -1 -1", r"line 5: found 2 values after '000003.jpg', expected 3"),
        ("000003.jpg -1 -1  1", "000003.jpg -1 -1  1 1", r"line 5: found 4 values"),
        ("000003.jpg -1 -1  1", "000003.jpg -1  2  1", r"line 5: Smiling of '000003.jpg' is '2', expected -1, 0 or 1"),
        ("000003.jpg -1 -1  1", "000003.jpg -1 -1 yes", r"line 5: Young of '000003.jpg' is 'yes'"),
        ("000003.jpg", "000001.jpg", r"line 5: '000001.jpg' is already listed in line 3"),
        ("Smiling", "Bald", r"line 2: attribute 'Bald' is named twice"),
        ("000003.jpg", "00000\udcff.jpg", r"line 5: is not UTF-8"),
    ],
)
def test_a_malformed_attribute_file_is_refused(old: str, new: str, message: str, folder: Path) -> None:
    text = attribute_text()
    assert old in text
    path = folder / "list_attr_celeba.txt"
    path.write_bytes(text.replace(old, new).encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message) as caught:
        CelebA(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the names of the attributes"),
        (b"6\r\n", "expected the names of the attributes"),
        (b"6\r\nBald Young\r\n", "none of its 0 rows has a photo|states that it has 6 rows"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "is a web page, not an annotation file"),
    ],
)
def test_an_empty_attribute_file_is_refused(content: bytes, message: str, folder: Path) -> None:
    (folder / "list_attr_celeba.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        CelebA(folder, strict=True)


def test_a_csv_with_a_short_row_is_refused(folder: Path) -> None:
    (folder / "list_attr_celeba.txt").unlink()
    (folder / "list_attr_celeba.csv").write_text(attribute_csv().replace("000004.jpg,1,", "000004.jpg,"))
    with pytest.raises(InputError, match=r"line 5: found 2 values after '000004.jpg', expected 3"):
        CelebA(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list_eval_partition.txt", "000001.jpg 0\n000002.jpg 3\n", "'000002.jpg' is 3, expected 0"),
        ("list_eval_partition.txt", "000001.jpg 0\n000002.jpg\n", "line 2: found '000002.jpg', expected a photo and a"),
        ("list_eval_partition.csv", "image_id,partition\na,0\nb,x\n", "line 3: found 'b x'"),
        ("identity_CelebA.txt", "000001.jpg 5\n000001.jpg 6\n", "line 2: '000001.jpg' is listed a second time"),
    ],
)
def test_malformed_partition_and_identity_files_are_refused(
    name: str, content: str, message: str, folder: Path
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        CelebA(folder)


# Damaged files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Google Drive - Quota exceeded</html>", "is a web page, not a zip"),
        (b"\n  <HTML lang=en>", "is a web page, not a zip"),
        (b"", "is empty, not a zip"),
        (b"7z\xbc\xaf\x27\x1c", "is not a zip"),
    ],
)
def test_a_file_that_is_not_a_zip_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba.zip").write_bytes(content)
    (tmp_path / "list_attr_celeba.txt").write_text(attribute_text())
    with pytest.raises(InputError, match=message) as caught:
        CelebA(tmp_path)
    assert str(tmp_path / "img_align_celeba.zip") in str(caught.value)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_zip_is_refused(share: float, tmp_path: Path) -> None:
    write_layout("flat zip", tmp_path)
    path = tmp_path / "img_align_celeba.zip"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"img_align_celeba.zip: is a truncated or damaged zip \([\d,]+ bytes\)"):
        CelebA(tmp_path)


def test_a_damaged_byte_in_a_zip_is_an_error(tmp_path: Path) -> None:
    write_layout("flat zip", tmp_path)
    path = tmp_path / "img_align_celeba.zip"
    content = bytearray(path.read_bytes())
    middle = content.index(b"img_align_celeba/000003.jpg") + 1000
    content[middle] ^= 0xFF
    path.write_bytes(content)
    source = CelebA(tmp_path)
    with pytest.raises(
        InputError, match=r"img_align_celeba.zip: img_align_celeba/000003.jpg: cannot be unpacked .*CRC"
    ):
        source.image(2, 16)
    source.image(3, 16)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "tiny"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_broken_photo_is_named(damage: str, zipped: bool, folder: Path) -> None:
    photos = folder / "img_align_celeba"
    photo = photos / "000004.jpg"
    whole = photo.read_bytes()
    if damage == "tiny":
        draw_photos(photos, ["000004.jpg"], size=(3, 3))
    else:
        photo.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    if zipped:
        zip_photos(folder / "img_align_celeba.zip", photos)
        shutil.rmtree(photos)
    source = CelebA(folder)
    with pytest.raises(InputError, match=r"img_align_celeba/000004.jpg: is "):
        source.image(3, 16)

    cache = folder / "cache"
    with pytest.raises(InputError, match=r"000004.jpg"):
        build_store(source, 16, cache=cache, strict=True, progress=False)
    with pytest.warns(UserWarning, match=r"1 of 6 pictures are broken: .*000004.jpg"):
        store = build_store(source, 16, cache=cache, progress=False)
    assert store.positions.tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("data", ["nothing-here", "list_attr_celeba.txt"])
def test_a_path_that_is_not_a_folder_is_refused(data: str, folder: Path) -> None:
    with pytest.raises(InputError, match=rf"{data}: (no such folder|a file); expected a folder .* or 'drawn'"):
        open_source(str(folder / data))


def test_a_folder_without_photos_or_attributes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no photos; expected img_align_celeba"):
        CelebA(tmp_path)
    draw_photos(tmp_path / "img_align_celeba")
    with pytest.raises(InputError, match=r"found 6 photos but no attribute file; expected list_attr_celeba.txt"):
        CelebA(tmp_path)


def test_rows_that_match_no_photo_are_refused(folder: Path) -> None:
    (folder / "list_attr_celeba.txt").write_text(attribute_text([f"x{file}" for file in FILES]))
    with pytest.raises(InputError, match=r"none of its 6 rows has a photo among the 6 .*x000001.jpg"):
        CelebA(folder)


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="split: found 'kaggle'"):
        CelebA(folder, split="kaggle")  # type: ignore[arg-type]


def test_the_error_for_a_file_that_is_not_a_photo_shows_no_internals(folder: Path) -> None:
    (photo := next((folder / "img_align_celeba").iterdir())).write_bytes(b"no photo")
    source = CelebA(folder)
    index = next(k for k, name in enumerate(source._names) if name.endswith(photo.name))
    with pytest.raises(InputError, match=f"{photo.name}: is not a photo in a format that is read here .*$"):
        source.image(index, 32)


def test_an_attribute_file_without_rows_is_refused(folder: Path) -> None:
    (folder / "list_attr_celeba.txt").write_text("0\nBald Male\n")
    with pytest.raises(InputError, match="has no rows below its header"):
        CelebA(folder)

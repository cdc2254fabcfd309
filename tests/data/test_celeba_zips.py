"""``CelebA`` from a zip: of Kaggle, written on Windows or macOS, damaged, or a zip bomb."""

from __future__ import annotations

import os
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grey_celeba import (
    ATTRIBUTES,
    FILES,
    KAGGLE,
    PHOTOS,
    assert_complete,
    below,
    photo,
    split_lists,
    write,
    write_zip,
)
from no_warnings import no_warning

from igan_fast.data import build_store
from igan_fast.data.celeba import CelebA
from igan_fast.data.photo_files import ZipPhotos
from igan_fast.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, {**below("img_align_celeba/", PHOTOS), "list_attr_celeba.csv": ATTRIBUTES})


@pytest.mark.parametrize("given", ["the zip", "its folder", "its folder, beside a picture"])
def test_kaggles_archive_without_unpacking(given: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive.zip", KAGGLE)
    if "picture" in given:
        write(tmp_path, {"screenshot.png": photo(9)})
    with no_warning():
        source = CelebA(path if given == "the zip" else tmp_path, strict=True)
    assert_complete(source)
    assert source.identities is not None
    assert source.identities.tolist() == list(range(100, 106))
    assert split_lists(source) == {
        "train": [0, 1, 2],
        "val": [3],
        "test": [4, 5],
    }


def test_the_annotation_files_of_a_given_zip_are_preferred(tmp_path: Path) -> None:
    """The folder around the zip may hold other datasets, such as a folder of downloads."""
    other = "image_id,Other\n" + "".join(f"{name},1\n" for name in FILES)
    write(tmp_path, {"other/list_attr_celeba.csv": other, "other/list_eval_partition.csv": "image_id,partition\nx,0\n"})
    path = write_zip(tmp_path / "archive.zip", KAGGLE)
    assert_complete(CelebA(path, strict=True))
    assert CelebA(tmp_path).attributes == ("Other",)  # if the path is the folder, the folder's files are preferred


@pytest.mark.parametrize("system", [0, 3])
def test_a_zip_from_windows(system: int, tmp_path: Path) -> None:
    files = {name.replace("/", "\\"): content for name, content in KAGGLE.items()}
    path = write_zip(tmp_path / "archive.zip", {"img_align_celeba\\": b"", **files})
    with no_warning():
        assert_complete(CelebA(path, strict=True))


def test_rows_from_windows(folder: Path) -> None:
    write(folder, {"list_attr_celeba.csv": ATTRIBUTES.replace("0000", "img_align_celeba\\0000")})
    assert_complete(CelebA(folder, strict=True))


def test_a_zip_from_a_mac(tmp_path: Path) -> None:
    files = {"./img/.DS_Store": b"x", "__MACOSX/img/._000001.jpg": b"x", "__MACOSX/._list_attr_celeba.csv": b"x"}
    path = write_zip(tmp_path / "faces.zip", {**files, **below("./img/", PHOTOS), "list_attr_celeba.csv": ATTRIBUTES})
    with no_warning():
        assert_complete(CelebA(path, strict=True))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_every_compression(compression: int, tmp_path: Path) -> None:
    large = write_zip(tmp_path / "archive.zip", {**KAGGLE, "large.png": bytes(3_000_000)}, compression)
    photos = ZipPhotos(large)
    assert photos.open("large.png").read() == bytes(3_000_000)
    assert photos.open("list_attr_celeba.csv").read().decode() == ATTRIBUTES


def test_bzip2_is_refused(tmp_path: Path) -> None:
    photos = ZipPhotos(write_zip(tmp_path / "archive.zip", {"a.jpg": bytes(1000)}, zipfile.ZIP_BZIP2))
    with pytest.raises(InputError, match=r"a.jpg: cannot be unpacked: found bzip2 compression, expected deflate"):
        photos.open("a.jpg")


def test_names_in_old_encodings(tmp_path: Path) -> None:
    """Some programs write the file system's bytes as the name, without the flag for UTF-8."""
    path = write_zip(
        tmp_path / "faces.zip", {"img/Andr_X.jpg": PHOTOS["000001.jpg"], "img/Ren_YY.jpg": PHOTOS["000002.jpg"]}
    )
    content = path.read_bytes().replace(b"Andr_X", b"Andr\xe9X").replace(b"Ren_YY", "Ren\u00e9Y".encode())
    path.write_bytes(content)
    rows = b"image_id,Bald,Young\n" + b"Andr\xe9X.jpg,1,1\n" + "Ren\u00e9Y.jpg,-1,1\n".encode()
    write(tmp_path, {"list_attr_celeba.csv": rows})
    assert_complete(CelebA(tmp_path), 2)


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claimed", [1000, 500_000_000])
def test_a_zip_bomb_does_not_fill_the_memory(claimed: int, tmp_path: Path) -> None:
    """The table of contents states a size that is too small, or a size above the limit."""
    size = 60_000_000
    path = write_zip(tmp_path / "faces.zip", {"a.jpg": bytes(size)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", claimed)))
    photos = ZipPhotos(path)
    message = r"a.jpg: (cannot be unpacked|unpacks to 500,000,000 bytes)"
    with memory_below(size // 3), pytest.raises(InputError, match=message):
        photos.open("a.jpg")


def test_encrypted_and_overlapping_entries_are_broken_photos(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "faces.zip", {**below("img/", PHOTOS), "list_attr_celeba.csv": ATTRIBUTES})
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", start + 4)
    content[start + 8] |= 1  # encrypted
    content[second + 42 : second + 46] = content[start + 42 : start + 46]  # at the offset of the first entry
    path.write_bytes(content)
    source = CelebA(path)
    with pytest.raises(InputError, match=r"img/000001.jpg: cannot be unpacked \(.*encrypted, password required"):
        source.image(0, 16)
    with pytest.raises(InputError, match=r"img/000002.jpg: cannot be unpacked"):
        source.image(1, 16)
    with pytest.warns(UserWarning, match="2 of 6 pictures are broken"):
        assert len(build_store(source, 16, cache=tmp_path / "cache", workers=1, progress=False)) == 4


def test_a_damaged_table_of_contents_is_harmless_or_an_input_error(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "faces.zip", {"caf\u00e9/000001.jpg": PHOTOS["000001.jpg"], "list_attr_celeba.csv": ATTRIBUTES}
    )
    whole = path.read_bytes()
    start, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    outcomes = set()
    for position in [*range(start, end, 3), *range(end, len(whole))]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                CelebA(path).image(0, 16)
            outcomes.add("read")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}  # some damage is harmless, such as a wrong date


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: write_zip(root / "faces.zip", {}), "holds no photos"),
        (lambda root: write_zip(root / "faces.zip", {"notes.txt": b""}), "holds no photos"),
        (lambda root: (root / "faces.zip").symlink_to("/dev/zero"), "found a device, expected a file"),
        (lambda root: os.mkfifo(root / "faces.zip"), "found a pipe, expected a file"),
        (lambda root: (root / "faces.zip").symlink_to("nowhere"), "faces.zip: cannot be read: No such file"),
        (lambda root: [write_zip(root / f"{n}.zip", below("img/", PHOTOS)) for n in "ab"], "it has 2 zips: name one"),
        (lambda root: write(root, {"img/a.heic": b"", "img/b.tga": b""}), "left out: 2 pictures in other formats"),
    ],
)
def test_a_folder_without_photos_is_one_line(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path, {"list_attr_celeba.csv": ATTRIBUTES})
    make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        CelebA(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_zip_without_read_permission_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(folder / "faces.zip", below("img/", PHOTOS))

    def refused(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("igan_fast.data.photo_files.open_regular", refused)
    with pytest.raises(InputError, match=r"faces.zip: cannot be read: Permission denied"):
        ZipPhotos(path)


def test_the_later_of_two_zip_entries_with_one_name_wins(tmp_path: Path) -> None:
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in (photo(9), photo(1)):
            archive.writestr("000001.jpg", content)
        archive.writestr("list_attr_celeba.csv", "".join(ATTRIBUTES.splitlines(keepends=True)[:2]))
    assert_complete(CelebA(path), 1)

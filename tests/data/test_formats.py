"""Which files are opened as photos, which are skipped with a warning, and which are refused."""

from __future__ import annotations

import os
import re
import socket
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from photo_patterns import chessboard, load_both_ways
from PIL import EpsImagePlugin, Image, ImageFile

from igan_fast.data import formats, open_source
from igan_fast.data.formats import is_photo_name, is_unsupported_name
from igan_fast.data.photos import expand_photos, load_photo
from igan_fast.errors import InputError

# Formats --------------------------------------------------------------------------------------------------------------


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["face.jpg", "face.png", "face.eps"])
def test_an_eps_file_does_not_start_ghostscript(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    path = tmp_path / name
    path.write_bytes(EPS)
    with pytest.raises(InputError, match="is not a photo in a format that is read here"):
        load_both_ways(path, 32)
    with (
        Image.open(path) as image,
        pytest.raises(InputError, match="my face: found a picture in EPS, expected one in JPEG"),
    ):
        load_photo(image, 32, name="my face")


def test_only_formats_opens_image_files() -> None:
    package = Path(formats.__file__).parents[1]
    openers = {path.name for path in package.rglob("*.py") if re.search(r"Image\.open\(|imread\(", path.read_text())}
    assert openers == {"formats.py"}


@pytest.mark.parametrize("kind", sorted({"TGA", "PCX", "ICO", "SGI", "MSP", "DDS", "ICNS"}))
def test_unlisted_formats_of_pillow_are_refused(kind: str, tmp_path: Path) -> None:
    mode = {"MSP": "1"}.get(kind, "RGBA" if kind in ("ICO", "DDS", "ICNS") else "RGB")
    path = tmp_path / "face.jpg"
    Image.new(mode, (32, 32)).save(path, kind)
    with pytest.raises(InputError, match=r"not a photo in a format|is truncated, broken or not a photo"):
        load_both_ways(path, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "MPO"])
def test_every_supported_format_is_read_with_any_suffix(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    options = {"lossless": True} if kind == "WEBP" else {}
    chessboard(64, 64).convert("RGB").save(path, kind, **options)
    found = load_both_ways(path, 64)
    assert np.abs(found.astype(int) - np.asarray(chessboard(64, 64))[:, :, None]).mean() < 3


@pytest.mark.parametrize(
    ("name", "photo", "other"),
    [
        ("a.jfif", True, False),
        ("a.JPE", True, False),
        ("deep/a.JPeG", True, False),
        ("a.pnm", True, False),
        ("a.heic", False, True),
        ("a.HEIF", False, True),
        ("a.tga", False, True),
        ("a.svg", False, True),
        ("a.dng", False, True),
        ("notes.txt", False, False),
        ("jpg", False, False),
        (".a.jpg", False, False),
        (".hidden/a.jpg", False, False),
        ("__MACOSX/a.jpg", False, False),
        ("__MACOSX/._a.heic", False, False),
        ("./a.jpg", True, False),
    ],
)
def test_names_of_photos_and_unsupported_images(
    name: str, photo: bool, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_has_heif", lambda: False)
    assert is_photo_name(name) == photo
    assert is_unsupported_name(name) == other


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100


def test_heic_says_which_package_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    formats._register_heif.cache_clear()
    for name in ("face.heic", "face.jpg"):  # some phones give HEIC photos the suffix of JPEG
        (tmp_path / name).write_bytes(HEIC)
        with pytest.raises(InputError, match=rf"{name}: is a HEIC photo; after pip install pillow-heif"):
            load_both_ways(tmp_path / name, 32)
    formats._register_heif.cache_clear()


def test_heic_is_read_where_its_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class HeifFile(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size, self.tile = "L", (32, 32), []
            self.im = Image.new("L", (32, 32), 99).im

    package = types.ModuleType("pillow_heif")
    package.register_heif_opener = lambda: Image.register_open("HEIF", HeifFile, lambda head: head[4:8] == b"ftyp")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    formats._register_heif.cache_clear()
    (tmp_path / "face.heic").write_bytes(HEIC)
    assert expand_photos([tmp_path]) == [tmp_path / "face.heic"]
    assert (load_both_ways(tmp_path / "face.heic", 16) == 99).all()
    formats._register_heif.cache_clear()


# Left out of a folder -------------------------------------------------------------------------------------------------


def test_unsupported_formats_are_named_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has_heif", lambda: False)
    for name in ("a.jpg", "b.JFIF", "c.heic", "d.tga", "e.svg", "f.nef", "notes.txt", "._c.heic"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"4 pictures in other formats \(c.heic, d.tga, e.svg, …; after pip") as caught:
        assert expand_photos([tmp_path]) == [tmp_path / "a.jpg", tmp_path / "b.JFIF"]
    assert len(caught) == 1
    assert "pip install pillow-heif" in str(caught[0].message)


def test_a_folder_with_unsupported_formats_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has_heif", lambda: False)
    (tmp_path / "c.heic").touch()
    with pytest.raises(InputError, match=r"holds no photo .* left out: 1 picture in other formats \(c.heic; after pip"):
        expand_photos([tmp_path])


def test_photos_beside_non_regular_files_are_still_found(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.warns(UserWarning, match=r"left out 4 photos that are not regular files \(circle.jpg,"):
        assert expand_photos([tmp_path]) == [tmp_path / "a.jpg"]


def test_names_in_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"Andr\xe9\n.png")
    chessboard(32, 32).save(tmp_path / name)
    assert expand_photos([tmp_path]) == [tmp_path / name]
    assert load_both_ways(tmp_path / name, 32).shape == (32, 32, 3)
    (tmp_path / name).write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"Andr\\xe9\\n.png: is not a photo"):
        load_photo(tmp_path / name, 32)


# Not a regular file ---------------------------------------------------------------------------------------------------


def test_devices_pipes_and_sockets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.jpg"))
        for name, found in (("zero", "a device"), ("pipe", "a pipe"), ("socket", "a socket")):
            with pytest.raises(InputError, match=rf"{name}.jpg: found {found}, expected a file"):
                load_both_ways(tmp_path / f"{name}.jpg", 32)


@pytest.mark.parametrize(("name", "found"), [("x" * 5000, "cannot be read: File name too long"), ("a\0b", "NUL|no ")])
def test_impossible_file_names_are_refused(name: str, found: str) -> None:
    for use in (lambda: load_photo(name, 32), lambda: expand_photos([name]), lambda: open_source(name)):
        with pytest.raises(InputError, match=found):
            use()


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    chessboard(32, 32).save(path)
    os.truncate(path, formats.MAX_FILE_BYTES + 1)  # a sparse file
    with pytest.raises(InputError, match=r"has 314,572,801 bytes, expected at most 314,572,800 for a photo"):
        load_both_ways(path, 32)

"""Which files are opened as photos at all, and what a large or hostile one may cost."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps

from igan_fast.data import formats, open_source, photos
from igan_fast.data.formats import is_other_picture, is_photo_name
from igan_fast.data.photo_files import FolderPhotos, decode_photo
from igan_fast.data.photos import expand_photos, load_photo
from igan_fast.errors import InputError
from igan_fast.files import open_regular


def chessboard(width: int, height: int) -> Image.Image:
    """Grey fields of 20 pixels: averaged or cut anywhere, it can be told what is where."""
    y, x = np.mgrid[:height, :width] // 20
    return Image.fromarray(((x * 7 + y * 31) % 200 + 20).astype(np.uint8))


def slope(width: int, height: int) -> Image.Image:
    """Brighter from the left to the right and from the top to the bottom."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray((x * 150 // width + y * 100 // height).astype(np.uint8))


def both_ways(path: Path, size: int) -> np.ndarray:
    """A photo as the user's and as one of a data set: the same pixels, or the same refusal."""
    as_given, as_trained = [], []
    for results, load in (
        (as_given, lambda: load_photo(path, size)),
        (as_trained, lambda: decode_photo(FolderPhotos(path.parent, [path.name]), path.name, size)),
    ):
        try:
            results.append(load())
        except InputError as error:
            results.append(error)
    if isinstance(as_given[0], InputError):
        assert str(as_trained[0]) == str(as_given[0])
        assert "\n" not in str(as_given[0])
        raise as_given[0]
    np.testing.assert_array_equal(as_given[0], as_trained[0])
    return as_given[0]


# What is opened at all ------------------------------------------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["face.jpg", "face.png", "face.eps"])
def test_no_photo_starts_a_program(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    path = tmp_path / name
    path.write_bytes(EPS)
    with pytest.raises(InputError, match="is not a photo in a format that is read here"):
        both_ways(path, 32)
    with (
        Image.open(path) as image,
        pytest.raises(InputError, match="my face: found a picture in EPS, expected one in JPEG"),
    ):
        load_photo(image, 32, name="my face")


def test_one_place_opens_pictures() -> None:
    package = Path(formats.__file__).parents[1]
    openers = {path.name for path in package.rglob("*.py") if re.search(r"Image\.open\(|imread\(", path.read_text())}
    assert openers == {"formats.py"}


@pytest.mark.parametrize("kind", sorted({"TGA", "PCX", "ICO", "SGI", "MSP", "DDS", "ICNS"}))
def test_what_pillow_reads_but_is_not_listed_is_refused(kind: str, tmp_path: Path) -> None:
    mode = {"MSP": "1"}.get(kind, "RGBA" if kind in ("ICO", "DDS", "ICNS") else "RGB")
    path = tmp_path / "face.jpg"
    Image.new(mode, (32, 32)).save(path, kind)
    with pytest.raises(InputError, match=r"not a photo in a format|is truncated, broken or no photo"):
        both_ways(path, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "MPO"])
def test_every_listed_format_is_read_whatever_its_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    options = {"lossless": True} if kind == "WEBP" else {}
    chessboard(64, 64).convert("RGB").save(path, kind, **options)
    found = both_ways(path, 64)
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
def test_which_names_are_photos(name: str, photo: bool, other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has_heif", lambda: False)
    assert is_photo_name(name) == photo
    assert is_other_picture(name) == other


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100


def test_heic_says_which_package_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    formats._register_heif.cache_clear()
    for name in ("face.heic", "face.jpg"):  # phones name them so too
        (tmp_path / name).write_bytes(HEIC)
        with pytest.raises(InputError, match=rf"{name}: is a HEIC photo; after pip install pillow-heif"):
            both_ways(tmp_path / name, 32)
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
    assert (both_ways(tmp_path / "face.heic", 16) == 99).all()
    formats._register_heif.cache_clear()


# Left out of a folder -------------------------------------------------------------------------------------------------


def test_pictures_of_other_formats_are_named_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has_heif", lambda: False)
    for name in ("a.jpg", "b.JFIF", "c.heic", "d.tga", "e.svg", "f.nef", "notes.txt", "._c.heic"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"4 pictures in other formats \(c.heic, d.tga, e.svg, …; after pip") as caught:
        assert expand_photos([tmp_path]) == [tmp_path / "a.jpg", tmp_path / "b.JFIF"]
    assert len(caught) == 1
    assert "pip install pillow-heif" in str(caught[0].message)


def test_a_folder_of_nothing_but_other_formats_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has_heif", lambda: False)
    (tmp_path / "c.heic").touch()
    with pytest.raises(InputError, match=r"holds no photo .* left out: 1 picture in other formats \(c.heic; after pip"):
        expand_photos([tmp_path])


def test_a_link_to_nothing_beside_photos_loses_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.warns(UserWarning, match=r"left out 4 photos with no regular file behind the name \(circle.jpg,"):
        assert expand_photos([tmp_path]) == [tmp_path / "a.jpg"]


def test_names_in_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"Andr\xe9\n.png")
    chessboard(32, 32).save(tmp_path / name)
    assert expand_photos([tmp_path]) == [tmp_path / name]
    assert both_ways(tmp_path / name, 32).shape == (32, 32, 3)
    (tmp_path / name).write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"Andr\\xe9\\n.png: is not a photo"):
        load_photo(tmp_path / name, 32)


# What is no regular file ----------------------------------------------------------------------------------------------


def test_devices_pipes_and_sockets_are_no_photos(tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.jpg"))
        for name, found in (("zero", "a device"), ("pipe", "a pipe"), ("socket", "a socket")):
            with pytest.raises(InputError, match=rf"{name}.jpg: found {found}, expected a file"):
                both_ways(tmp_path / f"{name}.jpg", 32)


@pytest.mark.parametrize(("name", "found"), [("x" * 5000, "cannot be read: File name too long"), ("a\0b", "NUL|no ")])
def test_names_that_no_file_can_have(name: str, found: str) -> None:
    for use in (lambda: load_photo(name, 32), lambda: expand_photos([name]), lambda: open_source(name)):
        with pytest.raises(InputError, match=found):
            use()


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    chessboard(32, 32).save(path)
    os.truncate(path, formats.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(InputError, match=r"is a file of 314,572,801 bytes; photos of up to 314,572,800 are read"):
        both_ways(path, 32)


# Large ones -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 10,000 pixels were 89 million."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize(("side", "progressive"), [(120, False), (160, False), (400, False), (640, False), (120, True)])
def test_a_jpeg_beyond_the_limit_is_reduced_while_it_is_decoded(
    side: int, progressive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Pillow would warn, where it would raise, and where an eighth is still more than the limit."""
    decoded: list[int] = []
    load = ImageFile.ImageFile.load

    def watched(image: ImageFile.ImageFile) -> object:
        decoded.append(image.width * image.height)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    picture = slope(side, side).convert("RGB")
    path = tmp_path / "large.jpg"
    picture.save(path, quality=95, progressive=progressive)
    found = both_ways(path, 16).astype(int)
    assert max(decoded) <= 10_000
    assert min(decoded) >= 16 * 16
    expected = np.asarray(picture.resize((16, 16), Image.Resampling.BOX))
    assert np.abs(found - expected).max() <= 3


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG2000", "GIF", "BMP"])
def test_another_format_beyond_the_limit_is_refused_with_its_name(kind: str, tmp_path: Path) -> None:
    limit = {"WEBP": 5_000, "JPEG2000": 3_333}.get(kind, 10_000)  # their decoders keep copies
    message = rf"large.png: has more than the ({limit:,}|10,000) pixels of PIL.Image.MAX_IMAGE_PIXELS"
    below = int(limit**0.5)
    for side in (below + 1, 120, 160):
        chessboard(side, side).save(tmp_path / "large.png", kind)
        with pytest.raises(InputError, match=message):
            both_ways(tmp_path / "large.png", 16)
    chessboard(below, below).save(tmp_path / "large.png", kind)
    both_ways(tmp_path / "large.png", 16)


@pytest.mark.usefixtures("small_limit")
def test_a_picture_that_the_caller_has_in_memory_may_be_larger() -> None:
    assert load_photo(chessboard(200, 200), 16).shape == (16, 16, 3)


@pytest.mark.usefixtures("small_limit")
def test_a_jpeg_that_must_be_held_whole_has_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_COEFFICIENT_BYTES", 50_000)
    path = tmp_path / "large.jpg"
    chessboard(200, 200).save(path, progressive=True)  # 80,000 bytes of coefficients
    with pytest.raises(InputError, match="namely 40,000, and is progressive"):
        both_ways(path, 16)
    chessboard(120, 120).save(path, progressive=True)
    both_ways(path, 16)
    chessboard(200, 200).save(path)
    both_ways(path, 16)


@pytest.mark.parametrize(("progressive", "kind"), [(False, "JPEG"), (True, "JPEG"), (False, "PNG"), (False, "WEBP")])
def test_the_limit_is_the_callers_to_lift(
    progressive: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    chessboard(200, 200).convert("RGB").save(tmp_path / "photo", kind, progressive=progressive)
    with open_regular(tmp_path / "photo") as stream, formats.open_image(stream, "photo") as image:
        assert image.size == (200, 200)


def test_a_jpeg_whose_colours_come_one_after_the_other_is_held_whole_too(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    Image.new("RGB", (32, 32), (9, 99, 199)).save(path)
    content = path.read_bytes()
    whole = content.index(b"\xff\xda")
    # The first scan says that it holds one colour of the three.
    path.write_bytes(content[:whole] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + content[whole + 14 :])
    for file, expected in ((content, True), (path.read_bytes(), False)):
        stream = io.BytesIO(file)
        image = formats.JpegImageFile(stream)
        assert formats._comes_in_one_scan(image, stream) is expected


def test_a_jpeg_of_a_hundred_scans_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    chessboard(32, 32).save(path, progressive=True)
    content = path.read_bytes()
    both_ways(path, 16)
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:last] + content[last:-2] * 120 + content[-2:])
    with pytest.raises(InputError, match=r"is a JPEG of 1\d\d scans, expected at most 100"):
        both_ways(path, 16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "I;16", "I", "CMYK"])
def test_a_large_picture_is_reduced_in_pieces(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = slope(430, 301)
    if mode in ("I;16", "I"):
        values = np.asarray(picture).astype(np.uint16 if mode == "I;16" else np.int32) * 257
        image = Image.fromarray(values)
    else:
        image = picture.convert(mode)
    assert image.mode == mode
    if mode in ("RGBA", "LA"):
        image.putalpha(200)
    expected = load_photo(image, 16).astype(int)
    monkeypatch.setattr(photos, "MAX_WHOLE_PIXELS", 1000)
    monkeypatch.setattr(photos, "PIECE_PIXELS", 5000)
    converted: list[int] = []
    to_rgb = photos._to_rgb
    monkeypatch.setattr(photos, "_to_rgb", lambda piece, name: converted.append(piece.height) or to_rgb(piece, name))
    found = load_photo(image, 16).astype(int)
    assert len(converted) > 5
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_picture_is_turned_upright_too(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    slope(300, 200).save(path, exif=exif)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    expected = load_photo(np.asarray(upright), 16).astype(int)
    monkeypatch.setattr(photos, "MAX_WHOLE_PIXELS", 1000)
    assert np.abs(load_photo(path, 16).astype(int) - expected).max() <= 3


def test_a_png_that_claims_more_than_it_has(tmp_path: Path) -> None:
    """A chunk of two gigabytes in a file of a hundred bytes."""
    header = struct.pack(">2I5B", 32, 32, 8, 2, 0, 0, 0)
    ihdr = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "face.png").write_bytes(b"\x89PNG\r\n\x1a\n" + ihdr + struct.pack(">I", 2**31 - 1) + b"tEXtabc")
    with pytest.raises(InputError, match=r"face.png: is truncated, broken or no photo"):
        both_ways(tmp_path / "face.png", 32)

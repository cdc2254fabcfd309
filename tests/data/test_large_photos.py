"""Photos with many pixels: which are decoded at a reduced size or in strips, and which are refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from photo_patterns import brightness_gradient, chessboard, load_both_ways
from PIL import Image, ImageFile, ImageOps

from igan_fast.data import formats, photos, pixels
from igan_fast.data.photos import load_photo
from igan_fast.errors import InputError
from igan_fast.files import open_regular


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set Pillow's limit to 10,000 pixels; by default it is 89 million."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize(("side", "progressive"), [(120, False), (160, False), (400, False), (640, False), (120, True)])
def test_a_jpeg_beyond_the_limit_is_reduced_while_it_is_decoded(
    side: int, progressive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes for which Pillow would warn, for which it would raise, and of which 1/8 is still above the limit."""
    decoded: list[int] = []
    load = ImageFile.ImageFile.load

    def watched(image: ImageFile.ImageFile) -> object:
        decoded.append(image.width * image.height)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    pattern = brightness_gradient(side, side).convert("RGB")
    path = tmp_path / "large.jpg"
    pattern.save(path, quality=95, progressive=progressive)
    found = load_both_ways(path, 16).astype(int)
    assert max(decoded) <= 10_000
    assert min(decoded) >= 16 * 16
    expected = np.asarray(pattern.resize((16, 16), Image.Resampling.BOX))
    assert np.abs(found - expected).max() <= 3


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG2000", "GIF", "BMP"])
def test_other_formats_beyond_the_limit_are_refused(kind: str, tmp_path: Path) -> None:
    limit = {"WEBP": 5_000, "JPEG2000": 3_333}.get(kind, 10_000)  # the limit is lower where decoders hold copies
    message = rf"large.png: has ([\d,]+|too many) pixels, expected at most ({limit:,}|10,000) \((1/[23] of )?PIL.Image"
    below = int(limit**0.5)
    for side in (below + 1, 120, 160):
        chessboard(side, side).save(tmp_path / "large.png", kind)
        with pytest.raises(InputError, match=message):
            load_both_ways(tmp_path / "large.png", 16)
    chessboard(below, below).save(tmp_path / "large.png", kind)
    load_both_ways(tmp_path / "large.png", 16)


@pytest.mark.usefixtures("small_limit")
def test_an_image_in_memory_may_exceed_the_limit() -> None:
    assert load_photo(chessboard(200, 200), 16).shape == (16, 16, 3)


@pytest.mark.usefixtures("small_limit")
def test_a_progressive_jpeg_has_a_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_COEFFICIENT_BYTES", 50_000)
    path = tmp_path / "large.jpg"
    chessboard(200, 200).save(path, progressive=True)  # 80,000 bytes of coefficients
    with pytest.raises(
        InputError,
        match="has 40,000 pixels and is progressive, so all of it would have to be held in memory, expected at most",
    ):
        load_both_ways(path, 16)
    chessboard(120, 120).save(path, progressive=True)
    load_both_ways(path, 16)
    chessboard(200, 200).save(path)
    load_both_ways(path, 16)


@pytest.mark.parametrize(("progressive", "kind"), [(False, "JPEG"), (True, "JPEG"), (False, "PNG"), (False, "WEBP")])
def test_the_caller_may_lift_the_limit(
    progressive: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    chessboard(200, 200).convert("RGB").save(tmp_path / "photo", kind, progressive=progressive)
    with open_regular(tmp_path / "photo") as stream, formats.open_image(stream, "photo") as image:
        assert image.size == (200, 200)


def test_a_jpeg_with_separate_scans_for_each_colour_has_no_single_scan(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    Image.new("RGB", (32, 32), (9, 99, 199)).save(path)
    content = path.read_bytes()
    whole = content.index(b"\xff\xda")
    # The header of the first scan now says that the scan holds one of the three colour components.
    path.write_bytes(content[:whole] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + content[whole + 14 :])
    for file, expected in ((content, True), (path.read_bytes(), False)):
        stream = io.BytesIO(file)
        image = formats.JpegImageFile(stream)
        assert formats._has_single_scan(image, stream) is expected


def test_a_jpeg_of_a_hundred_scans_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    chessboard(32, 32).save(path, progressive=True)
    content = path.read_bytes()
    load_both_ways(path, 16)
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:last] + content[last:-2] * 120 + content[-2:])
    with pytest.raises(InputError, match=r"is a JPEG of 1\d\d scans, expected at most 100"):
        load_both_ways(path, 16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "I;16", "I", "CMYK"])
def test_a_large_image_is_reduced_in_strips(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = brightness_gradient(430, 301)
    if mode in ("I;16", "I"):
        values = np.asarray(pattern).astype(np.uint16 if mode == "I;16" else np.int32) * 257
        image = Image.fromarray(values)
    else:
        image = pattern.convert(mode)
    assert image.mode == mode
    if mode in ("RGBA", "LA"):
        image.putalpha(200)
    expected = load_photo(image, 16).astype(int)
    monkeypatch.setattr(photos, "MAX_WHOLE_PIXELS", 1000)
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 5000)
    converted: list[int] = []
    to_rgb = pixels.to_rgb
    monkeypatch.setattr(pixels, "to_rgb", lambda piece, name: converted.append(piece.height) or to_rgb(piece, name))
    found = load_photo(image, 16).astype(int)
    assert len(converted) > 5
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_image_gets_its_exif_orientation(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    brightness_gradient(300, 200).save(path, exif=exif)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    expected = load_photo(np.asarray(upright), 16).astype(int)
    monkeypatch.setattr(photos, "MAX_WHOLE_PIXELS", 1000)
    assert np.abs(load_photo(path, 16).astype(int) - expected).max() <= 3


def test_a_png_with_a_wrong_chunk_size(tmp_path: Path) -> None:
    """A file of 100 bytes that claims to have a chunk of 2 GB."""
    header = struct.pack(">2I5B", 32, 32, 8, 2, 0, 0, 0)
    ihdr = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "face.png").write_bytes(b"\x89PNG\r\n\x1a\n" + ihdr + struct.pack(">I", 2**31 - 1) + b"tEXtabc")
    with pytest.raises(InputError, match=r"face.png: is truncated, broken or not a photo"):
        load_both_ways(tmp_path / "face.png", 32)

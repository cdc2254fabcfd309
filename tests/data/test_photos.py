"""``load_photo`` for all sizes, shapes and colour modes, and ``expand_photos``."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igan_fast.data.photos import expand_photos, load_photo
from igan_fast.errors import InputError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants(width: int = 40, height: int = 40) -> Image.Image:
    """An image with a red and a green quadrant above a blue and a white one."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    return Image.fromarray(pixels)


def corners(square: np.ndarray) -> list[tuple[int, ...]]:
    """The colours at the top left, top right, bottom left and bottom right."""
    return [tuple(int(value) for value in square[y, x]) for y in (0, -1) for x in (0, -1)]


def saved(tmp_path: Path, image: Image.Image, name: str = "photo.png", **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("size", [1, 16, 40, 61])
def test_the_result_is_a_contiguous_rgb_square(tmp_path: Path, size: int) -> None:
    square = load_photo(saved(tmp_path, quadrants()), size)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    assert square.flags.c_contiguous
    assert square.flags.writeable


def test_a_photo_of_the_right_size_is_unchanged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(pixels))
    for photo in (path, str(path), Image.fromarray(pixels), pixels, pixels[::-1][::-1], np.asfortranarray(pixels)):
        np.testing.assert_array_equal(load_photo(photo, 24), pixels)


@pytest.mark.parametrize(("width", "height"), [(50, 20), (20, 50), (51, 20), (20, 21)])
def test_the_centre_square_is_cropped(width: int, height: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = (height - 20) // 2, (width - 20) // 2
    np.testing.assert_array_equal(load_photo(pixels, 20), pixels[top : top + 20, left : left + 20])


def test_an_aligned_celeba_photo_is_cropped_as_in_training() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load_photo(pixels, 178), pixels[20:198])


def test_reduction_averages_instead_of_sampling() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255  # sampling at regular intervals would give black or white
    assert np.abs(load_photo(stripes, 16).astype(int) - 128).max() <= 4  # the edges are not exactly grey


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    # The pixels that a camera stores for each orientation: the inverse of the transposition that a viewer applies.
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(quadrants()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if name.endswith("jpg") else {}
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), name, exif=exif, **options)
    np.testing.assert_allclose(corners(load_photo(path, 40)), [RED, GREEN, BLUE, WHITE], atol=3)


@pytest.mark.parametrize("name", ["photo.png", "photo.tif", "photo.jpg", "photo.bmp"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, name: str) -> None:
    square = load_photo(saved(tmp_path, Image.new("L", (20, 20), 77), name), 20)
    np.testing.assert_array_equal(square, np.full((20, 20, 3), 77))


def test_transparent_pixels_are_blended_with_white(tmp_path: Path) -> None:
    half_red = load_photo(saved(tmp_path, Image.new("RGBA", (20, 20), (255, 0, 0, 128))), 20)
    np.testing.assert_allclose(half_red[0, 0], [255, 127, 127], atol=1)
    half_black = load_photo(saved(tmp_path, Image.new("LA", (20, 20), (0, 128))), 20)
    np.testing.assert_allclose(half_black[0, 0], [127, 127, 127], atol=1)
    invisible = load_photo(np.zeros((20, 20, 4), np.uint8), 20)
    np.testing.assert_array_equal(invisible, np.full((20, 20, 3), 255))


def test_palette_images_with_and_without_transparency(tmp_path: Path) -> None:
    palette = quadrants().quantize(4)
    assert palette.mode == "P"
    assert corners(load_photo(saved(tmp_path, palette), 40)) == [RED, GREEN, BLUE, WHITE]
    red = palette.getpixel((0, 0))
    see_through = saved(tmp_path, palette, "see-through.png", transparency=red)
    assert corners(load_photo(see_through, 40)) == [WHITE, GREEN, BLUE, WHITE]


def test_black_and_white_cmyk_and_ycbcr(tmp_path: Path) -> None:
    assert corners(load_photo(saved(tmp_path, Image.new("1", (20, 20), 1)), 20)) == [WHITE] * 4
    cyan = Image.new("CMYK", (20, 20), (255, 0, 0, 0))
    for name in ("cyan.jpg", "cyan.tif"):
        np.testing.assert_allclose(load_photo(saved(tmp_path, cyan, name), 20)[9, 9], [0, 255, 255], atol=3)
    np.testing.assert_allclose(load_photo(quadrants().convert("YCbCr"), 40)[0, 0], RED, atol=2)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, mode: str) -> None:
    values = np.repeat(np.array([0, 257 * 10, 257 * 128, 65535], np.uint16), 5)[None].repeat(20, axis=0)
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (20, 20), values.astype(dtype).tobytes())
    photos: list[Image.Image | Path] = [image, saved(tmp_path, image, "photo.tif")]
    if mode == "I;16":
        photos.append(saved(tmp_path, image, "photo.png"))
    for photo in photos:
        assert load_photo(photo, 20)[0, ::5].tolist() == [[v] * 3 for v in (0, 10, 128, 255)]


def test_16_bit_colour(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">3H", 65535, 257 * 100, 0) * 20  # Pillow cannot write 16 bits a channel
    path = tmp_path / "deep.png"
    path.write_bytes(png(20, 20, depth=16, data=row * 20))
    assert load_photo(path, 20)[0, 0].tolist() == [255, 100, 0]


def test_values_beyond_16_bits_and_floats_are_refused() -> None:
    with pytest.raises(InputError, match="0 to 70000, expected 16 bits"):
        load_photo(Image.fromarray(np.linspace(0, 70000, 400).astype(np.int32).reshape(20, 20)), 20)
    with pytest.raises(InputError, match="floating-point"):
        load_photo(Image.new("F", (20, 20), 0.5), 20)


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE)]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert corners(load_photo(path, 20)) == [RED] * 4


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "photo.tif"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_photo_is_named(tmp_path: Path, name: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = saved(tmp_path, noise, name)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match=rf"{name}: (is truncated, broken or not a photo|not a photo)"):
        load_photo(path, 32)


def test_an_opened_pil_image_that_is_truncated(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = saved(tmp_path, noise, "photo.jpg")
    path.write_bytes(path.read_bytes()[:-200])
    with Image.open(path) as image, pytest.raises(InputError, match="my face: is truncated"):
        load_photo(image, 32, name="my face")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html></html>", b"\x00" * 1000, b"\xff\xd8\xff"])
def test_a_file_that_is_not_a_photo_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"fake.jpg: (not a photo|is truncated, broken or not a photo)"):
        load_photo(path, 32)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg: no such file"):
        load_photo(tmp_path / "gone.jpg", 32)
    with pytest.raises(InputError, match="is a folder, expected a photo"):
        load_photo(tmp_path, 32)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (15, 400), (400, 15)])
def test_a_tiny_photo_is_refused(tmp_path: Path, width: int, height: int) -> None:
    path = saved(tmp_path, Image.new("RGB", (width, height)))
    with pytest.raises(InputError, match=rf"photo.png: is {width}×{height} pixels, expected at least 16×16"):
        load_photo(path, 32)
    assert load_photo(Image.new("RGB", (16, 16), RED), 32)[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("side", [10_000, 60_000])  # Pillow itself warns about the first and raises for the second
def test_a_decompression_bomb_is_refused_before_it_unpacks(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, depth=8, data=b"\0" * 1000))
    with pytest.raises(
        InputError, match=r"bomb\.png: has (100,000,000|too many) pixels, expected at most 89,478,485 \(PIL"
    ):
        load_photo(path, 32)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((20, 20, 3), np.float32),
        np.zeros((20, 20, 3), np.uint16),
        np.zeros((3, 20, 20), np.uint8),
        np.zeros((20, 20, 2), np.uint8),
        np.zeros((20,), np.uint8),
        np.zeros((1, 20, 20, 3), np.uint8),
        np.zeros((0, 20, 3), np.uint8),
    ],
)
def test_arrays_of_other_shapes_and_dtypes_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="face 7"):
        load_photo(array, 16, name="face 7")


def test_grey_arrays_with_and_without_a_channel() -> None:
    grey = np.random.default_rng(4).integers(0, 256, (20, 20), dtype=np.uint8)
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(load_photo(grey, 20), expected)
    np.testing.assert_array_equal(load_photo(grey[:, :, None], 20), expected)


def test_other_types_and_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="found a BytesIO, expected a path"):
        load_photo(io.BytesIO(), 16)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="size: found 0"):
        load_photo(quadrants(), 0)


def test_the_given_image_is_not_modified() -> None:
    image = quadrants().convert("RGBA")
    before = image.copy()
    load_photo(image, 16)
    assert image == before


def test_expand_photos(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deeper.png").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "c.webp", "._a.png", "notes.txt"):
        (folder / name).touch()
    single = tmp_path / "z.unknown"
    single.touch()
    expected = [single, folder / "a.png", folder / "b.JPG", folder / "c.webp"]
    assert expand_photos([single, folder, str(folder / "a.png")]) == expected


def test_expand_photos_refuses_missing_paths_and_folders_without_photos(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="no photo is given"):
        expand_photos([])
    with pytest.raises(InputError, match="gone: no such file or folder"):
        expand_photos([tmp_path / "gone"])
    with pytest.raises(InputError, match="this folder holds no photo"):
        expand_photos([tmp_path])


def png(width: int, height: int, *, depth: int, data: bytes) -> bytes:
    """An RGB PNG file with the given header, whether or not ``data`` matches it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        expand_photos([tmp_path / "pipe.jpg"])

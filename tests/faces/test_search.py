"""Choosing, aligning and reading photos, with a detector that is told where the faces are."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from known_faces import KnownFaces
from PIL import Image

from igan_fast.data.photos import load_photo
from igan_fast.errors import InputError, PackageMissing
from igan_fast.faces import Detection, Face, FaceSearch, Similarity, aligned, by_photo, each_photo, find_faces
from igan_fast.faces import search as search_module

pytestmark = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")

LEFT, BIG, RIGHT = Similarity(0.5, 20 + 30j), Similarity(0.9, 120 + 40j), Similarity(0.4, 300 + 60j)
#: CelebA's place in a photo of 300×400 pixels.
IN_PLACE = Similarity(300 / 178, 50j)


def photo(width: int = 400, height: int = 300) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise PackageMissing("faces: the detector cannot be loaded; pip install mtcnn-runtime onnxruntime")

    monkeypatch.setattr(search_module, "default_detector", missing)


def test_faces_are_numbered_from_left_to_right() -> None:
    faces = find_faces(photo(), KnownFaces(BIG, RIGHT, LEFT))
    assert [face.number for face in faces] == [1, 2, 3]
    for face, place in zip(faces, (LEFT, BIG, RIGHT), strict=True):
        assert face.placement.factor == pytest.approx(place.factor)
        assert face.placement.shift == pytest.approx(place.shift)
        assert face.size == pytest.approx(178 * place.scale)
        np.testing.assert_allclose(face.corners, place([[0, 0], [178, 0], [178, 178], [0, 178]]))
    assert find_faces(photo(), KnownFaces()) == []


@pytest.mark.parametrize("value", [7.0, np.nan, np.inf])
def test_a_face_whose_landmarks_are_one_point_is_none(value: float) -> None:
    class Point(KnownFaces):
        def find(self, image: np.ndarray) -> list[Detection]:
            return [Detection(np.full((5, 2), value), 1.0), *super().find(image)]

    assert len(find_faces(photo(), Point(LEFT))) == 1


def test_a_face_of_a_few_pixels_is_none() -> None:
    for side, count in ((1, 0), (15.9, 0), (16.1, 1)):
        assert len(find_faces(photo(), KnownFaces(Similarity(side / 178, 100 + 100j)))) == count


def test_a_large_photo_is_searched_in_a_small_copy() -> None:
    place = Similarity(8 + 1j, 900 + 500j)
    detector = KnownFaces(place, scale=5120 / 1280)
    (face,) = find_faces(photo(5120, 3000), detector)
    assert detector.seen == [(750, 1280, 3)]
    assert face.placement.factor == pytest.approx(place.factor)
    assert face.placement.shift == pytest.approx(place.shift)


def test_the_small_copy_shows_the_same_places() -> None:
    """A bright disc at a known place in a photo of an odd size."""
    whole = np.zeros((2999, 4001, 3), np.uint8)
    y, x = np.ogrid[:2999, :4001]
    whole[(x - 3210) ** 2 + (y - 1750) ** 2 < 120**2] = 255
    small, scale = search_module.open_whole(whole).overview(1280)
    assert max(small.shape) in (1279, 1280)
    assert scale == pytest.approx(4001 / 1280)
    weights = small[..., 0] / small[..., 0].sum()
    rows, columns = np.indices(weights.shape)
    assert ((columns + 0.5) * weights).sum() * scale == pytest.approx(3210.5, abs=0.5)
    assert ((rows + 0.5) * weights).sum() * scale == pytest.approx(1750.5, abs=0.5)


@pytest.mark.parametrize("size", [(30_000, 17), (17, 30_000), (30_000, 24), (1281, 16)], ids=str)
def test_the_small_copy_of_a_very_long_photo_shows_all_of_it(size: tuple[int, int]) -> None:
    small, scale = search_module.open_whole(Image.new("RGB", size, (10, 20, 30))).overview(1280)
    width, height = (max(1, int(side / scale)) for side in size)
    assert small.shape == pytest.approx((height, width, 3), abs=1)
    np.testing.assert_array_equal(small, np.broadcast_to(np.uint8([10, 20, 30]), small.shape))


@pytest.mark.parametrize("degrees", [0, 17, -35])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_the_aligned_face_is_the_one_that_was_placed(scale: float, degrees: float) -> None:
    """A smooth picture is put into a photo under a known transform, and comes out as it was."""
    original = Image.fromarray(photo(178, 178)[:, :178])
    place = Similarity(scale * np.exp(1j * np.deg2rad(degrees)), 200 + 120j)
    into = place.inverse().affine()
    picture = original.transform((700, 600), Image.Transform.AFFINE, into, Image.Resampling.BICUBIC)
    found = aligned(picture, Face(1, place, 1.0), 178).astype(int)
    inner = np.s_[8:-8, 8:-8]
    assert np.abs(found - np.asarray(original))[inner].mean() < 2
    shifted = aligned(picture, Face(1, Similarity(place.factor, place.shift + 2), 1.0), 178).astype(int)
    assert np.abs(shifted - np.asarray(original))[inner].mean() > 4


def test_a_face_outside_of_the_photo_is_refused() -> None:
    with pytest.raises(ValueError, match="is outside of the photo"):
        aligned(photo(), Face(1, Similarity(0.5, 1000), 1.0), 32)


@pytest.mark.parametrize(
    ("face", "numbers"), [("largest", [2]), ("all", [1, 2, 3]), (1, [1]), (3, [3])], ids=lambda value: str(value)
)
def test_the_choice_of_faces(face: str | int, numbers: list[int]) -> None:
    opened = FaceSearch(64, "auto", face, KnownFaces(BIG, RIGHT, LEFT)).open(photo())
    assert [each.number for each in opened.faces] == numbers
    assert opened.found == 3
    assert opened.crops.shape == (len(numbers), 64, 64, 3)
    for crop, each in zip(opened.crops, opened.faces, strict=True):
        np.testing.assert_array_equal(crop, aligned(photo(), each, 64))
    assert opened.pixels == 400 * 300


@pytest.mark.parametrize("align", ["auto", "always"])
def test_no_face_and_too_few_faces_are_one_line(align: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.png"
    Image.fromarray(photo()).save(path)
    with pytest.raises(
        InputError, match=r"holiday.png: no face was found; --align off .* takes the photo's centre square"
    ):
        FaceSearch(64, align, detector=KnownFaces()).open(path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"holiday.png: 1 face was found, so there is no face 2"):
        FaceSearch(64, align, 2, KnownFaces(BIG)).open(path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="photo 7: 2 faces were found, so there is no face 5"):
        FaceSearch(64, align, 5, KnownFaces(BIG, LEFT)).open(photo(), name="photo 7")  # type: ignore[arg-type]


def test_an_aligned_crop_stays_as_it_is() -> None:
    """CelebA's own size and the model's own size are not even searched."""
    for pixels in (photo(178, 218), photo(64, 64)):
        detector = KnownFaces(LEFT)
        opened = FaceSearch(64, detector=detector).open(pixels)
        assert (opened.faces, opened.found) == ((), 0)
        np.testing.assert_array_equal(opened.crops[0], load_photo(pixels, 64))
        edited = Image.new("RGB", (64, 64))
        assert opened.finish([edited]) is edited
        assert not detector.seen
        for face in ("all", 1):
            assert FaceSearch(64, face=face, detector=detector).open(pixels).faces == ()
        with pytest.raises(InputError, match="photo: is an aligned crop of one face, found face 2; expected face 1"):
            FaceSearch(64, face=2, detector=detector).open(pixels)
        assert FaceSearch(64, "always", detector=detector).open(pixels).found == 1


def test_a_face_that_is_aligned_already_is_not_moved() -> None:
    pixels = photo(300, 400)
    near = Similarity(IN_PLACE.factor * 1.03 * np.exp(0.02j), IN_PLACE.shift + 2)
    for places in ([IN_PLACE], [near], [Similarity(0.2, 3 + 3j), near]):
        opened = FaceSearch(64, detector=KnownFaces(*places)).open(pixels)
        assert opened.found == len(places)
        assert opened.faces[0].placement == IN_PLACE
        np.testing.assert_array_equal(opened.crops[0], load_photo(pixels, 64))
        result = np.asarray(opened.finish([Image.new("RGB", (64, 64), "black")]))  # in the photo, as any other face
        assert result.shape == pixels.shape
        assert result[200, 150].tolist() == [0, 0, 0]
    far = Similarity(IN_PLACE.factor, IN_PLACE.shift + 40)
    for align, place in (("auto", far), ("always", near)):
        opened = FaceSearch(64, align, detector=KnownFaces(place)).open(pixels)  # type: ignore[arg-type]
        assert opened.faces[0].placement.shift == pytest.approx(place.shift)
        np.testing.assert_array_equal(opened.crops[0], aligned(pixels, opened.faces[0], 64))


def test_off_takes_the_centre_square() -> None:
    detector = KnownFaces(BIG)
    opened = FaceSearch(64, "off", detector=detector).open(photo())
    np.testing.assert_array_equal(opened.crops[0], load_photo(photo(), 64))
    assert not detector.seen


def test_edited_faces_return_into_the_photo() -> None:
    opened = FaceSearch(64, "auto", "all", KnownFaces(LEFT, BIG)).open(photo())
    edited = [Image.new("RGB", (64, 64), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    result = np.asarray(opened.finish(edited))
    assert result.shape == (300, 400, 3)
    for place, colour in ((LEFT, [255, 0, 0]), (BIG, [0, 0, 255])):
        x, y = place([89, 89]).astype(int)
        assert result[y, x].tolist() == colour
    untouched = opened.finish([Image.fromarray(crop) for crop in opened.crops], keep_details=True)
    np.testing.assert_array_equal(np.asarray(untouched), photo())


def test_without_a_detector_auto_warns_and_always_fails(no_detector: None) -> None:
    search = FaceSearch(64)
    with pytest.warns(
        UserWarning, match=r"pip install mtcnn-runtime onnxruntime; until then photos are cut to their cent"
    ):
        opened = search.open(photo())
    np.testing.assert_array_equal(opened.crops[0], load_photo(photo(), 64))
    search.open(photo())  # without a second warning, which would be an error here
    FaceSearch(64).open(photo(178, 218))  # no detector is needed
    with pytest.raises(PackageMissing, match=r"pip install mtcnn-runtime onnxruntime"):
        FaceSearch(64, "always")


def test_wrong_choices_are_refused() -> None:
    for align, face, message in (
        ("sometimes", "largest", "align: found 'sometimes', expected 'auto', 'always' or 'off'"),
        ("auto", "smallest", "face: found 'smallest', expected 'largest', 'all' or the number of a face from 1"),
        ("auto", 0, "face: found 0"),
        ("auto", -1, "face: found -1"),
        ("auto", True, "face: found True"),
        ("auto", 1.0, "face: found 1.0"),
        ("off", "all", "face: found 'all' with align 'off', which searches no faces"),
    ):
        with pytest.raises(InputError, match=message):
            FaceSearch(64, align, face)  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright_first(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.png"
    Image.fromarray(photo()).save(path, exif=exif)
    upright = load_photo(path, 16)  # which is tested for each orientation
    opened = FaceSearch(64, detector=KnownFaces(LEFT)).open(path)
    assert opened.whole is not None
    result = opened.finish([Image.fromarray(opened.crops[0])], keep_details=True)
    assert result.size == ((400, 300) if orientation <= 4 else (300, 400))
    assert np.abs(load_photo(result, 16).astype(int) - upright).max() <= 1
    assert 0x0112 not in result.getexif()


def giant_jpeg(path: Path, side: int = 10_400) -> None:
    """108 megapixels of grey with a white square, in half a megabyte."""
    picture = Image.new("L", (side, side), 90)
    picture.paste(255, (4000, 2000, 7000, 4000))
    picture.save(path, quality=50)


def test_a_photo_of_a_hundred_megapixels(tmp_path: Path) -> None:
    giant_jpeg(tmp_path / "giant.jpg")
    detector = KnownFaces(Similarity(10, 1500 + 500j), scale=5200 / 1280)
    opened = FaceSearch(64, detector=detector).open(tmp_path / "giant.jpg")
    assert opened.whole is not None
    assert opened.whole.size == (5200, 5200)  # what can be held in memory safely
    assert opened.whole.reduced_by == 2
    assert detector.seen == [(1280, 1280, 3)]
    result = opened.finish([Image.new("RGB", (64, 64), "black")])
    assert result.size == (5200, 5200)
    assert result.getpixel((2390, 1390)) == 0
    assert result.getpixel((3400, 1500)) == 255


def test_files_that_are_no_photos_and_unusual_ones(tmp_path: Path) -> None:
    (tmp_path / "letter.jpg").write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n")
    frames = [Image.fromarray(photo()).convert("P"), Image.new("P", (400, 300))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1)).save(tmp_path / "pixel.png")
    content = io.BytesIO()
    Image.new("1", (1, 1)).save(content, format="PNG")
    huge = bytearray(content.getvalue())
    huge[16:24] = (10_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(huge)
    search = FaceSearch(64, detector=KnownFaces(BIG))
    with pytest.raises(InputError, match=r"letter.jpg: is a PDF document, not a photo"):
        search.open(tmp_path / "letter.jpg")
    with pytest.raises(InputError, match=r"pixel.png: is 1×1 pixels, expected at least 16×16"):
        search.open(tmp_path / "pixel.png")
    with pytest.raises(InputError, match=r"huge.png: has 100,000,000 pixels, expected at most 89,478,485"):
        search.open(tmp_path / "huge.png")
    opened = search.open(tmp_path / "moving.gif")  # its first frame
    assert opened.finish([Image.fromarray(opened.crops[0])]).size == (400, 300)
    with pytest.raises(InputError, match=r"gone.png: no such file"):
        search.open(tmp_path / "gone.png")
    for mode in ("F", "I"):
        with pytest.raises(InputError, match=r"photo: has floating-point|photo: has values outside of 0 to 65535"):
            search.open(Image.new(mode, (400, 300), 70_000))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_results_come_by_photo(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igan_fast.faces.batches.HELD_PIXELS", 2 * 400 * 300)
    photos = [photo(), photo(64, 64), photo(), photo(178, 218), photo()]
    sizes: list[int] = []

    def run(crops: np.ndarray) -> list[float]:
        sizes.append(len(crops))
        return [float(crop.mean()) for crop in crops]

    search = FaceSearch(64, "auto", "all", KnownFaces(LEFT, BIG))
    found = each_photo(search, photos, batch_size, run, lambda opened, values: (len(opened.faces), values))
    assert [count for count, _ in found] == [2, 0, 2, 0, 2]
    for (_, values), given in zip(found, photos, strict=True):
        assert values == [float(crop.mean()) for crop in search.open(given).crops]
    assert max(sizes) <= batch_size
    assert sum(sizes) == 8
    assert each_photo(search, [], batch_size, run, lambda opened, values: values) == []
    with pytest.raises(InputError, match=r"photo 2 of 3: is 1×1 pixels"):
        each_photo(search, [photo(), Image.new("RGB", (1, 1)), photo()], batch_size, run, lambda *_: None)


def test_cutting_results() -> None:
    opened = [FaceSearch(64, "auto", "all", KnownFaces(*places)).open(photo()) for places in ([LEFT], [BIG, LEFT])]
    assert by_photo(opened, "abc") == [["a"], ["b", "c"]]

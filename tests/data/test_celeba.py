"""CelebA in every layout and in every state of repair, made of small photos drawn here."""

from __future__ import annotations

import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from igan_fast.data import build_store, open_source
from igan_fast.data.attributes import CELEBA_ATTRIBUTES
from igan_fast.data.celeba import CelebA
from igan_fast.errors import InputError

NAMES = ("Bald", "Smiling", "Young")
COUNT = 6
FILES = [f"{number:06}.jpg" for number in range(1, COUNT + 1)]
LABELS = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]])


def draw_photos(folder: Path, files: Sequence[str] = FILES, size: tuple[int, int] = (178, 218)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(folder / file, quality=90)


def zip_photos(path: Path, folder: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("img_align_celeba/", "")
        archive.writestr("__MACOSX/img_align_celeba/._000001.jpg", "not a photo")
        for photo in sorted(folder.iterdir()):
            archive.write(photo, f"img_align_celeba/{photo.name}")


def attribute_text(files: Sequence[str] = FILES, end: str = "\r\n") -> str:
    """As the original: count, names, then values padded to two characters, so that double spaces come up."""
    rows = [f"{file} " + " ".join(f"{2 * int(v) - 1:2}" for v in row) for file, row in zip(files, LABELS, strict=False)]
    return end.join([str(len(rows)), " ".join(NAMES) + " ", *rows, ""])


def attribute_csv(files: Sequence[str] = FILES) -> str:
    rows = [",".join([file, *(str(2 * int(v) - 1) for v in row)]) for file, row in zip(files, LABELS, strict=False)]
    return "\n".join([",".join(["image_id", *NAMES]), *rows, ""])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole little CelebA."""
    draw_photos(tmp_path / "img_align_celeba")
    (tmp_path / "list_attr_celeba.txt").write_bytes(attribute_text().encode())
    return tmp_path


def square_by_hand(path: Path, size: int) -> NDArray[np.uint8]:
    image = Image.open(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(cut)


def assert_same_square(image: NDArray[np.uint8], path: Path) -> None:
    """``image`` is the photo's square. At the rim it may differ a little: whether the filter sees past it is open."""
    expected = square_by_hand(path, len(image))
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    np.testing.assert_array_equal(image[3:-3, 3:-3], expected[3:-3, 3:-3])
    assert np.abs(image.astype(int) - expected).max() <= 12


# What it finds ------------------------------------------------------------------------------------------------------


def lay_out(kind: str, root: Path) -> None:
    """The files of a whole CelebA as somebody hands them out."""
    draw_photos(root / "work")
    partition = [0, 0, 0, 1, 2, 2]
    text = "".join(f"{file} {part}\n" for file, part in zip(FILES, partition, strict=True))
    as_csv = "image_id,partition\n" + "".join(f"{f},{p}\n" for f, p in zip(FILES, partition, strict=True))
    people = "".join(f"{file} {number // 2 + 100}\n" for number, file in enumerate(FILES))
    files: dict[str, str] = {}
    if kind == "flat zip":
        zip_photos(root / "img_align_celeba.zip", root / "work")
        files = {
            "list_attr_celeba.txt": attribute_text(),
            "list_eval_partition.txt": text,
            "identity_CelebA.txt": people,
        }
    elif kind == "Kaggle":
        shutil.copytree(root / "work", root / "img_align_celeba" / "img_align_celeba")
        files = {
            "list_attr_celeba.csv": attribute_csv(),
            "list_eval_partition.csv": as_csv,
            "identity_CelebA.txt": people,
        }
    elif kind == "torchvision":
        shutil.copytree(root / "work", root / "celeba" / "img_align_celeba")
        zip_photos(root / "celeba" / "img_align_celeba.zip", root / "work")  # it keeps the zip
        files = {"celeba/list_attr_celeba.txt": attribute_text(), "celeba/list_eval_partition.txt": text,
                 "celeba/identity_CelebA.txt": people}  # fmt: skip
    elif kind == "Drive":
        zip_photos(root / "CelebA" / "Img" / "img_align_celeba.zip", root / "work")
        files = {"CelebA/Anno/list_attr_celeba.txt": attribute_text(), "CelebA/Eval/list_eval_partition.txt": text,
                 "CelebA/Anno/identity_CelebA.txt": people}  # fmt: skip
    elif kind == "Drive, unpacked":
        shutil.copytree(root / "work", root / "CelebA" / "Img" / "img_align_celeba")
        files = {"CelebA/Anno/list_attr_celeba.txt": attribute_text(), "CelebA/Eval/list_eval_partition.txt": text,
                 "CelebA/Anno/identity_CelebA.txt": people}  # fmt: skip
    shutil.rmtree(root / "work")
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8", newline="")


@pytest.mark.parametrize("kind", ["flat zip", "Kaggle", "torchvision", "Drive", "Drive, unpacked"])
def test_every_layout_gives_the_same_dataset(kind: str, tmp_path: Path) -> None:
    lay_out(kind, tmp_path / "data")
    draw_photos(tmp_path / "oracle")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = CelebA(tmp_path / "data", strict=True)
    assert len(source) == COUNT
    assert source.attributes == NAMES
    assert source.labels.dtype == np.uint8
    np.testing.assert_array_equal(source.labels, LABELS)
    assert source.identities is not None
    assert source.identities.tolist() == [100, 100, 101, 101, 102, 102]
    assert {name: rows.tolist() for name, rows in source.splits.items()} == {
        "train": [0, 1, 2],
        "val": [3],
        "test": [4, 5],
    }
    for size in (16, 33):
        for index, file in enumerate(FILES):
            assert_same_square(source.image(index, size), tmp_path / "oracle" / file)


def test_a_folder_of_any_photos(tmp_path: Path) -> None:
    files = ["a.png", "b.JPG", "c.webp"]
    draw_photos(tmp_path / "mine", files[:2], size=(40, 30))
    draw_photos(tmp_path / "mine" / "deeper", files[2:], size=(30, 40))
    (tmp_path / "mine" / "notes.md").write_text("not a photo")
    (tmp_path / "list_attr_celeba.csv").write_text(attribute_csv(["a.png", "b.JPG", "deeper/c.webp"]))
    source = CelebA(tmp_path, strict=True)
    assert len(source) == 3
    assert source.identities is None
    assert_same_square(source.image(0, 20), tmp_path / "mine" / "a.png")
    assert_same_square(source.image(2, 20), tmp_path / "mine" / "deeper" / "c.webp")


def test_the_png_edition_is_found_by_its_jpg_rows(tmp_path: Path) -> None:
    draw_photos(tmp_path / "img_align_celeba_png", [f"{file[:6]}.png" for file in FILES])
    (tmp_path / "list_attr_celeba.txt").write_text(attribute_text())
    assert len(CelebA(tmp_path, strict=True)) == COUNT


def test_a_zip_may_be_named_itself(tmp_path: Path) -> None:
    lay_out("flat zip", tmp_path)
    assert len(CelebA(tmp_path / "img_align_celeba.zip", strict=True)) == COUNT


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_line_ends_and_blank_lines_do_not_matter(end: str, folder: Path) -> None:
    (folder / "list_attr_celeba.txt").write_bytes(attribute_text(end=end).encode("utf-8-sig"))
    np.testing.assert_array_equal(CelebA(folder, strict=True).labels, LABELS)


def test_zero_stands_for_no_like_minus_one(folder: Path) -> None:
    text = attribute_text().replace("-1", " 0")
    (folder / "list_attr_celeba.txt").write_text(text)
    np.testing.assert_array_equal(CelebA(folder, strict=True).labels, LABELS)


def test_any_attributes_in_any_order(folder: Path) -> None:
    source = open_source(folder, attributes=["Young", "Bald"])
    assert source.attributes == ("Young", "Bald")
    np.testing.assert_array_equal(source.labels, LABELS[:, [2, 0]])


def test_an_unknown_attribute_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(InputError, match="unknown attribute 'smilling'; did you mean Smiling"):
        CelebA(folder, attributes=["smilling"])


def test_the_description_is_one_line_with_all_that_matters(tmp_path: Path) -> None:
    lay_out("flat zip", tmp_path)
    assert CelebA(tmp_path).describe() == (
        f"6 photos in {tmp_path / 'img_align_celeba.zip'}, 3 attributes (list_attr_celeba.txt), 3 people; "
        "official split (list_eval_partition.txt): 3 train, 1 val, 2 test; nothing skipped"
    )


def test_a_source_travels_to_another_process(tmp_path: Path) -> None:
    lay_out("flat zip", tmp_path)
    source = CelebA(tmp_path)
    before = source.image(2, 24)  # the zip is open now
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.image(2, 24), before)
    assert copy.fingerprint() == source.fingerprint()


# Splits -------------------------------------------------------------------------------------------------------------


def many_rows(root: Path, count: int) -> Path:
    """A dataset of ``count`` rows whose photos are empty files: nobody opens them here."""
    (root / "img_align_celeba").mkdir(parents=True)
    files = [f"{number:06}.jpg" for number in range(count)]
    for file in files:
        (root / "img_align_celeba" / file).touch()
    rows = "".join(f"{file} 1\n" for file in files)
    (root / "list_attr_celeba.txt").write_text(f"{count}\nBald\n{rows}")
    return root


def assert_divides(splits: dict[str, NDArray[np.int64]], count: int) -> None:
    for rows in splits.values():
        assert rows.tolist() == sorted(rows.tolist())
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(count))


def test_the_papers_split_is_in_proportion_and_seeded(tmp_path: Path) -> None:
    root = many_rows(tmp_path, 400)
    first = CelebA(root, split="paper")
    assert {name: len(rows) for name, rows in first.splits.items()} == {"train": 370, "val": 30}
    assert_divides(dict(first.splits), 400)
    again, other = CelebA(root, split="paper"), CelebA(root, split="paper", seed=1)
    assert again.splits["val"].tolist() == first.splits["val"].tolist()
    assert other.splits["val"].tolist() != first.splits["val"].tolist()
    assert "the paper's split, seed 0: 370 train, 30 val" in first.describe()


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(400, (360, 20, 20)), (10, (8, 1, 1)), (3, (1, 1, 1)), (2, (2, 0, 0)), (1, (1, 0, 0))],
)
def test_without_a_partition_file_the_split_is_random(count: int, sizes: tuple[int, int, int], tmp_path: Path) -> None:
    source = CelebA(many_rows(tmp_path, count))
    assert tuple(len(source.splits[name]) for name in ("train", "val", "test")) == sizes
    assert_divides(dict(source.splits), count)
    assert "no partition file: random 90/5/5 % split, seed 0" in source.describe()


def test_the_papers_split_of_the_whole_dataset() -> None:
    from igan_fast.data.celeba import _paper_split

    splits = _paper_split(202_599, 0)
    assert len(splits["train"]) == 185_000
    assert len(splits["val"]) == 15_000
    assert not np.isin(splits["val"], splits["train"]).any()


def test_photos_that_no_split_has_are_reported(folder: Path) -> None:
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n999999.jpg 2\n")
    with pytest.warns(UserWarning, match=r"4 photos in no split .*\(000003.jpg, 000004.jpg, 000005.jpg, …\)"):
        source = CelebA(folder)
    assert {name: rows.tolist() for name, rows in source.splits.items()} == {"train": [0], "val": [1]}
    with pytest.raises(InputError, match="4 photos in no split"):
        CelebA(folder, strict=True)


def test_people_that_are_not_listed_are_unknown(folder: Path) -> None:
    (folder / "identity_CelebA.txt").write_text("000002.jpg 7\n")
    source = CelebA(folder)
    assert source.identities is not None
    assert source.identities.tolist() == [-1, 7, -1, -1, -1, -1]


# What does not match ------------------------------------------------------------------------------------------------


def test_rows_without_photo_and_photos_without_row(folder: Path) -> None:
    photos = folder / "img_align_celeba"
    (photos / "000002.jpg").unlink()
    draw_photos(photos, ["000007.jpg", "000008.jpg", "000009.jpg", "000010.jpg"])
    with pytest.warns(UserWarning, match="announces|photo") as caught:
        source = CelebA(folder)
    messages = [str(warning.message) for warning in caught]
    assert any("1 row without a photo (000002.jpg)" in message for message in messages)
    assert any(re.search(r"4 photos without a row \(.*007.jpg, .*008.jpg, .*009.jpg, …\)", m) for m in messages)
    np.testing.assert_array_equal(source.labels, LABELS[[0, 2, 3, 4, 5]])
    assert_same_square(source.image(1, 16), photos / "000003.jpg")
    assert "skipped: 1 row without a photo (000002.jpg), 4 photos without a row" in source.describe()
    assert "\n" not in source.describe()
    with pytest.raises(InputError, match="1 row without a photo"):
        CelebA(folder, strict=True)


def test_strict_refuses_photos_without_row(folder: Path) -> None:
    draw_photos(folder / "img_align_celeba", ["000007.jpg"])
    with pytest.raises(InputError, match=r"1 photo without a row \(img_align_celeba/000007.jpg\)"):
        CelebA(folder, strict=True)


def test_a_cut_off_attribute_file_is_noticed(folder: Path) -> None:
    lines = attribute_text().splitlines()
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines[:-2]))
    with pytest.raises(InputError, match="announces 6 rows, but has 4"):
        CelebA(folder, strict=True)
    with pytest.warns(UserWarning, match="announces|photo") as caught:
        assert len(CelebA(folder)) == 4
    assert "announces 6 rows, but has 4" in str(caught[0].message)


def test_a_photo_that_is_there_twice_is_refused(folder: Path) -> None:
    draw_photos(folder / "img_align_celeba" / "copy", ["000003.jpg"])
    with pytest.raises(InputError, match=r"'000003.jpg' stands for 2 photos"):
        CelebA(folder)


def test_two_rows_for_one_photo_are_refused(folder: Path) -> None:
    text = attribute_text().replace("000002.jpg", "000001.png")
    (folder / "list_attr_celeba.txt").write_text(text)
    with pytest.raises(InputError, match=r"two rows stand for the photo 'img_align_celeba/000001.jpg'"):
        CelebA(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("000003.jpg -1 -1  1", "000003.jpg -1 -1", r"line 5: found 2 values after '000003.jpg', expected 3"),
        ("000003.jpg -1 -1  1", "000003.jpg -1 -1  1 1", r"line 5: found 4 values"),
        ("000003.jpg -1 -1  1", "000003.jpg -1  2  1", r"line 5: Smiling of '000003.jpg' is '2', expected -1, 0 or 1"),
        ("000003.jpg -1 -1  1", "000003.jpg -1 -1 yes", r"line 5: Young of '000003.jpg' is 'yes'"),
        ("000003.jpg", "000001.jpg", r"line 5: '000001.jpg' is there already in line 3"),
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
        (b"6\r\nBald Young\r\n", "none of its 0 rows has a photo|announces 6 rows"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "is a web page, not an annotation file"),
    ],
)
def test_an_attribute_file_with_nothing_in_it_is_refused(content: bytes, message: str, folder: Path) -> None:
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
        ("identity_CelebA.txt", "000001.jpg 5\n000001.jpg 6\n", "line 2: '000001.jpg' is there a second time"),
    ],
)
def test_malformed_companions_are_refused(name: str, content: str, message: str, folder: Path) -> None:
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        CelebA(folder)


# What is broken -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Google Drive - Quota exceeded</html>", "is a web page, not a zip"),
        (b"\n  <HTML lang=en>", "is a web page, not a zip"),
        (b"", "is empty, not a zip"),
        (b"7z\xbc\xaf\x27\x1c", "is not a zip"),
    ],
)
def test_what_is_no_zip_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba.zip").write_bytes(content)
    (tmp_path / "list_attr_celeba.txt").write_text(attribute_text())
    with pytest.raises(InputError, match=message) as caught:
        CelebA(tmp_path)
    assert str(tmp_path / "img_align_celeba.zip") in str(caught.value)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_zip_is_refused(share: float, tmp_path: Path) -> None:
    lay_out("flat zip", tmp_path)
    path = tmp_path / "img_align_celeba.zip"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"img_align_celeba.zip: is a truncated or damaged zip \([\d,]+ bytes\)"):
        CelebA(tmp_path)


def test_a_damaged_byte_in_a_zip_is_noticed(tmp_path: Path) -> None:
    lay_out("flat zip", tmp_path)
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
def test_what_is_no_folder_is_refused(data: str, folder: Path) -> None:
    with pytest.raises(InputError, match=rf"{data}: (no such folder|a file); expected a folder .* or 'drawn'"):
        open_source(str(folder / data))


def test_a_folder_without_photos_or_attributes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no photos; expected img_align_celeba"):
        CelebA(tmp_path)
    draw_photos(tmp_path / "img_align_celeba")
    with pytest.raises(InputError, match=r"found 6 photos but no attribute file; expected list_attr_celeba.txt"):
        CelebA(tmp_path)


def test_no_row_that_fits_is_refused(folder: Path) -> None:
    (folder / "list_attr_celeba.txt").write_text(attribute_text([f"x{file}" for file in FILES]))
    with pytest.raises(InputError, match=r"none of its 6 rows has a photo among the 6 .*x000001.jpg"):
        CelebA(folder)


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="split: found 'kaggle'"):
        CelebA(folder, split="kaggle")  # type: ignore[arg-type]


# The fingerprint ----------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_the_pictures_and_with_nothing_else(folder: Path) -> None:
    before = CelebA(folder).fingerprint()
    assert CelebA(folder, attributes=["Young"], split="paper", seed=4).fingerprint() == before
    draw_photos(folder / "img_align_celeba", ["other.jpg", "000002.jpg"])  # 000002 is another picture now
    (folder / "img_align_celeba" / "other.jpg").unlink()
    assert CelebA(folder).fingerprint() != before


def test_the_fingerprint_of_a_zip_does_not_depend_on_its_place(tmp_path: Path) -> None:
    lay_out("flat zip", tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = CelebA(tmp_path / "a").fingerprint()
    assert CelebA(tmp_path / "b").fingerprint() == before
    draw_photos(tmp_path / "work", list(reversed(FILES)))
    zip_photos(tmp_path / "b" / "img_align_celeba.zip", tmp_path / "work")
    assert CelebA(tmp_path / "b").fingerprint() != before


# The real thing -----------------------------------------------------------------------------------------------------


@pytest.mark.celeba
def test_real_celeba_is_read(celeba_folder: Path) -> None:
    source = open_source(celeba_folder, strict=True)
    assert source.attributes == CELEBA_ATTRIBUTES
    assert len(source) == len(source.labels)
    males = source.labels[:, CELEBA_ATTRIBUTES.index("Male")].mean()
    assert 0.35 < males < 0.5  # 0.417 in the whole dataset
    assert source.identities is not None
    assert set(source.identities[source.splits["train"]]).isdisjoint(source.identities[source.splits["val"]])
    image = source.image(0, 128)
    assert image.shape == (128, 128, 3)
    assert image.std() > 10


@pytest.mark.celeba
def test_blond_hair_is_brighter_than_black_hair(celeba_folder: Path) -> None:
    source = open_source(celeba_folder, attributes=["Blond_Hair", "Black_Hair"])
    blond, black = (np.flatnonzero(source.labels[:, column])[:60] for column in (0, 1))
    top = [np.mean([source.image(int(index), 32)[:6, 8:24].mean() for index in rows]) for rows in (blond, black)]
    assert top[0] > top[1] + 10


def test_a_file_that_is_no_photo_is_named_and_nothing_of_our_insides(folder: Path) -> None:
    (photo := next((folder / "img_align_celeba").iterdir())).write_bytes(b"no photo")
    source = CelebA(folder)
    index = next(k for k, name in enumerate(source._names) if name.endswith(photo.name))
    with pytest.raises(InputError, match=f"{photo.name}: is not a photo in a format that is read here .*$"):
        source.image(index, 32)


def test_an_attribute_file_without_rows_is_refused(folder: Path) -> None:
    (folder / "list_attr_celeba.txt").write_text("0\nBald Male\n")
    with pytest.raises(InputError, match="has no rows below its header"):
        CelebA(folder)

"""``CelebA``: every layout gives the same dataset; attributes, splits and the fingerprint."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from no_warnings import no_warning
from numpy.typing import NDArray
from small_celeba import (
    COUNT,
    FILES,
    LABELS,
    NAMES,
    assert_is_centre_square,
    attribute_csv,
    attribute_text,
    draw_photos,
    write_celeba,
    write_layout,
    zip_photos,
)

from igan_fast.data import open_source
from igan_fast.data.attributes import CELEBA_ATTRIBUTES
from igan_fast.data.celeba import CelebA
from igan_fast.data.splits import paper_split
from igan_fast.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_celeba(tmp_path)


@pytest.mark.parametrize("kind", ["flat zip", "Kaggle", "torchvision", "Drive", "Drive, unpacked"])
def test_every_layout_gives_the_same_dataset(kind: str, tmp_path: Path) -> None:
    write_layout(kind, tmp_path / "data")
    draw_photos(tmp_path / "oracle")
    with no_warning():
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
            assert_is_centre_square(source.image(index, size), tmp_path / "oracle" / file)


def test_a_folder_of_any_photos(tmp_path: Path) -> None:
    files = ["a.png", "b.JPG", "c.webp"]
    draw_photos(tmp_path / "mine", files[:2], size=(40, 30))
    draw_photos(tmp_path / "mine" / "deeper", files[2:], size=(30, 40))
    (tmp_path / "mine" / "notes.md").write_text("not a photo")
    (tmp_path / "list_attr_celeba.csv").write_text(attribute_csv(["a.png", "b.JPG", "deeper/c.webp"]))
    source = CelebA(tmp_path, strict=True)
    assert len(source) == 3
    assert source.identities is None
    assert_is_centre_square(source.image(0, 20), tmp_path / "mine" / "a.png")
    assert_is_centre_square(source.image(2, 20), tmp_path / "mine" / "deeper" / "c.webp")


def test_jpg_rows_find_png_photos(tmp_path: Path) -> None:
    draw_photos(tmp_path / "img_align_celeba_png", [f"{file[:6]}.png" for file in FILES])
    (tmp_path / "list_attr_celeba.txt").write_text(attribute_text())
    assert len(CelebA(tmp_path, strict=True)) == COUNT


def test_the_path_may_be_the_zip(tmp_path: Path) -> None:
    write_layout("flat zip", tmp_path)
    assert len(CelebA(tmp_path / "img_align_celeba.zip", strict=True)) == COUNT


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_line_ends_and_blank_lines_do_not_matter(end: str, folder: Path) -> None:
    (folder / "list_attr_celeba.txt").write_bytes(attribute_text(end=end).encode("utf-8-sig"))
    np.testing.assert_array_equal(CelebA(folder, strict=True).labels, LABELS)


def test_zero_means_no(folder: Path) -> None:
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


def test_the_description_is_one_line(tmp_path: Path) -> None:
    write_layout("flat zip", tmp_path)
    assert CelebA(tmp_path).describe() == (
        f"6 photos in {tmp_path / 'img_align_celeba.zip'}, 3 attributes (list_attr_celeba.txt), 3 people; "
        "official split (list_eval_partition.txt): 3 train, 1 val, 2 test; nothing skipped"
    )


def test_a_source_can_be_pickled(tmp_path: Path) -> None:
    write_layout("flat zip", tmp_path)
    source = CelebA(tmp_path)
    before = source.image(2, 24)  # opens the zip
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.image(2, 24), before)
    assert copy.fingerprint() == source.fingerprint()


# Splits -------------------------------------------------------------------------------------------------------------


def many_rows(root: Path, count: int) -> Path:
    """Write a dataset of ``count`` rows. Its photos are empty files, so they must not be decoded."""
    (root / "img_align_celeba").mkdir(parents=True)
    files = [f"{number:06}.jpg" for number in range(count)]
    for file in files:
        (root / "img_align_celeba" / file).touch()
    rows = "".join(f"{file} 1\n" for file in files)
    (root / "list_attr_celeba.txt").write_text(f"{count}\nBald\n{rows}")
    return root


def assert_is_partition(splits: dict[str, NDArray[np.int64]], count: int) -> None:
    for rows in splits.values():
        assert rows.tolist() == sorted(rows.tolist())
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(count))


def test_the_papers_split_of_a_smaller_dataset_has_the_same_proportion(tmp_path: Path) -> None:
    root = many_rows(tmp_path, 400)
    first = CelebA(root, split="paper")
    assert {name: len(rows) for name, rows in first.splits.items()} == {"train": 370, "val": 30}
    assert_is_partition(dict(first.splits), 400)
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
    assert_is_partition(dict(source.splits), count)
    assert "no partition file: random 90/5/5 % split, seed 0" in source.describe()


def test_the_papers_split_of_the_whole_dataset() -> None:
    splits = paper_split(202_599, 0)
    assert len(splits["train"]) == 185_000
    assert len(splits["val"]) == 15_000
    assert not np.isin(splits["val"], splits["train"]).any()


def test_photos_in_no_split_are_reported(folder: Path) -> None:
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n999999.jpg 2\n")
    with pytest.warns(UserWarning, match=r"4 photos in no split .*\(000003.jpg, 000004.jpg, 000005.jpg, …\)"):
        source = CelebA(folder)
    assert {name: rows.tolist() for name, rows in source.splits.items()} == {"train": [0], "val": [1]}
    with pytest.raises(InputError, match="4 photos in no split"):
        CelebA(folder, strict=True)


def test_identities_of_unlisted_photos_are_unknown(folder: Path) -> None:
    (folder / "identity_CelebA.txt").write_text("000002.jpg 7\n")
    source = CelebA(folder)
    assert source.identities is not None
    assert source.identities.tolist() == [-1, 7, -1, -1, -1, -1]


# The fingerprint ----------------------------------------------------------------------------------------------------


def test_the_fingerprint_depends_on_the_photos_alone(folder: Path) -> None:
    before = CelebA(folder).fingerprint()
    assert CelebA(folder, attributes=["Young"], split="paper", seed=4).fingerprint() == before
    draw_photos(folder / "img_align_celeba", ["other.jpg", "000002.jpg"])  # draws another image to 000002.jpg
    (folder / "img_align_celeba" / "other.jpg").unlink()
    assert CelebA(folder).fingerprint() != before


def test_the_fingerprint_of_a_zip_does_not_depend_on_its_location(tmp_path: Path) -> None:
    write_layout("flat zip", tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = CelebA(tmp_path / "a").fingerprint()
    assert CelebA(tmp_path / "b").fingerprint() == before
    draw_photos(tmp_path / "work", list(reversed(FILES)))
    zip_photos(tmp_path / "b" / "img_align_celeba.zip", tmp_path / "work")
    assert CelebA(tmp_path / "b").fingerprint() != before


# Real photos ----------------------------------------------------------------------------------------------------------


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

"""``ClassFolders``: each folder's name is an attribute; splits, photos in several folders, zips and odd names."""

from __future__ import annotations

import os
import pickle
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from blue_aligner import Blue
from grey_celeba import ATTRIBUTES, photo, write, write_zip
from no_warnings import no_warning

from igan_fast.data import build_store, open_source
from igan_fast.data.celeba import CelebA
from igan_fast.data.class_folders import ClassFolders
from igan_fast.errors import InputError

#: The grey photos 1 to 6: two are bald, three smile, one wears a hat.
TREE = {
    "Bald/a.png": photo(1), "Bald/b.png": photo(2),
    "Smiling/a.png": photo(3), "Smiling/c.jpg": photo(4), "Smiling/d.png": photo(5),
    "Wearing_Hat/e.png": photo(6),
}  # fmt: skip


def by_brightness(source: ClassFolders) -> dict[int, list[str]]:
    """The attributes of each photo, by its number in ``photo``."""
    found = {}
    for index in range(len(source)):
        names = [name for name, label in zip(source.attributes, source.labels[index], strict=True) if label]
        found[int(source.image(index, 16)[8, 8, 0]) // 10] = names
    assert len(found) == len(source)
    return found


def in_splits(source: ClassFolders) -> dict[str, list[int]]:
    """The numbers of the photos in each split."""
    return {
        name: sorted(int(source.image(int(row), 16)[8, 8, 0]) // 10 for row in rows)
        for name, rows in source.splits.items()
    }


EXPECTED = {1: ["Bald"], 2: ["Bald"], 3: ["Smiling"], 4: ["Smiling"], 5: ["Smiling"], 6: ["Wearing_Hat"]}


def test_each_folder_is_an_attribute(tmp_path: Path) -> None:
    with no_warning():
        source = open_source(write(tmp_path, TREE), strict=True)
    assert isinstance(source, ClassFolders)
    assert source.attributes == ("Bald", "Smiling", "Wearing_Hat")
    assert source.labels.dtype == np.uint8
    assert source.identities is None
    assert by_brightness(source) == EXPECTED  # two photos are called a.png, and are two
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 4, "val": 1, "test": 1}
    assert source.describe() == (
        f"6 photos in {tmp_path}, 3 attributes (class folders); no train, val and test folders: random 90/5/5 % split, "
        "seed 0: 4 train, 1 val, 1 test; nothing skipped"
    )


@pytest.mark.parametrize("depth", [1, 5])
def test_photos_in_folders_of_a_class_belong_to_it(depth: int, tmp_path: Path) -> None:
    deeper = "/".join(["more"] * depth)
    tree = {name.replace("Bald/", f"Bald/{deeper}/"): content for name, content in TREE.items()}
    assert by_brightness(ClassFolders(write(tmp_path, tree), strict=True)) == EXPECTED


def test_hidden_folders_and_files_are_ignored(tmp_path: Path) -> None:
    hidden = {".git/a.png": photo(9), "Bald/.thumbnails/a.png": photo(9), "Bald/._b.png": b"", "__MACOSX/a.png": b""}
    with no_warning():
        source = ClassFolders(write(tmp_path, {**TREE, **hidden, "notes.txt": "x", "Bald/notes.md": "x"}), strict=True)
    assert by_brightness(source) == EXPECTED


def test_chosen_classes_in_any_order(tmp_path: Path) -> None:
    source = ClassFolders(write(tmp_path, TREE), attributes=["Wearing_Hat", "Bald"])
    assert source.attributes == ("Wearing_Hat", "Bald")
    assert by_brightness(source) == {1: ["Bald"], 2: ["Bald"], 3: [], 4: [], 5: [], 6: ["Wearing_Hat"]}
    with pytest.raises(InputError, match="unknown attribute 'smiling'; did you mean Smiling"):
        ClassFolders(tmp_path, attributes=["smiling"])


# Photos in several folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["symbolic link", "hard link", "copy"])
def test_a_photo_in_several_folders_has_several_attributes(way: str, tmp_path: Path) -> None:
    write(tmp_path, TREE)
    original, other = tmp_path / "Bald" / "b.png", tmp_path / "Smiling" / "b.png"
    if way == "symbolic link":
        other.symlink_to("../Bald/b.png")
    elif way == "hard link":
        os.link(original, other)
    else:
        shutil.copy(original, other)
    source = ClassFolders(tmp_path, strict=True)
    assert by_brightness(source) == {**EXPECTED, 2: ["Bald", "Smiling"]}
    assert source.describe().startswith(f"6 photos (1 more is a link or copy of one) in {tmp_path}")


def test_a_link_may_have_another_name_and_a_copy_may_not(tmp_path: Path) -> None:
    write(tmp_path, {**TREE, "Smiling/copy.png": photo(1)})
    (tmp_path / "Smiling" / "link.png").symlink_to("../Bald/b.png")
    source = ClassFolders(tmp_path)
    assert len(source) == 7
    labels = {
        (int(source.image(index, 16)[8, 8, 0]) // 10, *source.labels[index].tolist()) for index in range(len(source))
    }
    assert {(1, 1, 0, 0), (1, 0, 1, 0), (2, 1, 1, 0)} < labels


def test_a_class_folder_may_be_a_link_to_another_one(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    (tmp_path / "Wearing_Hat" / "e.png").unlink()
    (tmp_path / "Wearing_Hat").rmdir()
    (tmp_path / "Wearing_Hat").symlink_to("Bald")
    found = by_brightness(ClassFolders(tmp_path, strict=True))
    assert found[1] == found[2] == ["Bald", "Wearing_Hat"]


def test_links_that_form_a_cycle_end(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    (tmp_path / "Bald" / "loop").symlink_to(".")
    assert by_brightness(ClassFolders(tmp_path, strict=True)) == EXPECTED


# Splits ---------------------------------------------------------------------------------------------------------------


def split_tree(*names: str) -> dict[str, bytes]:
    """Two photos of each of two classes in each split: 1 to 4 in the first, 5 to 8 in the second and so on."""
    return {
        f"{split}/{kind}/{number}.png": photo(4 * k + 2 * j + number)
        for k, split in enumerate(names)
        for j, kind in enumerate(("Bald", "Smiling"))
        for number in (1, 2)
    }


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Train", "Validation", "TESTING"), ("training", "valid", "test")]
)
def test_folders_of_splits(names: tuple[str, str, str], tmp_path: Path) -> None:
    with no_warning():
        source = open_source(write(tmp_path, split_tree(*names)), strict=True)
    assert isinstance(source, ClassFolders)
    assert in_splits(source) == {"train": [1, 2, 3, 4], "val": [5, 6, 7, 8], "test": [9, 10, 11, 12]}
    assert by_brightness(source) == {n: ["Bald" if (n - 1) % 4 < 2 else "Smiling"] for n in range(1, 13)}
    assert "split by folder names: 4 train, 4 val, 4 test" in source.describe()


def test_without_a_folder_val_it_is_drawn_from_train(tmp_path: Path) -> None:
    found = in_splits(ClassFolders(write(tmp_path, split_tree("train", "test"))))
    assert found["test"] == [5, 6, 7, 8]
    assert len(found["val"]) == 1
    assert sorted(found["train"] + found["val"]) == [1, 2, 3, 4]


def test_train_alone_is_split_at_random(tmp_path: Path) -> None:
    source = ClassFolders(write(tmp_path, split_tree("train")))
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert "no val and no test folder: random 90/5/5 % split, seed 0" in source.describe()


def test_the_papers_split_takes_all_photos(tmp_path: Path) -> None:
    source = ClassFolders(write(tmp_path, split_tree("train", "val", "test")), split="paper")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 11, "val": 1}


def test_a_copy_in_another_split_is_another_photo(tmp_path: Path) -> None:
    tree = {**split_tree("train", "val"), "val/Smiling/1.png": photo(1)}
    source = ClassFolders(write(tmp_path, tree))
    assert len(source) == 8
    assert [int(source.image(int(row), 16)[8, 8, 0]) // 10 for row in source.splits["val"]].count(1) == 1


# Zips -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["", "faces/", "download/faces/"])
@pytest.mark.parametrize("given", ["the zip", "its folder"])
def test_a_zip_of_class_folders(given: str, top: str, tmp_path: Path) -> None:
    tree = {f"{top}{name}": content for name, content in {**TREE, "Wearing_Hat/b.png": photo(2)}.items()}
    path = write_zip(tmp_path / "faces.zip", {**tree, f"__MACOSX/{top}Bald/._a.png": b"x"})
    with no_warning():
        source = open_source(path if given == "the zip" else tmp_path, strict=True)
    assert isinstance(source, ClassFolders)
    assert by_brightness(source) == {**EXPECTED, 2: ["Bald", "Wearing_Hat"]}


def test_a_zip_with_splits(tmp_path: Path) -> None:
    tree = {f"faces/{name}": content for name, content in split_tree("train", "val", "test").items()}
    source = ClassFolders(write_zip(tmp_path / "faces.zip", tree))
    assert in_splits(source) == {"train": [1, 2, 3, 4], "val": [5, 6, 7, 8], "test": [9, 10, 11, 12]}


# The store ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_broken_photos_are_skipped_and_counted(zipped: bool, tmp_path: Path) -> None:
    tree = {**TREE, "Bald/c.png": photo(7)[:-30]}
    path = write_zip(tmp_path / "faces.zip", tree) if zipped else write(tmp_path / "faces", tree)
    with pytest.warns(UserWarning, match=r"1 of 7 pictures are broken: .*Bald/c.png: "):
        store = build_store(ClassFolders(path), 16, cache=tmp_path / "cache", workers=1, progress=False)
    assert len(store) == 6
    for image, labels in zip(store.images, store.labels, strict=True):
        assert [n for n, label in zip(store.attributes, labels, strict=True) if label] == EXPECTED[image[8, 8, 0] // 10]
    with pytest.raises(InputError, match=r"Bald/c\.png: "):
        build_store(ClassFolders(path), 16, cache=tmp_path / "strict", workers=1, strict=True, progress=False)


def test_the_fingerprint_depends_on_the_photos_alone(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    before = ClassFolders(tmp_path).fingerprint()
    assert ClassFolders(tmp_path, attributes=["Bald"], split="paper", seed=3).fingerprint() == before
    write(tmp_path, {"Bald/a.png": photo(9)})
    assert ClassFolders(tmp_path).fingerprint() != before


@pytest.mark.parametrize("zipped", [False, True])
def test_a_source_can_be_pickled(zipped: bool, tmp_path: Path) -> None:
    source = ClassFolders(write_zip(tmp_path / "faces.zip", TREE) if zipped else write(tmp_path, TREE))
    before = source.image(2, 24)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.image(2, 24), before)
    assert copy.fingerprint() == source.fingerprint()


def test_faces_are_aligned(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    source = ClassFolders(tmp_path, align=Blue())
    assert (source.image(0, 16) == (0, 0, 255)).all()
    assert source.fingerprint() != ClassFolders(tmp_path).fingerprint()


# Other files and odd names --------------------------------------------------------------------------------------------


def test_an_attribute_file_comes_first(tmp_path: Path) -> None:
    names = [f"{number:06}.jpg" for number in range(1, 7)]
    tree = {f"{'Bald' if n % 2 else 'Smiling'}/{name}": photo(n) for n, name in enumerate(names, start=1)}
    write(tmp_path, {**tree, "list_attr_celeba.csv": ATTRIBUTES})
    source = open_source(tmp_path)
    assert isinstance(source, CelebA)
    assert source.attributes == ("Bald", "Young")


def test_a_folder_without_photos_is_no_class(tmp_path: Path) -> None:
    write(tmp_path, {**TREE, "Young/notes.txt": "none yet"})
    (tmp_path / "Old").mkdir()
    with pytest.warns(UserWarning, match=r"2 folders without photos \(Old, Young\); everything else is used"):
        source = ClassFolders(tmp_path)
    assert by_brightness(source) == EXPECTED
    assert "skipped: 2 folders without photos (Old, Young)" in source.describe()
    with pytest.raises(InputError, match="2 folders without photos"):
        ClassFolders(tmp_path, strict=True)


@pytest.mark.parametrize("top", ["", "faces/"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_a_folder_of_a_zip_without_photos_is_no_class(split: str, top: str, tmp_path: Path) -> None:
    tree = {f"{top}{split}{name}": content for name, content in TREE.items()}
    more = {"Old/": b"", "Bald/more/": b"", "Young/notes.txt": b"x", ".git/x": b"x"}
    path = write_zip(tmp_path / "faces.zip", {**tree, **{f"{top}{split}{name}": c for name, c in more.items()}})
    with pytest.warns(UserWarning, match=rf"2 folders without photos \({split}Old, {split}Young\); everything else"):
        source = ClassFolders(path)
    assert by_brightness(source) == EXPECTED


def test_pictures_in_other_formats_are_named(tmp_path: Path) -> None:
    write(tmp_path, {**TREE, "Bald/f.tga": b"x"})
    with pytest.warns(UserWarning, match=r"left out 1 picture in other formats \(Bald/f.tga"):
        source = ClassFolders(tmp_path, strict=True)
    assert by_brightness(source) == EXPECTED


def test_a_name_with_odd_characters_is_an_attribute(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Café")  # as macOS writes it
    tree = {"long hair (dyed)/a.png": photo(1), f"{decomposed}/b.png": photo(2), "5_o'Clock-Shadow+x/c.png": photo(3)}
    source = ClassFolders(write(tmp_path, tree), attributes=["Café", "long hair (dyed)"])
    assert by_brightness(source) == {1: ["long hair (dyed)"], 2: ["Café"], 3: []}


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split: found 'halves'"):
        ClassFolders(write(tmp_path, TREE), split="halves")  # type: ignore[arg-type]

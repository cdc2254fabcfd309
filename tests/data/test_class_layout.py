"""Folders of photos that are no class folders, or not good ones: one message each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from grey_celeba import photo, write, write_zip

from igan_fast.data import open_source
from igan_fast.errors import InputError


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (["a.png", "b.png"], r"found 2 photos in no class folder \(a.png, b.png\), and no attr"),
        (["Bald/a.png", "Hat/b.png", "x.png"], r"1 photo in no class folder \(x.png\) beside the folders Bald, Hat,"),
        (["Bald/a.png", "Bald/b.png"], r"found one folder of photos \(Bald\) but no attribute file; expected at least"),
        (["img_align_celeba/a.png", "other/b.png"], r"found CelebA's photos \(img_align_celeba\) but no attribute"),
        (["Bald/a.png", "bald/b.png"], "class folders Bald and bald have the same name but for upper and lower case"),
        (["Caf\u00e9/a.png", "Cafe\u0301/b.png"], "have the same name but for .* the encoding of accents"),
        (["train/Bald/a.png", "train/Hat/b.png", "val/bald/c.png"], "class folders Bald and bald have the same name"),
        (["train/Bald/a.png", "train/Hat/b.png", "val/Hat/c.png"], "val has no photos of the class Bald, which"),
        (["train/Bald/a.png", "train/Hat/b.png", "test/Hat/c.png", "test/Bald/d.png", "test/Old/e.png"],
         "train has no photos of the class Old, which another split has"),
        (["train/Bald/a.png", "train/Hat/b.png", "Bald/c.png"], "found Bald beside the splits train; expected class"),
        (["train/Bald/a.png", "valid/Bald/b.png", "val/Bald/c.png"], "folders val and valid are both of the split"),
        (["train/a.png", "test/b.png"], r"found 2 photos in no class folder \(test/b.png, train/a.png\), and no attr"),
        (["train/Bald/a.png", "val/Bald/b.png"], r"found one folder of photos \(Bald\)"),
        (["A=1/a.png", "B/b.png"], "the name of the class folder 'A=1' cannot be an attribute's; rename it"),
        (["A,B/a.png", "B/b.png"], "the name of the class folder 'A,B' cannot be an attribute's"),
        (["A\nB/a.png", "B/b.png"], "cannot be an attribute's"),
        (["-A/a.png", "B/b.png"], "the name of the class folder '-A' cannot be an attribute's"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_layout_is_one_line(zipped: bool, tree: list[str], message: str, tmp_path: Path) -> None:
    files = {name: photo(number) for number, name in enumerate(tree, start=1)}
    if zipped:
        path = write_zip(tmp_path / "faces.zip", files)
    else:
        path = write(tmp_path, files)
    with pytest.raises(InputError, match=message) as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {os.fsdecode(b"Ren\xe9/a.png"): photo(1), "B/b.png": photo(2)})
    with pytest.raises(InputError, match=r"the name of the class folder 'Ren\\udce9' cannot be an attribute's"):
        open_source(tmp_path)


def test_the_folder_around_the_class_folders_is_no_class(tmp_path: Path) -> None:
    """It could be meant as the class, and its folders as parts of it; a zip's own folder can not."""
    write(
        tmp_path,
        {f"faces/{name}": content for name, content in {"Bald/a.png": photo(1), "Hat/b.png": photo(2)}.items()},
    )
    with pytest.raises(InputError, match=r"found one folder of photos \(faces\) but no attribute file"):
        open_source(tmp_path)

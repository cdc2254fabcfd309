"""``CelebA`` from a folder: links, pipes, names in other encodings, CelebA-HQ, and photos that change."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import pytest
from grey_celeba import (
    ATTRIBUTES,
    PARTITION,
    PEOPLE,
    PHOTOS,
    assert_complete,
    below,
    photo,
    split_lists,
    write,
)
from no_warnings import no_warning

from igan_fast.data import FaceStore, build_store, celeba_files
from igan_fast.data.celeba import CelebA
from igan_fast.data.photo_files import FolderPhotos
from igan_fast.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, {**below("img_align_celeba/", PHOTOS), "list_attr_celeba.csv": ATTRIBUTES})


def test_links_pipes_and_unreadable_folders_beside_the_photos_are_skipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = folder / "img_align_celeba"
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "circle.jpg").symlink_to("circle.jpg")
    (photos / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "up").symlink_to("..")
    (photos / "self").symlink_to(".")
    (folder / "also").symlink_to("img_align_celeba")
    write(photos, {"._000001.jpg": b"x", ".hidden/000001.jpg": b"x", "x.heic": b"x", "Thumbs.db": b"x"})
    (photos / "lost+found").mkdir()
    scandir = os.scandir

    def guarded(path: Path) -> object:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(celeba_files.os, "scandir", guarded)
    with pytest.warns(UserWarning, match="left out") as caught:
        source = CelebA(folder, strict=True)
    assert_complete(source)
    assert [str(warning.message).removeprefix(f"{folder}: ").partition(" (")[0] for warning in caught] == [
        "left out 4 photos that are not regular files",
        "left out 1 folder that cannot be read",
        "left out 1 picture in other formats",
    ]
    assert "skipped: 4 photos that are not regular files" in source.describe()


def test_a_folder_of_photos_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "disk", below("", PHOTOS))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "img_align_celeba").symlink_to(tmp_path / "disk")
    write(tmp_path / "data", {"list_attr_celeba.csv": ATTRIBUTES})
    with no_warning():
        assert_complete(CelebA(tmp_path / "data", strict=True))


def test_nested_folders_and_upper_case_names(tmp_path: Path) -> None:
    files = {f"mine/{name[:6]}/{name.upper()}": content for name, content in PHOTOS.items()}
    write(tmp_path, {**files, "LIST_ATTR_CELEBA.CSV": ATTRIBUTES})
    with no_warning():
        assert_complete(CelebA(tmp_path, strict=True))


def test_photos_named_in_latin_1(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in (b"Andr\xe9.jpg", b"Ren\xe9e.jpg")]
    write(tmp_path / os.fsdecode(b"caf\xe9"), {name: photo(n) for n, name in enumerate(names, start=1)})
    write(tmp_path, {"list_attr_celeba.csv": b"image_id,Bald,Young\nAndr\xe9.jpg,1,1\nRen\xe9e.jpg,-1,1\n"})
    source = CelebA(tmp_path, strict=True)
    assert_complete(source, 2)
    store = build_store(source, 16, cache=tmp_path / "cache", workers=1, progress=False)
    (tmp_path / os.fsdecode(b"caf\xe9") / names[0]).write_bytes(b"no photo")
    with pytest.warns(UserWarning, match=r"Andr\\xe9.jpg: is not a photo"):
        again = build_store(CelebA(tmp_path), 16, cache=tmp_path / "cache", workers=1, progress=False)
    with pytest.warns(UserWarning, match=r"Andr\\xe9.jpg: is not a photo"):
        opened = build_store(CelebA(tmp_path), 16, cache=tmp_path / "cache", workers=1, progress=False)
    assert (len(store), len(again), len(opened)) == (2, 1, 1)


def test_control_characters_in_a_folder_name_are_escaped(tmp_path: Path) -> None:
    root = write(tmp_path / "red\x1b[31m\nline", {**below("", PHOTOS), "list_attr_celeba.csv": ATTRIBUTES})
    (root / "gone.jpg").symlink_to("nowhere")
    with pytest.warns(UserWarning, match=r"red\\x1b\[31m\\nline: left out 1 photo that is not a regular file"):
        source = CelebA(root)
    assert "6 photos in " in source.describe()
    assert source.describe().isprintable()


def test_a_row_without_photo_that_is_not_utf_8_is_refused(folder: Path) -> None:
    write(folder, {"list_attr_celeba.csv": ATTRIBUTES.encode() + b"Andr\xe9.jpg,1,1\n"})
    with pytest.raises(InputError, match="line 8: is not UTF-8 text, and no photo has this name"):
        CelebA(folder)


@pytest.mark.parametrize("name", ["list_attr_celeba.csv", "list_eval_partition.csv", "identity_CelebA.txt"])
@pytest.mark.parametrize(("target", "message"), [("/dev/zero", "found a device"), ("nowhere", "cannot be read")])
def test_an_annotation_file_that_cannot_be_read_is_never_ignored(
    name: str, target: str, message: str, folder: Path
) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(InputError, match=f"{name}: {message}"):
        CelebA(folder)


# Splits ---------------------------------------------------------------------------------------------------------------


def test_a_partition_without_validation_photos_warns_once(folder: Path) -> None:
    write(folder, {"list_eval_partition.csv": PARTITION.replace(",1\n", ",0\n")})
    with pytest.warns(
        UserWarning, match=r"no photos for validation \(official split \(list_eval_partition.csv\)\); train"
    ) as caught:
        source = CelebA(folder, strict=True)
    assert len(caught) == 1
    assert len(source.splits["val"]) == 0
    assert len(source.splits["train"]) == 4


def celeba_hq(root: Path) -> Path:
    """Write CelebA-HQ: 0.jpg to 5.jpg, which come from CelebA's 000006.jpg to 000001.jpg in this order."""
    files = {f"CelebA-HQ-img/{number}.jpg": photo(number + 1) for number in range(6)}
    rows = "".join(f"{number}.jpg {1 - 2 * (number % 2)} 1\n" for number in range(6))
    return write(
        root,
        {
            **files,
            "CelebAMask-HQ-attribute-anno.txt": f"6\nBald Young\n{rows}",
            "list_eval_partition.csv": PARTITION,
            "identity_CelebA.txt": PEOPLE,
        },
    )


def test_celeba_hq_beside_celebas_files(tmp_path: Path) -> None:
    """CelebA-HQ numbers its photos in another order, so CelebA's files cannot be used without the mapping."""
    root = celeba_hq(tmp_path)
    with pytest.warns(UserWarning, match="lists none of the photos") as caught:
        source = CelebA(root)
    assert [str(warning.message).split(",")[0].rpartition(": ")[2] for warning in caught] == [
        "identity_CelebA.txt", "list_eval_partition.csv",
    ]  # fmt: skip
    assert_complete(source)
    assert source.identities is None
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 4, "val": 1, "test": 1}
    with pytest.raises(InputError, match=r"identity_CelebA.txt, which lists none of the photos"):
        CelebA(root, strict=True)

    mapping = "".join(f"{number} {5 - number} {6 - number:06}.jpg\n" for number in range(6))
    write(root, {"CelebA-HQ-to-CelebA-mapping.txt": f"idx orig_idx orig_file\n{mapping}"})
    with no_warning():
        source = CelebA(root, strict=True)
    assert source.identities is not None
    assert source.identities.tolist() == [105, 104, 103, 102, 101, 100]
    assert split_lists(source) == {
        "train": [3, 4, 5],
        "val": [2],
        "test": [0, 1],
    }


def test_a_partition_with_another_suffix(folder: Path) -> None:
    write(folder, {"list_eval_partition.csv": PARTITION.replace(".jpg", ".png")})
    with no_warning():
        assert len(CelebA(folder, strict=True).splits["val"]) == 1


# The fingerprint ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["in place", "renamed into place", "linked"])
def test_a_replaced_photo_of_the_same_size_and_mtime_changes_the_fingerprint(way: str, folder: Path) -> None:
    path = folder / "img_align_celeba" / "000003.jpg"
    before, status = CelebA(folder).fingerprint(), path.stat()
    other = bytearray(path.read_bytes())
    other[-20] ^= 1
    if way == "in place":
        path.write_bytes(other)
    else:
        (folder / "other").write_bytes(other)
        os.utime(folder / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
        path.unlink()
        (folder / "other").rename(path) if way == "renamed into place" else path.symlink_to(folder / "other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert CelebA(folder).fingerprint() != before


def test_a_photo_that_is_deleted_after_it_was_listed_is_broken(folder: Path) -> None:
    source = CelebA(folder)
    before = source.fingerprint()
    (folder / "img_align_celeba" / "000003.jpg").unlink()
    assert source.fingerprint() != before
    with pytest.warns(UserWarning, match=r"1 of 6 pictures are broken: .*000003.jpg: cannot be read: No such file"):
        assert len(build_store(source, 16, cache=folder / "cache", workers=1, progress=False)) == 5


@pytest.mark.parametrize(("age", "waited"), [(0, 0.02), (5_000_000, 0.015), (20_000_000, None), (-1, None)])
def test_the_digest_waits_until_the_clock_tick_of_a_new_photo_is_over(
    age: int, waited: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within the same clock tick would keep the file's time. A file server's clock may be ahead."""
    files = write(tmp_path, {"a.jpg": b"", "b.jpg": b""})
    newest = max((files / name).stat().st_ctime_ns for name in ("a.jpg", "b.jpg"))
    monkeypatch.setattr(time, "time_ns", lambda: newest + age)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    FolderPhotos(files, []).digest(["a.jpg", "b.jpg"])
    assert slept == ([] if waited is None else [pytest.approx(waited)])


def test_changed_labels_splits_and_photos_are_used(folder: Path) -> None:
    """Changed photos need a new store. Changed labels and splits do not, because they are not part of it."""

    def store() -> FaceStore:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about rows without a photo
            return build_store(CelebA(folder), 16, cache=folder / ".cache", workers=1, progress=False)

    first = store()
    write(folder, {"list_attr_celeba.csv": ATTRIBUTES.replace(",1\n", ",-1\n")})
    assert store().path == first.path
    assert not store().labels[:, 1].any()
    write(folder, {"list_eval_partition.csv": PARTITION})
    assert store().path == first.path
    assert store().splits["val"].tolist() == [3]
    (folder / "img_align_celeba" / "000003.jpg").unlink()
    fewer = store()
    assert fewer.images[:, 8, 8, 0].tolist() == [10, 20, 40, 50, 60]
    assert fewer.labels[:, 0].tolist() == [1, 0, 0, 1, 0]
    assert fewer.splits["val"].tolist() == [2]
    write(folder / "img_align_celeba", {"000003.jpg": photo(7)})
    assert store().images[:, 8, 8, 0].tolist() == [10, 20, 70, 40, 50, 60]

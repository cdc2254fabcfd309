"""Stores that were damaged after they were built: checksums detect the damage, and the store is built again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ramp_source import RampSource, contents

from igan_fast.data import image_files
from igan_fast.data.store import build_store


def flip_bit(path: Path, position: int) -> None:
    """Flip a bit of the byte at ``position``. The file's size and times stay the same."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path, content: bytes | None = None, link: str | None = None) -> None:
    """Replace the file by another file, a link, or (by default) a folder."""
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    elif link is not None:
        path.symlink_to(link)
    else:
        path.mkdir()


def resave(path: Path, change: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> None:
    np.save(path, change(np.load(path)))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


#: Functions that damage images.npy or store.json, and the beginning of the warning's reason.
DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "first bit of the first image": (
        lambda images, manifest: flip_bit(images, 128), r"images.npy is damaged: it has ch"),
    "last bit of the last image": (lambda images, manifest: flip_bit(images, -1), r"images.npy is damaged"),
    "magic": (lambda images, manifest: flip_bit(images, 0), r"images.npy is damaged"),
    "header": (lambda images, manifest: flip_bit(images, 20), r"images.npy is damaged"),
    "cut": (lambda images, manifest: os.truncate(images, images.stat().st_size - 1), r"images.npy is damaged"),
    "longer": (lambda images, manifest: os.truncate(images, images.stat().st_size + 1), r"images.npy is damaged"),
    "empty": (lambda images, manifest: os.truncate(images, 0), r"images.npy is damaged"),
    "other dtype": (lambda images, manifest: resave(images, lambda a: a.astype(np.int8)), r"images.npy is damaged"),
    "other shape": (lambda images, manifest: resave(images, lambda a: a[:, :, :, :2]), r"images.npy is damaged"),
    "other order": (lambda images, manifest: resave(images, lambda a: a[::-1].copy()), r"images.npy is damaged"),
    "no images": (lambda images, manifest: images.unlink(), r"images.npy is missing"),
    "images a folder": (lambda images, manifest: replace(images), r"images.npy: found a folder, expected a file"),
    "images a device": (lambda images, manifest: replace(images, link="/dev/zero"), r"images.npy: found a device"),
    "images a dead link": (lambda images, manifest: replace(images, link="nowhere"), r"images.npy is missing"),
    "no manifest": (lambda images, manifest: manifest.unlink(), r"store.json: missing"),
    "manifest a folder": (lambda images, manifest: replace(manifest), r"store.json: found a folder"),
    "manifest a device": (lambda images, manifest: replace(manifest, link="/dev/zero"), r"store.json: found a device"),
    "manifest no JSON": (lambda images, manifest: manifest.write_text("[1, 2"), r"store.json: damaged: not JSON"),
    "manifest a list": (lambda images, manifest: manifest.write_text("[1, 2]"), r"store.json: damaged: its content is"),
    "manifest in pieces": (lambda images, manifest: manifest.write_text("{}"), r"store.json: damaged: format is"),
    "manifest nested": (lambda images, manifest: manifest.write_text("[" * 10**5), r"store.json: damaged"),
    "other size": (lambda images, manifest: edit(manifest, size=5), r"store.json is damaged: it has changed"),
    "other broken ones": (lambda images, manifest: edit(manifest, broken=[[3, ""]]), r"store.json is damaged"),
    "no number": (lambda images, manifest: edit(manifest, checksums=[1e999]), r"store.json: damaged"),
    "its folder a file": (
        lambda images, manifest: (shutil.rmtree(images.parent), images.parent.write_text("x")), r"store.json: missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_built_again_with_a_warning_that_gives_the_reason(damage: str, tmp_path: Path) -> None:
    path = build_store(RampSource(20), 6, cache=tmp_path, progress=False).path
    assert path is not None
    act, reason = DAMAGES[damage]
    act(path / "images.npy", path / "store.json")
    source = RampSource(20)
    with pytest.warns(UserWarning, match=rf"^{path}: {reason}.*; the pictures are prepared again$") as caught:
        store = build_store(source, 6, cache=tmp_path, progress=False)
    assert len(caught) == 1
    assert len(source.calls) == 20
    np.testing.assert_array_equal(store.images, [source.image(index, 6) for index in range(20)])
    assert contents(tmp_path) == [path.name]
    again = RampSource(20)
    build_store(again, 6, cache=tmp_path, progress=False)
    assert again.calls == []


def test_rebuilding_a_store_behind_a_link_keeps_the_target(tmp_path: Path) -> None:
    path = build_store(RampSource(20), 6, cache=tmp_path / "cache", progress=False).path
    assert path is not None
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    source = RampSource(20)
    build_store(source, 6, cache=tmp_path / "cache", progress=False)
    assert source.calls == []
    flip_bit(path / "images.npy", 1000)
    with pytest.warns(UserWarning, match="prepared again"):
        build_store(RampSource(20), 6, cache=tmp_path / "cache", progress=False)
    assert not path.is_symlink()
    assert sorted(file.name for file in (tmp_path / "elsewhere").iterdir()) == ["images.npy", "store.json"]


@pytest.mark.parametrize("per_file", [100, 40, 7])
def test_every_byte_of_a_large_store_is_checked(per_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several blocks and files. The first file that is named holds the first byte of the damaged block."""
    size, count = 6, 70
    row = size * size * 3
    monkeypatch.setattr(image_files, "CHECKSUM_BLOCK_BYTES", 1000)
    monkeypatch.setattr(image_files, "FILE_BYTES", per_file * row)
    store = build_store(RampSource(count), size, cache=tmp_path, progress=False)
    assert store.path is not None
    files = image_files.new_files(store.path, size, count)
    expected = image_files.checksums(files, progress=False)
    assert len(expected) == -(-(128 + count * row) // 1000)
    for position in range(0, count * row, 97):
        number, place = divmod(position, per_file * row)
        flip_bit(files[number].path, 128 + place)
        found = image_files.checksums(files, progress=False)
        block = (128 + position) // 1000
        assert [one != other for one, other in zip(found, expected, strict=True)].index(True) == block
        first = files[max(0, block * 1000 - 128) // (per_file * row)]
        assert image_files.opened(store.path, size, expected, progress=False) == first.path.name
        flip_bit(files[number].path, 128 + place)


SEVERAL = {
    "images of the first": (lambda folder: flip_bit(folder / "images-00000.npy", 128), "images-00000.npy is damaged"),
    "images of the last": (lambda folder: flip_bit(folder / "images-00002.npy", -1), "images-0000.*.npy is damaged"),
    "header of the second": (lambda folder: flip_bit(folder / "images-00001.npy", 20), "images-00001.npy is damaged"),
    "second cut": (lambda folder: os.truncate(folder / "images-00001.npy", 500), "images-00001.npy is damaged"),
    "second shorter by an image": (
        lambda folder: resave(folder / "images-00001.npy", lambda images: images[1:]), "images-0000.*.npy is damaged"),
    "first gone": (lambda folder: (folder / "images-00000.npy").unlink(), "images-0000.*.npy is damaged"),
    "last gone": (lambda folder: (folder / "images-00002.npy").unlink(), "images-0000.*.npy is damaged"),
    "all gone": (lambda folder: [file.unlink() for file in folder.glob("images*")], "images.npy is missing"),
    "second a folder": (lambda folder: replace(folder / "images-00001.npy"), "images-00001.npy: found a folder"),
    "one too many": (
        lambda folder: shutil.copy(folder / "images-00002.npy", folder / "images-00003.npy"),
        "images-0000.*.npy is damaged"),
    "the first twice": (
        lambda folder: shutil.copy(folder / "images-00000.npy", folder / "images.npy"), "images.npy is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_a_damaged_store_of_several_files_is_built_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "FILE_BYTES", 8 * 6 * 6 * 3)
    path = build_store(RampSource(20), 6, cache=tmp_path, progress=False).path
    assert path is not None
    act, reason = SEVERAL[name]
    act(path)
    source = RampSource(20)
    with pytest.warns(UserWarning, match=f"{reason}.*prepared again"):
        store = build_store(source, 6, cache=tmp_path, progress=False)
    assert source.calls == list(range(20))
    np.testing.assert_array_equal(store.images, [source.image(index, 6) for index in range(20)])


class Brighter(RampSource):
    """The images of ``RampSource``, each pixel greater by one."""

    def fingerprint(self) -> str:
        return "brighter"

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        return super().image(index, size) + np.uint8(1)


def test_the_digest_depends_on_the_image_data_alone(tmp_path: Path) -> None:
    digest = build_store(RampSource(20), 6, cache=tmp_path, progress=False).digest
    assert digest is not None
    moved = RampSource(20, version="of another folder", attributes=("other", "names"))
    assert build_store(moved, 6, cache=tmp_path, progress=False).digest == digest
    with pytest.warns(UserWarning, match="1 of 20 pictures are broken"):
        fewer = build_store(RampSource(20, broken=frozenset({3})), 6, cache=tmp_path, progress=False)
    others = [
        fewer,
        *(build_store(source, 7, cache=tmp_path, progress=False) for source in (RampSource(20), Brighter(20))),
    ]
    assert len({digest, *(store.digest for store in others)}) == 4


def test_a_repaired_image_is_added_to_the_store(tmp_path: Path) -> None:
    class Repaired(RampSource):
        def fingerprint(self) -> str:  # as for a zip in which a damaged entry was repaired
            return "the same"

    with pytest.warns(UserWarning, match="1 of 9 pictures are broken"):
        assert len(build_store(Repaired(9, broken=frozenset({4})), 4, cache=tmp_path, workers=1, progress=False)) == 8
    with pytest.warns(UserWarning, match="a picture that was broken can be read now; the pictures are prepared again"):
        assert len(build_store(Repaired(9), 4, cache=tmp_path, workers=1, progress=False)) == 9


def test_the_digest_does_not_depend_on_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for rows in (20, 7, 1):
        monkeypatch.setattr(image_files, "FILE_BYTES", rows * 6 * 6 * 3)
        digests.add(build_store(RampSource(20), 6, cache=tmp_path / str(rows), progress=False).digest)
    assert len(digests) == 1

"""``build_store`` and ``FaceStore``: contents, broken images, the cache folder and full disks."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ramp_source import RampSource, contents

from igan_fast.data.image_files import ImageFile
from igan_fast.data.store import build_store, cache_folder, spread
from igan_fast.errors import InputError


@pytest.mark.parametrize("count", [1, 5, 130])  # 130 images are three chunks
def test_the_store_holds_the_images_of_the_source(count: int, tmp_path: Path) -> None:
    source = RampSource(count)
    store = build_store(source, 7, cache=tmp_path, progress=False)
    assert len(store) == count
    assert store.size == 7
    assert store.attributes == source.attributes
    assert store.images.shape == (count, 7, 7, 3)
    assert store.images.dtype == np.uint8
    assert isinstance(store.images, np.memmap)
    assert not store.images.flags.writeable
    np.testing.assert_array_equal(store.images, [source.image(index, 7) for index in range(count)])
    np.testing.assert_array_equal(store.labels, source.labels)
    np.testing.assert_array_equal(store.identities, source.identities)
    for name, rows in source.splits.items():
        np.testing.assert_array_equal(store.splits[name], rows)
    assert store.path is not None
    np.testing.assert_array_equal(np.load(store.path / "images.npy"), store.images)  # a plain .npy file


def test_a_finished_store_is_only_opened(tmp_path: Path) -> None:
    build_store(RampSource(5), 7, cache=tmp_path, progress=False)
    again = RampSource(5, attributes=("other", "names"))
    store = build_store(again, 7, cache=tmp_path, progress=False)
    assert again.calls == []
    assert store.attributes == ("other", "names")


def test_each_source_and_size_has_its_own_store(tmp_path: Path) -> None:
    paths = {build_store(RampSource(5), 7, cache=tmp_path, progress=False).path}
    for source, size in ((RampSource(5), 8), (RampSource(6), 7), (RampSource(5, version="2"), 7)):
        store = build_store(source, size, cache=tmp_path, progress=False)
        assert source.calls == list(range(len(source)))
        assert store.images.shape[1] == size
        paths.add(store.path)
    assert len(paths) == 4


@pytest.mark.parametrize("broken", [{0}, {129}, {0, 1, 64, 129}, {3, 50, 51, 100}, set(range(1, 130))])
def test_broken_images_are_skipped(broken: set[int], tmp_path: Path) -> None:
    source = RampSource(130, broken=frozenset(broken))
    with pytest.warns(UserWarning, match=f"{len(broken)} of 130 pictures are broken: number {min(broken)} is broken"):
        store = build_store(source, 5, cache=tmp_path, progress=False)
    kept = [index for index in range(130) if index not in broken]
    assert store.positions.tolist() == kept
    whole = RampSource(130)
    np.testing.assert_array_equal(store.images, [whole.image(index, 5) for index in kept])
    np.testing.assert_array_equal(store.labels, source.labels[kept])
    assert store.identities is not None
    np.testing.assert_array_equal(store.identities, source.identities[kept])  # type: ignore[index]
    for name, rows in source.splits.items():
        assert [kept[row] for row in store.splits[name]] == [row for row in rows.tolist() if row not in broken]


def test_the_first_three_broken_images_are_named(tmp_path: Path) -> None:
    source = RampSource(9, broken=frozenset({1, 2, 5, 7}))
    named = "4 of 9 pictures are broken: number 1 is broken; number 2 is broken; number 5 is broken; …"
    for _ in range(2):  # the second call opens the finished store
        with pytest.warns(UserWarning, match=named):
            build_store(source, 4, cache=tmp_path, progress=False)


def test_strict_refuses_broken_images(tmp_path: Path) -> None:
    source = RampSource(9, broken=frozenset({4}))
    with pytest.raises(InputError, match="number 4 is broken"):
        build_store(source, 4, cache=tmp_path, strict=True, progress=False)
    assert contents(tmp_path) == []
    with pytest.warns(UserWarning, match="1 of 9 pictures are broken"):
        build_store(source, 4, cache=tmp_path, progress=False)
    with pytest.raises(InputError, match="number 4 is broken"):  # opening the existing store raises too
        build_store(source, 4, cache=tmp_path, strict=True, progress=False)


def test_a_source_whose_images_are_all_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 3 pictures can be read; the first: number 0 is broken"):
        build_store(RampSource(3, broken=frozenset(range(3))), 4, cache=tmp_path, progress=False)
    assert contents(tmp_path) == []
    with pytest.raises(InputError, match="no pictures"):
        build_store(RampSource(0), 4, cache=tmp_path, progress=False)


@pytest.mark.parametrize(("size", "workers", "name"), [(0, 1, "size"), (-4, 1, "size"), (4, 0, "workers")])
def test_bad_arguments_are_refused(size: int, workers: int, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name}: found"):
        build_store(RampSource(3), size, cache=tmp_path, workers=workers)


def test_a_split_whose_images_are_all_broken_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="They are left out, which leaves no pictures for val$"):
        store = build_store(RampSource(9, broken=frozenset({4})), 4, cache=tmp_path, progress=False)
    assert len(store.splits["val"]) == 0


class Stopped(RampSource):
    """A source that is interrupted by Ctrl-C at image 100."""

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        if index == 100:
            raise KeyboardInterrupt
        return super().image(index, size)


def test_ctrl_c_deletes_the_unfinished_build(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_store(Stopped(130), 6, cache=tmp_path, progress=False)
    assert contents(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("moment", ["create", "write"])
def test_a_full_disk_is_an_input_error(code: int, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(ImageFile, moment, fail)
    with pytest.raises(InputError, match=r"the disk is full .*set IGAN_FAST_CACHE"):
        build_store(RampSource(130), 6, cache=tmp_path, progress=False)
    assert contents(tmp_path) == []


def test_a_store_larger_than_the_free_disk_space_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    source = RampSource(130)
    with pytest.raises(InputError, match="130 pictures of 6×6 take 0 MiB, but only 0 MiB are free"):
        build_store(source, 6, cache=tmp_path, progress=False)
    assert source.calls == []
    assert contents(tmp_path) == []


def test_a_file_size_limit_is_reported(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(InputError, match="file-size limit is reached"):
            build_store(RampSource(130), 6, cache=tmp_path, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache: cannot write .*set IGAN_FAST_CACHE"):
        build_store(RampSource(3), 6, cache=tmp_path / "file" / "cache", progress=False)


def test_the_location_of_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGAN_FAST_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("IGAN_FAST_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "igan_fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "igan_fast"


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, [3, 4, 5, 9, 11]), (9, [3, 4, 5, 9, 11]), (5, [3, 4, 5, 9, 11]), (2, [3, 5]), (1, [3]), (0, [])],
)
def test_spread_takes_evenly_spaced_rows(count: int | None, expected: list[int]) -> None:
    assert spread(np.array([3, 4, 5, 9, 11]), count).tolist() == expected

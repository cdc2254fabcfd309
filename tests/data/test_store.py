"""The store: what is in it, and what is left of a build that was stopped."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from igan_fast.data import decode
from igan_fast.data import store as store_module
from igan_fast.data.celeba import CelebA
from igan_fast.data.store import build_store, cache_folder, spread
from igan_fast.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Numbers:
    """A source whose picture i is a ramp that begins at i."""

    count: int
    version: str = "1"
    broken: frozenset[int] = frozenset()
    attributes: tuple[str, ...] = ("even", "third")
    calls: list[int] = field(default_factory=list)

    @property
    def labels(self) -> NDArray[np.uint8]:
        numbers = np.arange(self.count)
        return np.stack([numbers % 2 == 0, numbers % 3 == 0], axis=1).astype(np.uint8)

    @property
    def identities(self) -> NDArray[np.int64] | None:
        return np.arange(self.count) // 2

    @property
    def splits(self) -> Mapping[str, NDArray[np.int64]]:
        numbers = np.arange(self.count)
        return {"train": numbers[numbers % 5 != 4], "val": numbers[numbers % 5 == 4]}

    def __len__(self) -> int:
        return self.count

    def describe(self) -> str:
        return "numbers"

    def fingerprint(self) -> str:
        return f"{self.count}{self.version}{sorted(self.broken)}"

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        self.calls.append(index)
        if index in self.broken:
            raise InputError(f"number {index} is broken")
        return ((np.arange(size * size * 3) + index) % 256).astype(np.uint8).reshape(size, size, 3)


def write_folder(folder: Path, count: int) -> Path:
    """A folder of photos as ``CelebA`` reads it: other processes cannot import a class of this file."""
    (folder / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / f"{number:04}.jpg")
    rows = "".join(f"{number:04}.jpg {1 - 2 * (number % 2)}\n" for number in range(count))
    (folder / "list_attr_celeba.txt").write_text(f"{count}\nBald\n{rows}")
    return folder


def contents(cache: Path) -> list[str]:
    """What is in the cache apart from lock files, which are empty and stay."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another Python process that runs ``code``."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 5, 130])  # 130 are three chunks
def test_the_store_holds_what_the_source_gives(count: int, tmp_path: Path) -> None:
    source = Numbers(count)
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
    build_store(Numbers(5), 7, cache=tmp_path, progress=False)
    again = Numbers(5, attributes=("other", "names"))
    store = build_store(again, 7, cache=tmp_path, progress=False)
    assert again.calls == []
    assert store.attributes == ("other", "names")


def test_another_source_or_size_gets_a_store_of_its_own(tmp_path: Path) -> None:
    paths = {build_store(Numbers(5), 7, cache=tmp_path, progress=False).path}
    for source, size in ((Numbers(5), 8), (Numbers(6), 7), (Numbers(5, version="2"), 7)):
        store = build_store(source, size, cache=tmp_path, progress=False)
        assert source.calls == list(range(len(source)))
        assert store.images.shape[1] == size
        paths.add(store.path)
    assert len(paths) == 4


@pytest.mark.parametrize("broken", [{0}, {129}, {0, 1, 64, 129}, {3, 50, 51, 100}, set(range(1, 130))])
def test_broken_pictures_are_left_out(broken: set[int], tmp_path: Path) -> None:
    source = Numbers(130, broken=frozenset(broken))
    with pytest.warns(UserWarning, match=f"{len(broken)} of 130 pictures are broken: number {min(broken)} is broken"):
        store = build_store(source, 5, cache=tmp_path, progress=False)
    kept = [index for index in range(130) if index not in broken]
    assert store.positions.tolist() == kept
    whole = Numbers(130)
    np.testing.assert_array_equal(store.images, [whole.image(index, 5) for index in kept])
    np.testing.assert_array_equal(store.labels, source.labels[kept])
    assert store.identities is not None
    np.testing.assert_array_equal(store.identities, source.identities[kept])  # type: ignore[index]
    for name, rows in source.splits.items():
        assert [kept[row] for row in store.splits[name]] == [row for row in rows.tolist() if row not in broken]


def test_the_first_three_broken_pictures_are_named(tmp_path: Path) -> None:
    source = Numbers(9, broken=frozenset({1, 2, 5, 7}))
    named = "4 of 9 pictures are broken: number 1 is broken; number 2 is broken; number 5 is broken; …"
    for _ in range(2):  # also when the finished store is opened
        with pytest.warns(UserWarning, match=named):
            build_store(source, 4, cache=tmp_path, progress=False)


def test_strict_refuses_broken_pictures(tmp_path: Path) -> None:
    source = Numbers(9, broken=frozenset({4}))
    with pytest.raises(InputError, match="number 4 is broken"):
        build_store(source, 4, cache=tmp_path, strict=True, progress=False)
    assert contents(tmp_path) == []
    with pytest.warns(UserWarning, match="1 of 9 pictures are broken"):
        build_store(source, 4, cache=tmp_path, progress=False)
    with pytest.raises(InputError, match="number 4 is broken"):  # a store that was built leniently does not hide it
        build_store(source, 4, cache=tmp_path, strict=True, progress=False)


def test_a_source_without_one_whole_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 3 pictures can be read; the first: number 0 is broken"):
        build_store(Numbers(3, broken=frozenset(range(3))), 4, cache=tmp_path, progress=False)
    assert contents(tmp_path) == []
    with pytest.raises(InputError, match="no pictures"):
        build_store(Numbers(0), 4, cache=tmp_path, progress=False)


@pytest.mark.parametrize(("size", "workers", "name"), [(0, 1, "size"), (-4, 1, "size"), (4, 0, "workers")])
def test_bad_arguments_are_refused(size: int, workers: int, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name}: found"):
        build_store(Numbers(3), size, cache=tmp_path, workers=workers)


def flip(path: Path, position: int) -> None:
    """One bit, with the file's size and times as before."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(path: Path, content: bytes | None = None, link: str | None = None) -> None:
    """Something else at ``path``: a file, a link, or a folder."""
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    elif link is not None:
        path.symlink_to(link)
    else:
        path.mkdir()


def resaved(path: Path, change: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> None:
    np.save(path, change(np.load(path)))


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


#: What happens to images.npy and store.json, and what the message says of it.
DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "first bit of the first picture": (lambda images, manifest: flip(images, 128), r"images.npy is damaged: it has ch"),
    "last bit of the last picture": (lambda images, manifest: flip(images, -1), r"images.npy is damaged"),
    "magic": (lambda images, manifest: flip(images, 0), r"images.npy is damaged"),
    "header": (lambda images, manifest: flip(images, 20), r"images.npy is damaged"),
    "cut": (lambda images, manifest: os.truncate(images, images.stat().st_size - 1), r"images.npy is damaged"),
    "longer": (lambda images, manifest: os.truncate(images, images.stat().st_size + 1), r"images.npy is damaged"),
    "empty": (lambda images, manifest: os.truncate(images, 0), r"images.npy is damaged"),
    "other dtype": (lambda images, manifest: resaved(images, lambda a: a.astype(np.int8)), r"images.npy is damaged"),
    "other shape": (lambda images, manifest: resaved(images, lambda a: a[:, :, :, :2]), r"images.npy is damaged"),
    "other order": (lambda images, manifest: resaved(images, lambda a: a[::-1].copy()), r"images.npy is damaged"),
    "no images": (lambda images, manifest: images.unlink(), r"images.npy is missing"),
    "images a folder": (lambda images, manifest: replaced(images), r"images.npy: found a folder, expected a file"),
    "images a device": (lambda images, manifest: replaced(images, link="/dev/zero"), r"images.npy: found a device"),
    "images a dead link": (lambda images, manifest: replaced(images, link="nowhere"), r"images.npy is missing"),
    "no manifest": (lambda images, manifest: manifest.unlink(), r"store.json: missing"),
    "manifest a folder": (lambda images, manifest: replaced(manifest), r"store.json: found a folder"),
    "manifest a device": (lambda images, manifest: replaced(manifest, link="/dev/zero"), r"store.json: found a device"),
    "manifest no JSON": (lambda images, manifest: manifest.write_text("[1, 2"), r"store.json: damaged: not JSON"),
    "manifest a list": (lambda images, manifest: manifest.write_text("[1, 2]"), r"store.json: damaged: its content is"),
    "manifest in pieces": (lambda images, manifest: manifest.write_text("{}"), r"store.json: damaged: format is"),
    "manifest nested": (lambda images, manifest: manifest.write_text("[" * 10**5), r"store.json: damaged"),
    "other size": (lambda images, manifest: edited(manifest, size=5), r"store.json is damaged: it has changed"),
    "other broken ones": (lambda images, manifest: edited(manifest, broken=[[3, ""]]), r"store.json is damaged"),
    "no number": (lambda images, manifest: edited(manifest, checksums=[1e999]), r"store.json: damaged"),
    "its folder a file": (
        lambda images, manifest: (shutil.rmtree(images.parent), images.parent.write_text("x")), r"store.json: missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_built_anew_and_says_why(damage: str, tmp_path: Path) -> None:
    path = build_store(Numbers(20), 6, cache=tmp_path, progress=False).path
    assert path is not None
    act, reason = DAMAGES[damage]
    act(path / "images.npy", path / "store.json")
    source = Numbers(20)
    with pytest.warns(UserWarning, match=rf"^{path}: {reason}.*; the pictures are prepared again$") as caught:
        store = build_store(source, 6, cache=tmp_path, progress=False)
    assert len(caught) == 1
    assert len(source.calls) == 20
    np.testing.assert_array_equal(store.images, [source.image(index, 6) for index in range(20)])
    assert contents(tmp_path) == [path.name]
    again = Numbers(20)
    build_store(again, 6, cache=tmp_path, progress=False)
    assert again.calls == []


def test_the_folder_of_a_store_may_be_a_link_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    path = build_store(Numbers(20), 6, cache=tmp_path / "cache", progress=False).path
    assert path is not None
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    source = Numbers(20)
    build_store(source, 6, cache=tmp_path / "cache", progress=False)
    assert source.calls == []
    flip(path / "images.npy", 1000)
    with pytest.warns(UserWarning, match="prepared again"):
        build_store(Numbers(20), 6, cache=tmp_path / "cache", progress=False)
    assert not path.is_symlink()
    assert sorted(file.name for file in (tmp_path / "elsewhere").iterdir()) == ["images.npy", "store.json"]


def test_every_byte_of_a_large_store_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHECKED_BYTES", 1000)  # as if it had as many pieces as a store of 10 GB
    images = tmp_path / "images.npy"
    images.write_bytes(np.random.default_rng(0).bytes(4321))
    before = store_module._checksums(images, progress=False)
    assert len(before) == 5
    for position in range(0, 4321, 97):
        flip(images, position)
        found = store_module._checksums(images, progress=False)
        assert [one != other for one, other in zip(found, before, strict=True)].index(True) == position // 1000
        flip(images, position)


class Brighter(Numbers):
    """Numbers, each picture a little brighter."""

    def fingerprint(self) -> str:
        return "brighter"

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        return super().image(index, size) + np.uint8(1)


def test_the_digest_is_of_the_pictures_alone(tmp_path: Path) -> None:
    digest = build_store(Numbers(20), 6, cache=tmp_path, progress=False).digest
    assert digest is not None
    moved = Numbers(20, version="of another folder", attributes=("other", "names"))
    assert build_store(moved, 6, cache=tmp_path, progress=False).digest == digest
    with pytest.warns(UserWarning, match="1 of 20 pictures are broken"):
        fewer = build_store(Numbers(20, broken=frozenset({3})), 6, cache=tmp_path, progress=False)
    others = [
        fewer,
        *(build_store(source, 7, cache=tmp_path, progress=False) for source in (Numbers(20), Brighter(20))),
    ]
    assert len({digest, *(store.digest for store in others)}) == 4


def test_a_split_that_is_broken_altogether_is_said_to_be(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="They are left out, and nothing is left of val$"):
        store = build_store(Numbers(9, broken=frozenset({4})), 4, cache=tmp_path, progress=False)
    assert len(store.splits["val"]) == 0


class Stopped(Numbers):
    """Numbers that Ctrl-C stops."""

    def image(self, index: int, size: int) -> NDArray[np.uint8]:
        if index == 100:
            raise KeyboardInterrupt
        return super().image(index, size)


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_store(Stopped(130), 6, cache=tmp_path, progress=False)
    assert contents(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("moment", ["create", "write"])
def test_a_full_disk_is_said_to_be_full(
    code: int, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(decode.ImageFile, moment, fail)
    with pytest.raises(InputError, match=r"the disk is full .*set IGAN_FAST_CACHE"):
        build_store(Numbers(130), 6, cache=tmp_path, progress=False)
    assert contents(tmp_path) == []


def test_a_store_that_cannot_fit_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    source = Numbers(130)
    with pytest.raises(InputError, match="130 pictures of 6×6 take 0 MiB, but only 0 MiB are free"):
        build_store(source, 6, cache=tmp_path, progress=False)
    assert source.calls == []
    assert contents(tmp_path) == []


def test_a_file_that_the_kernel_refuses_is_noticed(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(InputError, match="file-size limit is reached"):
            build_store(Numbers(130), 6, cache=tmp_path, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache: cannot write .*set IGAN_FAST_CACHE"):
        build_store(Numbers(3), 6, cache=tmp_path / "file" / "cache", progress=False)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGAN_FAST_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("IGAN_FAST_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "igan_fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "igan_fast"


# Several processes --------------------------------------------------------------------------------------------------


def test_workers_build_the_same_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "data", 150)
    (folder / "img_align_celeba" / "0070.jpg").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"1 of 150 .*0070.jpg"):
        store = build_store(CelebA(folder), 16, cache=tmp_path / "two", workers=2)
    bar = capsys.readouterr()
    assert "Preparing 16×16 pictures: 100%" in bar.err
    assert bar.out == ""
    with pytest.warns(UserWarning, match="0070.jpg"):
        alone = build_store(CelebA(folder), 16, cache=tmp_path / "one", workers=1, progress=False)
    np.testing.assert_array_equal(store.images, alone.images)
    np.testing.assert_array_equal(store.labels, alone.labels)


@pytest.mark.slow
def test_strict_reaches_through_workers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", 150)
    (folder / "img_align_celeba" / "0070.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"0070.jpg: is not a photo in a format that is read here"):
        build_store(CelebA(folder), 16, cache=tmp_path / "cache", workers=2, strict=True, progress=False)
    assert contents(tmp_path / "cache") == []


#: Says when it is half done, and waits there.
SLOW_BUILD = """
    import sys, time
    from pathlib import Path
    from igan_fast.data import build_store, celeba, open_source

    def slowly(photos, name, size, decode=celeba.decode_photo):
        if name.endswith("0100.jpg"):
            print("half", flush=True)
            time.sleep(60)
        return decode(photos, name, size)

    celeba.decode_photo = slowly
    build_store(open_source(sys.argv[1]), 16, cache=Path(sys.argv[2]), workers=1, progress=False)
"""


def test_a_killed_build_is_no_store_and_is_swept_up(tmp_path: Path) -> None:
    folder, cache = write_folder(tmp_path / "data", 130), tmp_path / "cache"
    process = run(SLOW_BUILD, folder, cache)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    (left,) = contents(cache)
    assert ".tmp-" in left
    assert (cache / left / "images.npy").exists()

    source = CelebA(folder)
    store = build_store(source, 16, cache=cache, progress=False)
    assert store.path is not None
    assert contents(cache) == [store.path.name]
    np.testing.assert_array_equal(store.images[129], source.image(129, 16))


def test_two_builds_at_once_share_one_store(tmp_path: Path) -> None:
    folder, cache = write_folder(tmp_path / "data", 130), tmp_path / "cache"
    code = """
        import sys
        from pathlib import Path
        from igan_fast.data import build_store, open_source
        source = open_source(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        store = build_store(source, 16, cache=Path(sys.argv[2]), workers=1, progress=False)
        assert all((store.images[i] == source.image(i, 16)).all() for i in (0, 64, 129))
    """
    processes = [run(code, folder, cache) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(contents(cache)) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_of_a_killed_build_end(tmp_path: Path) -> None:
    """Started from a script without a guard, which must not run again in the workers."""
    folder, cache, script = write_folder(tmp_path / "data", 256), tmp_path / "cache", tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from igan_fast.data import build_store, decode, open_source
        print("begun", flush=True)
        decode.as_completed = lambda tasks: time.sleep(60)
        build_store(open_source(sys.argv[1]), 16, cache=Path(sys.argv[2]), workers=2, progress=False)
        """)
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(cache)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    wait_for(lambda: len(session(process.pid)) >= 3)  # itself and two workers (and a helper of multiprocessing)
    process.kill()
    rest, _ = process.communicate(timeout=30)
    assert rest == ""  # the workers did not begin the script again
    wait_for(lambda: not session(process.pid))


def session(leader: int) -> list[int]:
    """The living processes of a session, from Linux's /proc."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            members.append(int(status.parent.name))
    return members


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.celeba
def test_a_store_of_real_photos(celeba_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba.zip").symlink_to(celeba_folder / "img_align_celeba.zip")
    lines = (celeba_folder / "list_attr_celeba.txt").read_text().splitlines()
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["200", *lines[1:202]]))
    with pytest.warns(UserWarning, match="photos without a row"):
        source = CelebA(tmp_path)
    store = build_store(source, 64, cache=tmp_path / "cache", workers=1, strict=True, progress=False)
    assert store.images.shape == (200, 64, 64, 3)
    assert 60 < store.images.mean() < 180
    np.testing.assert_array_equal(store.images[137], source.image(137, 64))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, [3, 4, 5, 9, 11]), (9, [3, 4, 5, 9, 11]), (5, [3, 4, 5, 9, 11]), (2, [3, 5]), (1, [3]), (0, [])],
)
def test_spread_takes_evenly_spaced_rows(count: int | None, expected: list[int]) -> None:
    assert spread(np.array([3, 4, 5, 9, 11]), count).tolist() == expected


def test_a_picture_that_was_mended_is_taken_up(tmp_path: Path) -> None:
    class Mended(Numbers):
        def fingerprint(self) -> str:  # as of a zip whose damaged byte its table of contents does not show
            return "the same"

    with pytest.warns(UserWarning, match="1 of 9 pictures are broken"):
        assert len(build_store(Mended(9, broken=frozenset({4})), 4, cache=tmp_path, workers=1, progress=False)) == 8
    with pytest.warns(UserWarning, match="a picture that was broken can be read now; the pictures are prepared again"):
        assert len(build_store(Mended(9), 4, cache=tmp_path, workers=1, progress=False)) == 9

"""Stores built by several processes, by two programs at once, and by one that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ramp_source import contents

from igan_fast.data.celeba import CelebA
from igan_fast.data.store import build_store
from igan_fast.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def write_folder(folder: Path, count: int) -> Path:
    """Write a dataset for ``CelebA``. Worker processes cannot import a source class of this test module."""
    (folder / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / f"{number:04}.jpg")
    rows = "".join(f"{number:04}.jpg {1 - 2 * (number % 2)}\n" for number in range(count))
    (folder / "list_attr_celeba.txt").write_text(f"{count}\nBald\n{rows}")
    return folder


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that runs ``code``."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


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
def test_strict_raises_in_workers_too(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", 150)
    (folder / "img_align_celeba" / "0070.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"0070.jpg: is not a photo in a format that is read here"):
        build_store(CelebA(folder), 16, cache=tmp_path / "cache", workers=2, strict=True, progress=False)
    assert contents(tmp_path / "cache") == []


#: Builds a store, but prints "half" before the image 100 and waits.
SLOW_BUILD = """
    import sys, time
    from pathlib import Path
    from igan_fast.data import build_store, celeba, open_source

    def slowly(photos, name, size, align, decode=celeba.decode_photo):
        if name.endswith("0100.jpg"):
            print("half", flush=True)
            time.sleep(60)
        return decode(photos, name, size, align)

    celeba.decode_photo = slowly
    build_store(open_source(sys.argv[1]), 16, cache=Path(sys.argv[2]), workers=1, progress=False)
"""


def test_a_killed_build_is_not_a_store_and_is_cleaned_up(tmp_path: Path) -> None:
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
    """The script has no ``if __name__ == "__main__"`` guard, so the workers must not import it."""
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
    wait_for(lambda: len(session(process.pid)) >= 3)  # the parent, two workers, and multiprocessing's tracker
    process.kill()
    rest, _ = process.communicate(timeout=30)
    assert rest == ""  # no worker ran the script
    wait_for(lambda: not session(process.pid))


def session(leader: int) -> list[int]:
    """The IDs of the running processes of a session, from Linux's /proc."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            members.append(int(status.parent.name))
    return members


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {seconds} s"
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

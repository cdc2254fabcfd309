"""Where results go: a JSON file that is whole at any moment, and names that are kept apart."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igan_fast.app import results
from igan_fast.app.results import (
    IncrementalJson,
    SomePhotosFailed,
    check_results,
    read_photos,
    result_paths,
    sheet_fits,
)
from igan_fast.errors import InputError
from igan_fast.faces import FaceSearch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, set by hand."""
    now = [0.0]
    monkeypatch.setattr(results.time, "monotonic", lambda: now[0])
    return now


def test_a_growing_object_is_written_every_few_seconds_and_at_the_end(tmp_path: Path, clock: list[float]) -> None:
    file = tmp_path / "new" / "p.json"
    values = {f"photo {k}": {"Smiling": k / 7, "Male": None, "é": "\udce9"} for k in range(5)}
    keys = list(values)
    with IncrementalJson(file) as growing:
        for key in keys[:2]:
            growing.add({key: values[key]})
        assert not file.exists()
        clock[0] += 6
        growing.add({keys[2]: values[keys[2]]})
        assert list(json.loads(file.read_text())) == keys[:3]
        growing.add({keys[3]: values[keys[3]]})
        assert list(json.loads(file.read_text())) == keys[:3]
        growing.add({keys[4]: values[keys[4]]})
    assert file.read_text() == json.dumps(values, indent=2) + "\n"
    assert list(file.parent.iterdir()) == [file]


def test_a_growing_object_keeps_what_there_is(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text("old")

    def stop(entries: dict[str, int]) -> None:
        with IncrementalJson(file) as growing:
            growing.add(entries)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop({})
    assert file.read_text() == "old"
    with pytest.raises(KeyboardInterrupt):
        stop({"a": 1, "b": 2})
    assert json.loads(file.read_text()) == {"a": 1, "b": 2}


def test_a_large_file_is_written_rarely(tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []

    def slow(path: Path, data: bytes) -> None:
        written.append(clock[0])
        clock[0] += 10

    monkeypatch.setattr(results, "write_file", slow)
    with IncrementalJson(tmp_path / "p.json") as growing:
        for second in range(1000):
            clock[0] += 1
            growing.add({str(second): second})
    assert 1 < len(written) < 10


def photos(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.startswith("bad"):
            (folder / name).write_text("no photo")
        else:
            Image.fromarray(np.full((20, 20, 3), len(name), np.uint8)).save(folder / name, format="PNG")
    return [folder / name for name in names]


def test_photos_come_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "PHOTOS_AT_A_TIME", 2)
    given = photos(tmp_path, "a", "bb", "bad1", "bad2", "ccc", "bad3")
    found: list[tuple[list[str], list[int]]] = []

    def read() -> None:
        for paths, opened in read_photos(given, FaceSearch(16, "off")):
            assert all(photo.crops.shape == (1, 16, 16, 3) for photo in opened)
            found.append(([path.name for path in paths], [int(photo.crops.mean()) for photo in opened]))

    with pytest.raises(SomePhotosFailed, match="3 of 6 photos could not be used"):
        read()
    assert found == [(["a", "bb"], [1, 2]), (["ccc"], [3])]
    assert [line.split(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        str(path) for path in given[2:4] + given[5:]
    ]


def test_names(tmp_path: Path) -> None:
    one, two = tmp_path / "x.jpg", tmp_path / "y.tar.png"
    out = tmp_path / "out"
    assert result_paths([one, two], out, "edited") == [out / "x-edited.png", out / "y.tar-edited.png"]
    assert result_paths([one], out / "z.png", "edited") == [out / "z.png"]
    (tmp_path / "folder.png").mkdir()
    assert result_paths([one], tmp_path / "folder.png", "edited") == [tmp_path / "folder.png/x-edited.png"]


def test_a_folder_that_is_read_is_not_written_into_over_its_files(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data/a/b.json", tmp_path / "c.json"
    inside.parent.mkdir(parents=True)
    for file in (inside, outside):
        file.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    check_results([outside, tmp_path / "data/new.json"], force=True, given=[tmp_path / "data", tmp_path / "gone"])
    for given in (tmp_path / "data", tmp_path / "link", tmp_path / "data/a", inside):
        for file in (inside, tmp_path / "link/a/b.json", tmp_path / "data/a/../a/b.json"):
            with pytest.raises(InputError, match="is read by this command, and is never written over"):
                check_results([file], force=True, given=[given])


def test_a_link_to_nothing_is_there_too(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="exists already; --force writes over it"):
        check_results([tmp_path / "x.json"], force=False)


def test_how_much_one_picture_may_hold() -> None:
    assert sheet_fits(64, 128)
    assert sheet_fits(5000, 128)
    assert not sheet_fits(6000, 128)
    assert not sheet_fits(2000, 128, rows=3)
    assert not sheet_fits(10**12, 32)


def test_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/\xe9"))
    given = photos(folder, os.fsdecode(b"caf\xe9"))
    (named,) = result_paths(given, folder, "edited")
    assert bytes(named) == bytes(tmp_path) + b"/\xe9/caf\xe9-edited.png"
    assert len(list(read_photos(given, FaceSearch(16, "off")))) == 1
    bad = photos(folder, "bad", "bad\n\x1b[31m")
    with pytest.raises(InputError, match="none of the 2 photos"):
        list(read_photos(bad, FaceSearch(16, "off")))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_a_link_in_a_circle_is_written_over_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to("x.json")
    check_results([tmp_path / "x.json"], force=True, given=[tmp_path / "data", Path(__file__).parent])
    with pytest.raises(InputError, match="exists already"):
        check_results([tmp_path / "x.json"], force=False)


@pytest.mark.parametrize("target", ["gone", "folder"])
def test_a_folder_that_is_a_link_to_nothing_is_refused_before_the_work(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").symlink_to(target)
    with pytest.raises(InputError, match="folder is a broken link, expected a folder"):
        check_results([tmp_path / "folder/below/x.png"], force=False)

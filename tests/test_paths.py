"""Paths as people type them, on the command line and in Python."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from igan_fast.data import build_store, cache_folder, open_source
from igan_fast.errors import InputError
from igan_fast.paths import given_path
from igan_fast.train.config import TrainConfig


def test_a_home_is_found_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    me = pwd.getpwuid(os.getuid())
    for text, path in (
        ("~", "/home/me"),
        ("~/a b", "/home/me/a b"),
        (f"~{me.pw_name}/x", f"{me.pw_dir}/x"),
        ("a/~/b", "a/~/b"),
        (" ", " "),
    ):
        assert given_path(text, "path") == given_path(Path(text), "path") == Path(path)
    # pathlib shortens it to ~x; looked at again it is still no home.
    assert given_path(given_path("./~x", "path"), "path") == tmp_path / "~x"


def test_a_file_of_such_a_name_is_meant_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "~notes.jpg").touch()
    (tmp_path / "~").mkdir()  # what a program made that did not know of homes: never meant
    assert given_path("~notes.jpg", "path") == Path("~notes.jpg")
    assert given_path("~/x", "path") == Path("/home/me/x")
    with pytest.raises(InputError, match=r"path: ~nobody-here/x: there is no user 'nobody-here'; write \./~nobody"):
        given_path("~nobody-here/x", "path")


def test_nothing_is_no_path() -> None:
    with pytest.raises(InputError, match="name: is empty; expected a path"):
        given_path("", "name")
    with pytest.raises(InputError, match=r"name: found .*NUL"):
        given_path("a\0b", "name")


def test_a_config_takes_paths_as_the_command_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = TrainConfig(data="~/celeba", run="~/run", cache=Path("~/cache"))  # type: ignore[arg-type]
    assert (config.data, config.run, config.cache) == ("/home/me/celeba", Path("/home/me/run"), Path("/home/me/cache"))
    assert TrainConfig(data=Path("~/celeba")).data == "/home/me/celeba"  # type: ignore[arg-type]
    for name in ("run", "cache"):
        with pytest.raises(InputError, match=f"{name}: is empty"):
            TrainConfig(**{name: ""})  # type: ignore[arg-type]


def test_a_folder_called_drawn_is_no_built_in_face() -> None:
    assert TrainConfig(data="drawn").data == "drawn"
    assert TrainConfig(data=Path("drawn")).data == "./drawn"  # type: ignore[arg-type]
    assert TrainConfig(data=Path("./drawn")).data == "./drawn"  # type: ignore[arg-type]
    assert TrainConfig(data="./drawn").data == "./drawn"


def test_a_config_is_loaded_from_below_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path / 'gone'}"):
        TrainConfig.load("~/gone")


def test_the_cache_lies_below_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value, expected in (
        ("IGAN_FAST_CACHE", "~/c", "/home/me/c"),
        ("XDG_CACHE_HOME", "~/c", "/home/me/c/igan_fast"),
        ("XDG_CACHE_HOME", "", "/home/me/.cache/igan_fast"),
    ):
        with monkeypatch.context() as setting:
            setting.delenv("IGAN_FAST_CACHE", raising=False)
            setting.setenv(name, value)
            assert cache_folder() == Path(expected)
    monkeypatch.setenv("IGAN_FAST_CACHE", "~nobody-here/c")
    with pytest.raises(InputError, match="IGAN_FAST_CACHE: ~nobody-here/c: there is no user"):
        cache_folder()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number nobody has given a name."""
    monkeypatch.delenv("HOME")
    for name in ("IGAN_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(_: object) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(InputError, match=r"the cache: ~/\.cache: the home folder of this user is not known; set HOME"):
        cache_folder()


def test_data_below_a_home_in_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for data in ("~/gone", Path("~/gone")):
        with pytest.raises(InputError, match=f"{tmp_path / 'gone'}: no such folder"):
            open_source(data)
    with pytest.raises(InputError, match="there is no user 'nobody-here'"):
        open_source("~nobody-here/x")
    store = build_store(open_source("drawn", drawn_count=2), 32, cache="~/cache", progress=False)
    assert store.path is not None
    assert store.path.parent == tmp_path / "cache"


@pytest.mark.parametrize("path", [None, b"photo.jpg", 3])
def test_what_is_no_path(path: object) -> None:
    with pytest.raises(InputError, match=r"^run: found .*, expected a path$"):
        TrainConfig.load(path)  # type: ignore[arg-type]

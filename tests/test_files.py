"""Reading files with a size limit, unpredictable temporary names, and messages without control characters."""

from __future__ import annotations

import errno
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from igan_fast import files
from igan_fast.errors import InputError, printable
from igan_fast.files import (
    FileDamaged,
    FileMissing,
    FileUnreadable,
    is_temporary_name,
    read_file,
    replace_file,
    temporary_path,
    write_durably,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name – é.jpg", "plain name – é.jpg"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2Jred", r"\x1b[2Jred"),
        ("\x9b1mC1", r"\x9b1mC1"),
        ("gnp.\u202ephoto", r"gnp.\u202ephoto"),
        ("line\u2028end", r"line\u2028end"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    error = InputError(f"{text}: missing")
    assert str(error) == f"{shown}: missing"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    str(error).encode("utf-8")


def test_read_file_takes_a_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert read_file(tmp_path / "link", limit=5) == b"12345"
    with pytest.raises(FileDamaged, match="is 5 bytes long, expected at most 4"):
        read_file(tmp_path / "a", limit=4)


def test_read_file_refuses_pipes_and_devices_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    cases: list[tuple[str, type[InputError], str]] = [
        ("pipe", FileDamaged, "found a pipe"),
        ("zero", FileDamaged, "found a device"),
        (".", FileDamaged, "found a folder"),
        ("dangling", FileMissing, "missing"),
        ("absent", FileMissing, "missing"),
        ("a\0b", FileMissing, r"a\\x00b"),
        ("loop", FileUnreadable, "cannot be read"),
    ]
    for name, kind, message in cases:
        with pytest.raises(kind, match=message):
            read_file(tmp_path / name, limit=100)


def test_an_error_of_the_system_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    real = os.open
    for number in (errno.EACCES, errno.EIO, errno.ESTALE):

        def refused(name: Any, *more: Any, number: int = number) -> int:
            if name == path:
                raise OSError(number, os.strerror(number))
            return real(name, *more)

        monkeypatch.setattr(files.os, "open", refused)
        with pytest.raises(FileUnreadable, match=os.strerror(number)):
            read_file(path, limit=10)


def test_an_error_while_reading_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"1")
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)

    class Failing(io.BytesIO):
        def fileno(self) -> int:
            return descriptor

        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "open", lambda *_, **__: Failing(), raising=False)
    with pytest.raises(FileUnreadable, match="Input/output error"):
        read_file(tmp_path / "a", limit=10)
    os.close(descriptor)


def test_temporary_names_are_unique_and_recognised(tmp_path: Path) -> None:
    names = {temporary_path(tmp_path / "log.jsonl").name for _ in range(100)}
    assert len(names) == 100
    assert all(map(is_temporary_name, names))
    assert not any(
        map(is_temporary_name, ["tmp-backup", ".tmp-mine", ".tmp-log-0123456789abcdef.old", "step-00000001"])
    )


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    link = folder / ".tmp-0000000000000000"
    link.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_durably(link, b"overwritten")
    monkeypatch.setattr(files, "temporary_path", lambda target: link)  # an attacker has guessed the name
    with pytest.raises(FileExistsError):
        replace_file(folder / "config.json", b"overwritten")
    assert victim.read_text() == "precious"
    assert not (folder / "config.json").exists()


def test_replacing_a_link_keeps_its_target(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "log").symlink_to("victim")
    replace_file(tmp_path / "log", b"new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "log").read_bytes() == b"new"
    assert not (tmp_path / "log").is_symlink()


def test_written_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "🙂" * 63):
        replace_file(tmp_path / name, b"1")
    assert {len(path.name) for path in tmp_path.iterdir()} == {255, 63}

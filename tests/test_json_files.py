"""Our own JSON, damaged in every way: one line that names the file, and the value where there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from igan_fast.files import FileDamaged, FileMissing
from igan_fast.json_files import Natural, check_json, parse_json, read_json

SHAPE = {"format": Natural, "files": {str: {"bytes": Natural, "sha256": str}}, "score": float, "best": (dict, None)}
GOOD = {"format": 1, "files": {"a": {"bytes": 3, "sha256": "ff"}}, "score": 1, "best": None, "more": [1]}


def test_what_is_whole_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(GOOD))
    assert read_json(path, SHAPE) == GOOD
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())  # as some editors save it
    assert read_json(path, SHAPE) == GOOD
    path.write_text(json.dumps({"name": os.fsdecode(b"caf\xe9")}))  # a file name that is no UTF-8
    assert read_json(path) == {"name": os.fsdecode(b"caf\xe9")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "1e999 is beyond the range of floats"),
        (b'{"a": ' + b"9" * 5000 + b"}", "9{20}… is a number of 5000 digits"),
        (b'{"a": -' + b"9" * 400 + b"}", "is a number of 401 digits"),
        (b'{"a": 1, "a": 2}', "the name 'a' occurs twice"),
        (b'{"b": {"a": 1, "a": 2}}', "the name 'a' occurs twice"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "nested more than 32 deep"),
        (b"[" * 1000 + b"]" * 1000, "nested more than 32 deep"),
        (b"[" * 200_000 + b"]" * 200_000, "nested more than 32 deep"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "nested more than 32 deep"),
        (b'{"a": "\xe9"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"[1]", r"its content is \[1\], expected an object"),
        (b"null", "its content is null, expected an object"),
        (b'{"a": 1} {"a": 1}', "not JSON"),
        (b'{"a": 1}\0\0\0', "not JSON"),
    ],
)
def test_damage_is_one_line_with_the_files_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(FileDamaged, match=message) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: damaged: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1.0}, "format is 1.0, expected a whole number from 0 to 2⁶³ − 1"),
        ({"format": -1}, "format is -1, expected a whole number from 0 to 2⁶³ − 1"),
        ({"format": 2**63}, "format is 9223372036854775808, expected a whole number from 0 to 2⁶³ − 1"),
        ({"format": True}, "format is True, expected a whole number from 0 to 2⁶³ − 1"),
        ({"format": "1"}, "format is '1', expected a whole number from 0 to 2⁶³ − 1"),
        ({"files": []}, r"files is \[\], expected an object"),
        ({"files": {"a": 3}}, "files.a is 3, expected an object"),
        ({"files": {"a": {"bytes": 3}}}, "files.a.sha256 is missing"),
        ({"files": {"a": {"bytes": None, "sha256": ""}}}, "files.a.bytes is null"),
        ({"score": "1"}, "score is '1', expected a number"),
        ({"score": False}, "score is False, expected a number"),
        ({"best": 0}, "best is 0, expected an object or null"),
        ({"score": "x" * 10_000}, "score is 'x+\\.\\.\\.x+', expected a number"),
    ],
)
def test_another_type_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FileDamaged, match=message):
        parse_json(json.dumps(GOOD | change).encode(), "x.json", SHAPE)


def test_a_missing_name_and_an_item_of_a_list() -> None:
    with pytest.raises(FileDamaged, match=r"x\.json: damaged: format is missing"):
        parse_json(b"{}", "x.json", SHAPE)
    with pytest.raises(FileDamaged, match=r"x\.json: damaged: broken\[1\]\[0\] is 'b', expected a whole number"):
        check_json({"broken": [[1], ["b"]]}, {"broken": [[int]]}, "x.json")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        read_json(tmp_path / "x.json")
    with pytest.raises(FileDamaged, match="found a folder"):
        read_json(tmp_path)
    (tmp_path / "x.json").write_text("{}" + " " * 100)
    with pytest.raises(FileDamaged, match="expected at most 50"):
        read_json(tmp_path / "x.json", limit=50)

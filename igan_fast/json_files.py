"""Reads the package's JSON files and checks the types of their contents. An error is one line."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igan_fast.files import FileDamaged, read_file

__all__ = ["MAX_BYTES", "Natural", "check_json", "parse_json", "read_json"]

#: Far more than the size of any JSON file of the package. The longest contains a store's list of broken photos.
MAX_BYTES = 64 * 2**20

#: Deeper than any JSON file of the package, and far below Python's recursion limit.
_MAX_DEPTH = 32

#: A longer number is neither a count nor a seed, and too large for a float.
_MAX_DIGITS = 300


class Natural:
    """A shape for :func:`check_json`: a whole number from 0 to 2⁶³ − 1, such as a count or an index."""


def read_json(path: Path, shape: Any = None, *, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Read the JSON object in one of the package's files.

    Args:
        path: the file.
        shape: what the object must contain, as for :func:`check_json`. By default anything is accepted.
        limit: the largest size in bytes.

    Raises:
        FileMissing, FileUnreadable, FileDamaged: as :func:`igan_fast.files.read_file`; ``FileDamaged`` also if the
            content is not a JSON object, or if it contains NaN, Infinity, a number outside the range of floats, a name
            twice, or a value whose type does not match ``shape``.
    """
    return parse_json(read_file(path, limit=limit), path, shape)


def parse_json(data: bytes, where: str | Path, shape: Any = None) -> dict[str, Any]:
    """Parse bytes as :func:`read_json` parses a file. Messages call them ``where``."""
    try:
        content = json.loads(
            data.decode("utf-8-sig"),
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_bounded,
            object_pairs_hook=_without_repeats,
        )
        _check_depth(content)
    except UnicodeDecodeError:
        raise FileDamaged(f"{where}: damaged: not JSON (not UTF-8)") from None
    except RecursionError:
        raise FileDamaged(f"{where}: damaged: nested more than {_MAX_DEPTH} deep") from None
    except ValueError as error:
        raise FileDamaged(f"{where}: damaged: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise FileDamaged(_message(where, "", content, "an object"))
    if shape is not None:
        check_json(content, shape, where)
    return content


def check_json(value: object, shape: Any, where: str | Path, name: str = "") -> None:
    """Check that a value from JSON has the type that ``shape`` says.

    Args:
        value: the value.
        shape: ``str``, ``bool``, ``int``, ``float`` (whole numbers too, but no bool), ``Natural``, ``dict`` or ``list``
            of anything; ``[shape]`` for a list of any length; ``{str: shape}`` for an object with any names;
            ``{"name": shape, …}`` for an object with at least these names; a tuple for any of several shapes, one of
            which may be ``None``.
        where: the file, for the message.
        name: the value's name in the file, for the message.

    Raises:
        FileDamaged: names the file and the value, what was found and what was expected.
    """
    if isinstance(shape, tuple):
        if not any(_fits(value, one) for one in shape):
            expected = " or ".join("null" if one is None else _word(one) for one in shape)
            raise FileDamaged(_message(where, name, value, expected))
        shape = next(one for one in shape if _fits(value, one))
    if not _fits(value, shape):
        raise FileDamaged(_message(where, name, value, _word(shape)))
    if isinstance(shape, list) and isinstance(value, list):
        for index, item in enumerate(value):
            check_json(item, shape[0], where, f"{name}[{index}]")
    elif isinstance(shape, dict) and isinstance(value, dict):
        prefix = f"{name}." if name else ""
        for key, inner in value.items() if str in shape else shape.items():
            if key not in value:
                raise FileDamaged(f"{where}: damaged: {prefix}{key} is missing")
            check_json(value[key], shape.get(str, inner), where, f"{prefix}{key}")


def _fits(value: object, shape: Any) -> bool:
    """Whether the outermost type is right."""
    if shape is None:
        return value is None
    if isinstance(shape, dict | list):
        return isinstance(value, type(shape))
    if isinstance(value, bool):
        return shape is bool
    if shape is Natural:
        return isinstance(value, int) and 0 <= value < 2**63
    return isinstance(value, int | float if shape is float else shape)


def _word(shape: Any) -> str:
    kind = type(shape) if isinstance(shape, dict | list) else shape
    words = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "an object",
             list: "a list", Natural: "a whole number from 0 to 2⁶³ − 1"}  # fmt: skip
    return words[kind]


def _message(where: str | Path, name: str, value: object, expected: str) -> str:
    found = "null" if value is None else reprlib.repr(value)
    return f"{where}: damaged: {name or 'its content'} is {found}, expected {expected}"


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond the range of floats")
    return value


def _bounded(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:20]}… is a number of {len(text)} digits")
    return int(text)


def _without_repeats(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice")
    return values


def _check_depth(content: object) -> None:
    layer, depth = [content], 0
    while layer:
        depth += 1
        if depth > _MAX_DEPTH:
            raise RecursionError
        layer = [
            item
            for value in layer
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]

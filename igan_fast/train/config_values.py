"""The form and the type of an option's value, whether it was typed, written in Python or read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from igan_fast.paths import given_path

__all__ = ["ALSO_TAKEN", "converted", "wrong_type"]

#: What a caller may also give, and what it becomes: a run compares and saves one form of each.
ALSO_TAKEN: dict[str, tuple[type, type]] = {
    "data": (Path, str), "cache": (str, Path), "run": (str, Path),
    "attributes": (list, tuple), "betas": (list, tuple), "lambdas": (list, tuple), "sample_attributes": (list, tuple),
}  # fmt: skip


def converted(name: str, value: Any) -> Any:
    """The one form of the option ``name``'s value, a folder without ``~``.

    Raises:
        InputError: a folder that is no path, as ``igan_fast.paths.given_path``.
    """
    if name not in ALSO_TAKEN:
        return value
    given, kept = ALSO_TAKEN[name]
    if kept is Path and isinstance(value, str | Path):
        return given_path(value, name)
    if name == "data" and isinstance(value, str | Path):
        if value == Path("drawn"):
            return "./drawn"  # a folder of that name, not the built-in faces
        text = str(value)  # as it is: a Path would make the built-in faces of ./drawn
        return str(given_path(value, name)) if text.startswith("~") or "\0" in text else text
    return kept(value) if isinstance(value, given) else value


def wrong_type(value: object, expected: Any) -> str:
    """Why an option of the type ``expected`` cannot have this value; empty where it can."""
    # Here, so that what needs no checked config (the iteration, its benchmarks) does without the package.
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    items = value if isinstance(value, tuple) else (value,)
    if any(isinstance(item, bool) for item in items) and expected not in (bool, bool | None):
        return "true and false are no numbers"  # though Python takes them for some
    if any(isinstance(item, int) and abs(item) >= 2**63 for item in items):
        return "is beyond 64 bits"
    try:
        check_type(value, expected, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        return " ".join(str(error).split())
    return ""

"""The form and the type of an option's value, whether it was typed, written in Python or read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["ALSO_TAKEN", "converted", "wrong_type"]

#: What a caller may also give, and what it becomes: a run compares and saves one form of each.
ALSO_TAKEN: dict[str, tuple[type, type]] = {
    "data": (Path, str), "cache": (str, Path), "run": (str, Path),
    "attributes": (list, tuple), "betas": (list, tuple), "lambdas": (list, tuple), "sample_attributes": (list, tuple),
}  # fmt: skip


def converted(name: str, value: Any) -> Any:
    """The one form of the option ``name``'s value. (Empty text stays: as a path it would be the current folder.)"""
    if name in ALSO_TAKEN and value != "":
        given, kept = ALSO_TAKEN[name]
        return kept(value) if isinstance(value, given) else value
    return value


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

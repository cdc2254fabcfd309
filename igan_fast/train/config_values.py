"""The names, types and values of options, which come from the command line, from Python or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

from igan_fast.paths import given_path

__all__ = ["ALSO_TAKEN", "converted", "option_types", "wrong_type"]

#: For some options: another type that a caller may pass, and the type that it is converted to. A run compares and saves
#: only the converted value.
ALSO_TAKEN: dict[str, tuple[type, type]] = {
    "data": (Path, str), "cache": (str, Path), "run": (str, Path), "init": (str, Path),
    "attributes": (list, tuple), "betas": (list, tuple), "lambdas": (list, tuple), "sample_attributes": (list, tuple),
}  # fmt: skip


def option_types(config: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass."""
    return get_type_hints(config)


def converted(name: str, value: Any) -> Any:
    """Return the value of the option ``name`` as a run saves it. ``~`` is expanded in paths.

    Raises:
        InputError: the value of a folder is not a path; see ``igan_fast.paths.given_path``.
    """
    if name not in ALSO_TAKEN:
        return value
    given, kept = ALSO_TAKEN[name]
    if kept is Path and isinstance(value, str | Path):
        return given_path(value, name)
    if name == "data" and isinstance(value, str | Path):
        if value == Path("drawn"):
            return "./drawn"  # a folder of that name, not the built-in faces
        text = str(value)  # not a Path, which would turn ./drawn into the built-in faces
        return str(given_path(value, name)) if text.startswith("~") or "\0" in text else text
    return kept(value) if isinstance(value, given) else value


def wrong_type(value: object, expected: Any) -> str:
    """Return why an option of the type ``expected`` cannot have this value; an empty string where it can."""
    # Imported here, because code that checks no config (a step, its benchmarks) should not need the library.
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    items = value if isinstance(value, tuple) else (value,)
    if any(isinstance(item, bool) for item in items) and expected not in (bool, bool | None):
        return "true and false are not numbers"  # in Python they are of type int
    if any(isinstance(item, int) and abs(item) >= 2**63 for item in items):
        return "is beyond 64 bits"
    try:
        check_type(value, expected, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        return " ".join(str(error).split())
    return ""

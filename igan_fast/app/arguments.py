"""Checks the words after a command before tyro parses them.

tyro alone has three problems. If an option is given twice, it takes the last value without a warning. It takes a photo
after a list for one of the list's values. It prints errors as boxes of several lines. This module checks each word, and
its errors are one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import FlagCreatePairsOff, Positional

from igan_fast.errors import InputError, printable
from igan_fast.paths import given_path

__all__ = ["Arguments", "nearest", "parse_words"]

#: An edit as it is typed. Any other word after --set that names a file is a photo.
_ASSIGNMENT = re.compile(r"[^=]+=(flip|[+−-]?[0-9.]+)")


@dataclass(frozen=True)
class _Option:
    """One field of a command: an option, or the positional argument."""

    name: str
    kind: Any  # the type of the field, without None and annotations
    metavar: str
    aliases: tuple[str, ...] = ()
    required: bool = False
    optional: bool = False  # whether the value may be None
    positional: bool = False
    negatable: bool = True  # for a flag: whether --no-NAME exists

    @property
    def typed(self) -> str:
        return f"--{self.name}"

    @property
    def flag(self) -> bool:
        return self.kind is bool and not self.optional

    @functools.cached_property
    def items(self) -> tuple[Any, ...]:
        """The type of each value. For a list of any length: the type of its values, and an ellipsis."""
        return get_args(self.kind) if get_origin(self.kind) is tuple else (self.kind,)

    @property
    def many(self) -> bool:
        return self.items[-1] is Ellipsis


@dataclass
class Arguments:
    """The checked words of a command, by field. ``~`` is expanded in paths."""

    command: str
    options: dict[str, _Option]
    values: dict[str, list[str]] = field(default_factory=dict)

    def first(self, name: str) -> str | None:
        """Return the first word of a field, ``"True"`` or ``"False"`` for a flag, or None if it was not given."""
        return next(iter(self.values.get(name, ())), None)

    def words(self) -> list[str]:
        """Return the words of the command, in a form that tyro cannot misread."""
        words = [self.command]
        # Photos come first: tyro would take photos after a list for its values.
        for name, values in sorted(self.values.items(), key=lambda item: not self.options[item[0]].positional):
            option = self.options[name]
            if option.positional:
                words += [f"./{value}" if value.startswith("-") else value for value in values]
            elif option.flag:
                words.append(option.typed if values[0] == "True" else f"--no-{option.name}")
            elif len(option.items) == 1:
                words.append(f"{option.typed}={values[0]}")
            else:
                words += [option.typed, *values]
        return words


def parse_words(words: Sequence[str], command: str, fields: type) -> Arguments:
    """Parse ``words``, which follow the name of ``command``, into the fields of the dataclass ``fields``.

    An option that takes a list may be given several times; spaces or commas separate its values. For any other option
    the last value counts, with a warning if it differs from an earlier one.

    Raises:
        InputError: an unknown option (the message suggests the nearest name), a missing value or one of another type,
            an empty path, a word that belongs to nothing, or a required option that is missing.
    """
    options = _options(fields)
    parsed = Arguments(command, options)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            _add_positional(parsed, rest)
            break
        if not _is_option(word):
            _add_positional(parsed, [word])
            continue
        option, value, attached = _find(word, command, options)
        if option.flag:
            if attached is not None:
                raise InputError(f"{option.typed}: takes no value, found {attached!r}")
            _add(parsed, option, [value])
            continue
        values = [] if attached is None else [attached]
        wanted = None if option.many else len(option.items)
        while rest and (wanted is None or len(values) < wanted) and not _is_option(rest[0]):
            values.append(rest.pop(0))
        if option.many:
            photos = [value for value in values if _is_photo(value)] if _positional(options) else []
            _add_positional(parsed, photos)
            values = [part for value in values if value not in photos for part in _split(value)]
        if len(values) < (wanted or 1):
            raise InputError(f"{option.typed}: found {len(values) or 'no'} value{'s' * (len(values) > 1)}, expected "
                             f"{_expected(option)}")  # fmt: skip
        _add(parsed, option, values)
    missing = [option for name, option in options.items() if option.required and name not in parsed.values]
    if missing:
        _refuse_lost_photo(parsed, missing)
        spelled = ", ".join(option.metavar if option.positional else f"{option.typed} {option.metavar}".strip()
                            for option in missing)  # fmt: skip
        raise InputError(f"{command} needs {spelled} too; igan-fast {command} --help explains")
    return parsed


def _refuse_lost_photo(parsed: Arguments, missing: Sequence[_Option]) -> None:
    """If no photo is given and a word in a list is not an assignment, report this word as misspelled."""
    if not any(option.positional for option in missing):
        return
    for name, option in parsed.options.items():
        words = parsed.values.get(name, ()) if option.many and not option.positional else ()
        if lost := next((word for word in words if "=" not in word), None):
            raise InputError(
                f"{option.typed}: found {lost!r}, which is not {option.metavar}, and no photo of that name exists"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that suggests the most similar of the ``known`` names; empty if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


@functools.cache
def _options(fields: type) -> dict[str, _Option]:
    """Return the options of a command, by the names of their fields."""
    hints = get_type_hints(fields, include_extras=True)
    return {each.name: _option(each, hints[each.name]) for each in dataclasses.fields(fields)}


def _option(each: dataclasses.Field[Any], kind: Any) -> _Option:
    notes: tuple[Any, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *found = get_args(kind)
        notes = tuple(found)
    optional = get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)
    if optional:
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    name = next((note.name for note in notes if getattr(note, "name", None)), each.name)
    return _Option(
        name=name.replace("_", "-"),
        kind=kind,
        metavar=next((note.metavar for note in notes if getattr(note, "metavar", None)), "").removesuffix(" ..."),
        aliases=tuple(alias for note in notes for alias in getattr(note, "aliases", None) or ()),
        required=each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING,
        optional=optional,
        positional=Positional in notes,
        negatable=FlagCreatePairsOff not in notes,
    )


def _positional(options: dict[str, _Option]) -> _Option | None:
    return next((option for option in options.values() if option.positional), None)


def _is_option(word: str) -> bool:
    """Whether a word is an option. ``-3`` and ``-`` are values."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _find(word: str, command: str, options: dict[str, _Option]) -> tuple[_Option, str, str | None]:
    """Return the option that a word names, the value of a flag (``"True"`` or ``"False"``), and what follows ``=``."""
    name, equals, attached = word.partition("=")
    name = name.replace("_", "-")
    known: dict[str, tuple[_Option, str]] = {}
    for option in options.values():
        if not option.positional:
            known |= dict.fromkeys((option.typed, *option.aliases), (option, "True"))
            if option.flag and option.negatable:
                known[f"--no-{option.name}"] = (option, "False")
    if name in known:
        return *known[name], attached if equals else None
    if not name.startswith("--") and name[:2] in known and len(word) > 2:  # -n5
        return *known[name[:2]], word[2:]
    meant = {f"--{key.replace('_', '-')}": option.typed for key, option in options.items()}
    hint = f"; did you mean {meant[name]}?" if name in meant else nearest(name, known)
    if Path(word).exists():
        hint = f"; write ./{word} for the file of that name"
    raise InputError(
        f"{printable(name)}: {command} has no such option{hint or f'; igan-fast {command} --help lists them'}"
    )


def _add(parsed: Arguments, option: _Option, values: list[str]) -> None:
    name = next(name for name, known in parsed.options.items() if known is option)
    if not option.flag:
        items = option.items[:1] * len(values) if option.many else option.items
        values = [_checked(option, value, kind) for value, kind in zip(values, items, strict=True)]
    before = parsed.values.get(name)
    if before is not None and not option.many and before != values:
        last = f", {' '.join(values)}," if not option.flag else ""
        warnings.warn(f"{option.typed} is given more than once; the last{last} is taken", stacklevel=2)
    parsed.values[name] = [*(before or []), *values] if option.many else values


def _add_positional(parsed: Arguments, words: Sequence[str]) -> None:
    option = _positional(parsed.options)
    if option is not None:
        for word in words:
            _add(parsed, option, [word])
    elif words:
        path = "data" if parsed.command == "train" else "model"
        hint = f"; did you mean --{path} {printable(words[0])}?" if Path(words[0]).exists() else ""
        raise InputError(f"{printable(words[0])}: {parsed.command} takes options only{hint}")


def _is_photo(word: str) -> bool:
    return not _ASSIGNMENT.fullmatch(word) and os.path.lexists(os.path.expanduser(word))  # noqa: PTH111


def _split(value: str) -> list[str]:
    """Split ``A=1,B=0`` into two. A name may hold a comma that a space follows."""
    return [value] if any(map(str.isspace, value)) else [part for part in value.split(",") if part]


def _checked(option: _Option, value: str, kind: Any) -> str:
    """Return the value as tyro reads it."""
    name = "PHOTO" if option.positional else option.typed
    if option.optional and value == "None":
        return value
    if kind is Path:
        return str(given_path(value, name))
    readers: dict[Any, Callable[[str], object]] = {int: _whole_number, float: float}
    choices = _choices(kind)
    try:
        if choices and value not in choices:
            raise ValueError
        readers.get(kind, str)(value)
    except ValueError:
        near = nearest(value.lower(), choices)
        short = value if len(value) <= 40 else value[:37] + "…"
        raise InputError(f"{name}: found {printable(short)!r}, expected {_expected(option)}{near}") from None
    return value


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the values that a ``Literal`` or a bool allows, as they are typed; none for another type."""
    return ("True", "False") if kind is bool else tuple(map(str, get_args(kind) if get_origin(kind) is Literal else ()))


def _whole_number(text: str) -> int:
    """Parse a whole number that fits into 64 bits. A longer one is a typing error."""
    number = int(text)
    if abs(number) >= 2**63:
        raise ValueError
    return number


def _expected(option: _Option) -> str:
    """Describe the values that an option takes."""
    kind = option.items[0]
    if choices := _choices(kind):
        return " or ".join((*filter(None, [", ".join(choices[:-1])]), choices[-1]))
    word = {int: "whole number below 2⁶³", float: "number", Path: "path"}.get(kind, "text")
    word = option.metavar or word
    if option.many:
        return f"at least one {word}"
    return f"{len(option.items)} {word}s" if len(option.items) > 1 else f"a {word}"

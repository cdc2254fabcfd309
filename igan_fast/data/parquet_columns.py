"""Finds the photos, the labels and the people among the columns of a parquet file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.attributes import can_be_typed
from igan_fast.data.messages import first_three
from igan_fast.errors import InputError

__all__ = ["Columns", "Label", "find_columns", "label_values", "person_numbers"]

#: The names of a column that numbers the people, in order of preference.
PEOPLE = ("celeb_id", "identity")

#: The column with the photos if several could be.
IMAGE = ("image", "img")

#: The names of the two classes of a ``ClassLabel`` that is one attribute.
NO = ("0", "-1", "no", "false")
YES = ("1", "yes", "true")


@dataclass(frozen=True)
class Label:
    """Where the labels of an attribute are."""

    column: str
    number: int | None = None  #: the class that is the attribute, if the column holds numbers of classes
    classes: int = 0  #: how many classes these are


@dataclass(frozen=True)
class Columns:
    """What the columns of a parquet file hold."""

    photo: str  #: the column of photos: bytes, or a struct with ``bytes``
    people: str | None  #: the column that numbers the people
    labels: Mapping[str, Label]  #: where the labels of each attribute are
    others: Mapping[str, str] = field(compare=False)  #: the type of each other column


def find_columns(arrow: Any, schema: Any, where: str) -> Columns:
    """Find out what the columns hold, by their types and names.

    Photos are binary, or structs with a binary field ``bytes``, as Hugging Face's ``datasets`` writes them. Every other
    column of Booleans or numbers is an attribute, except for ``celeb_id`` or ``identity``. A ``ClassLabel`` of
    ``datasets``, a column of numbers of classes, gives an attribute for each class.

    Args:
        arrow: the package ``pyarrow``.
        schema: the ``pyarrow.Schema`` of the file.
        where: the file's name for messages.

    Raises:
        InputError: there is no column of photos or several, a name comes twice, or there are no labels.
    """
    kinds = arrow.types
    types = {column.name: column.type for column in schema}
    listed = first_three([f"{name}: {kind}" for name, kind in types.items()])
    photos = [name for name, kind in types.items() if _holds_photos(kinds, kind)]
    if len(photos) > 1:
        photos = [name for name in IMAGE if name in photos][:1] or photos
    if len(photos) != 1:
        what = f"several columns that may hold photos ({first_three(photos)})" if photos else "no column of photos"
        raise InputError(
            f"{where}: has {what} among its columns ({listed}); expected one, called image, of bytes or of structs "
            "with bytes"
        )
    people = next((name for name in PEOPLE if name in types and kinds.is_integer(types[name])), None)
    classes = _class_names(schema.metadata)
    labels: list[tuple[str, Label]] = []
    others: dict[str, str] = {}
    for name, kind in types.items():
        if name in (photos[0], people):
            continue
        if not (kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind)):
            others[name] = str(kind)
        elif name in classes:
            names = classes[name]
            labels += [(each, Label(name, number, len(names))) for number, each in enumerate(names)]
        else:
            labels.append((name, Label(name)))
    names = [name for name, _ in labels]
    if wrong := [name for name in names if not can_be_typed(name)]:
        raise InputError(
            f"{where}: the column or class {wrong[0]!r} cannot be an attribute's name; expected printable text without "
            "= and , and without - in front"
        )
    repeated = [name for name in names if names.count(name) > 1]
    if repeated or len(types) < len(schema):
        twice = repeated or [name for name in schema.names if schema.names.count(name) > 1]
        raise InputError(f"{where}: two columns or classes are called {twice[0]!r}")
    if not labels:
        raise InputError(
            f"{where}: has photos but no labels (its columns: {listed}); expected a column of 0 and 1, −1 and 1, or "
            "Booleans for each attribute"
        )
    return Columns(photos[0], people, dict(labels), others)


def label_values(column: Any, label: Label, where: str) -> NDArray[np.int8]:
    """The labels in a column.

    Args:
        column: the ``pyarrow.ChunkedArray`` of N Booleans or numbers.
        label: which column it is.
        where: the file's name for messages.

    Returns:
        (N,) int8: −1, 0 or 1 as in the column; or, if it holds numbers of classes, 1 for the label's class and else 0.

    Raises:
        InputError: a value is missing, or is not a label or the number of a class.
    """
    values: NDArray[Any] = column.to_numpy()  # of floats or objects if there are missing values
    expected = "-1, 0 or 1, or True or False" if label.number is None else f"a number below {label.classes}"
    wrong = column.is_null().to_numpy()
    if not wrong.any():
        wrong = ~np.isin(values, (-1, 0, 1) if label.number is None else range(label.classes))
    if wrong.any():
        row = int(np.argmax(wrong))
        found = "is missing" if column[row].as_py() is None else f"is {values[row]}"
        raise InputError(
            f"{where}: row {row}: {label.column} {found}, expected {expected} (or choose other columns: --attributes)"
        )
    labels: NDArray[np.int8] = (values if label.number is None else values == label.number).astype(np.int8)
    return labels


def person_numbers(column: Any) -> NDArray[np.int64]:
    """(N,) int64: the numbers in a ``pyarrow.ChunkedArray`` of integers; −1 for negative and missing ones."""
    values: NDArray[np.int64] = column.fill_null(-1).to_numpy().astype(np.int64)
    return np.maximum(values, -1)


def _holds_photos(kinds: Any, kind: Any) -> bool:
    if kinds.is_struct(kind):
        return any(part.name == "bytes" and _is_binary(kinds, part.type) for part in kind)
    return _is_binary(kinds, kind)


def _is_binary(kinds: Any, kind: Any) -> bool:
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the classes of each ``ClassLabel``, without those that are one attribute, such as "no" and "yes"."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        named = {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, AttributeError, ValueError):  # no such text, or in another form
        return {}
    return {column: names for column, names in named.items() if not _is_yes_or_no(names)}


def _is_yes_or_no(names: list[str]) -> bool:
    return len(names) == 2 and names[0].lower() in NO and names[1].lower() in YES

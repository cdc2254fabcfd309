"""Writes parquet files as Hugging Face distributes CelebA. Their photos are those of ``grey_celeba.photo``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from grey_celeba import photo

#: A photo of ``datasets``: its bytes, and the name of its file.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(numbers: Sequence[int | None]) -> pa.Array:
    """The photos with these numbers; None is a row without a photo."""
    values = [None if n is None else {"bytes": photo(n), "path": f"{n:06}.jpg"} for n in numbers]
    return pa.array(values, IMAGE)


def write_parquet(
    path: Path, columns: Mapping[str, Any], *, features: Mapping[str, Any] | None = None, **how: Any
) -> Path:
    """Write columns; ``features`` are those of ``datasets``, which it keeps as metadata."""
    table = pa.table(dict(columns))
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": dict(features)}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **how)
    return path


def flower(numbers: Sequence[int]) -> dict[str, Any]:
    """The columns of ``flwrlabs/celeba``, with two of the 40 attributes: Bald is odd, Young is 3 and above."""
    return {
        "image": images(numbers),
        "celeb_id": pa.array([100 + n // 2 for n in numbers], pa.int64()),
        "Bald": [n % 2 == 1 for n in numbers],
        "Young": [n >= 3 for n in numbers],
    }


def tpremoli(numbers: Sequence[int]) -> dict[str, Any]:
    """The columns of ``tpremoli/CelebA-attrs``, with the same attributes."""
    return {
        "image": images(numbers),
        "Bald": pa.array([2 * (n % 2) - 1 for n in numbers], pa.int64()),
        "Young": pa.array([1 if n >= 3 else -1 for n in numbers], pa.int64()),
        "prompt_string": [f"photo {n}" for n in numbers],
    }

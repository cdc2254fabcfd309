"""Reads the types and shapes of the tensors in a file from its header, and checks them before any tensor is read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from igan_fast.files import FileDamaged, reading
from igan_fast.json_files import Natural, check_json, parse_json

__all__ = ["Spec", "Specs", "check_specs", "read_specs", "specs_of"]

#: The largest header in bytes. The header of a checkpoint has a few kilobytes.
_MAX_HEADER = 16 * 2**20

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64,
}  # fmt: skip


class Spec(NamedTuple):
    """Type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {self.shape}"


Specs: TypeAlias = dict[str, Spec]


def specs_of(tensors: Mapping[str, Tensor]) -> Specs:
    """Return the types and shapes of tensors in memory or on the ``meta`` device."""
    return {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def read_specs(path: Path) -> Specs:
    """Read the types and shapes of the tensors in a safetensors file from its header. Nothing else is read.

    Raises:
        FileDamaged: there is no valid header, or it describes more or fewer bytes than the file has.
        FileMissing, FileUnreadable: as ``igan_fast.files.reading``.
    """
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise FileDamaged(f"{path}: damaged: not a safetensors file")
        header = parse_json(file.read(length), path)
    header.pop("__metadata__", None)
    check_json(header, {str: {"dtype": str, "shape": [Natural]}}, path)
    specs: Specs = {}
    described = 0
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise FileDamaged(f"{path}: {name} is of type {entry['dtype']!r}, which no checkpoint has")
        specs[name] = Spec(_DTYPES[entry["dtype"]], tuple(entry["shape"]))
        described += math.prod(entry["shape"]) * specs[name].dtype.itemsize
    if described != size - 8 - length:
        raise FileDamaged(f"{path}: damaged: its header describes {described} bytes, it has {size - 8 - length}")
    return specs


def check_specs(found: Specs, expected: Specs, where: str | Path) -> None:
    """Check that tensors have the expected names, types and shapes.

    Raises:
        FileDamaged: names the file and the first tensor that is missing, unexpected, or of another type or shape.
    """
    for name, spec in expected.items():
        if name not in found:
            raise FileDamaged(f"{where}: {name} is missing")
        if found[name] != spec:
            raise FileDamaged(f"{where}: {name} is {found[name]}, expected {spec}")
    for name in found:
        if name not in expected:
            raise FileDamaged(f"{where}: holds {name}, which is not expected there")

"""What a checkpoint keeps of the training labels: how often each two attributes occur together, and some rows.

The counts are the group of tensors ``labels``: ``photos``, the number of photos, and ``together``, (A, A), both int64
(see ``igan_fast.reference.editing.LabelCounts``). Older checkpoints have only the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from igan_fast.checkpoint.folder import STATE, SUFFIX, CheckpointError
from igan_fast.checkpoint.tensor_specs import Spec, Specs
from igan_fast.reference.editing import Companions, LabelCounts, label_counts

__all__ = ["LABELS", "companions_of_counts", "counted_labels", "counts_specs", "read_companions", "unpack_rows"]

#: The name of the group.
LABELS = "labels"


def counted_labels(labels: Tensor) -> dict[str, Tensor]:
    """Return the group for training labels (N, A) of 0 and 1."""
    photos, together = label_counts(labels)
    return {"photos": torch.tensor(photos), "together": together}


def counts_specs(attributes: int) -> Specs:
    """Return the types and shapes of the group's tensors for a model of so many attributes."""
    return {"photos": Spec(torch.int64, ()), "together": Spec(torch.int64, (attributes, attributes))}


def companions_of_counts(counts: Mapping[str, Tensor]) -> Companions:
    """Return the companions of the group's tensors.

    Raises:
        ValueError: no photos have these counts.
    """
    return Companions.of_counts(LabelCounts(int(counts["photos"]), counts["together"]))


def read_companions(tensors: Mapping[str, Mapping[str, Tensor]], rows: Tensor, folder: Path) -> Companions | None:
    """Return the companions of a checkpoint: from the counts, otherwise from its rows, or None if it has neither.

    Args:
        tensors: the groups of the checkpoint.
        rows: its rows, (M, A) of 0 and 1.
        folder: the checkpoint.

    Raises:
        CheckpointError: no photos have these counts.
    """
    counts = tensors.get(LABELS)
    if counts is None:
        return Companions.of_labels(rows) if len(rows) else None
    try:
        return companions_of_counts(counts)
    except ValueError as error:
        raise CheckpointError(f"{folder / LABELS}{SUFFIX}: {error}") from error


def unpack_rows(packed: Any, attributes: int, folder: Path) -> Tensor:
    """Convert the ``label_samples`` of a state, ``["0110…", …]``, one string per row, to (M, A) uint8.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(packed, list) or not all(
        isinstance(row, str) and len(row) == attributes and set(row) <= {"0", "1"} for row in packed
    ):
        raise CheckpointError(
            f"{folder / STATE}: damaged: model.label_samples do not fit the {attributes} attributes of its model"
        )
    return torch.tensor([[int(digit) for digit in row] for row in packed], dtype=torch.uint8).reshape(-1, attributes)

"""The short table of README.md: ours against plain PyTorch (``python -m bench.table RESULTS --summary``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.table import best, gain, heading, median

#: The kinds of results that have a row, in the order of the rows.
KINDS = ("step", "inference", "example", "operator")


def render(documents: Sequence[dict[str, Any]]) -> str:
    """A heading and one table for each machine."""
    return "\n\n".join(f"{heading(document)}\n\n{_table(document['results'])}" for document in documents)


def _table(results: Sequence[dict[str, Any]]) -> str:
    """Each mode of an operator has one row: float32, contiguous, at the smallest batch that was measured. Single
    convolutions have none."""
    lines = ["| What | Batch | Plain PyTorch | Ours |", "|---|---|---|---|"]
    for kind in KINDS:
        lines += [_row(kind, result) for result in results if _kind(result) == kind and _is_shown(result, results)]
    return "\n".join(lines)


def _kind(result: dict[str, Any]) -> str:
    return str(result.get("kind", "operator"))


def _is_shown(result: dict[str, Any], results: Sequence[dict[str, Any]]) -> bool:
    if _kind(result) == "step":  # what is measured beside the default iteration has no peers in plain PyTorch
        return any(name.startswith("plain") for name in result["times"])
    if _kind(result) != "operator":
        return True
    if not result["operator"].partition(",")[0].isidentifier():  # a convolution, described in words
        return False
    batches = [r["batch"] for r in results if (r["operator"], r["dtype"]) == (result["operator"], "float32")]
    return (result["dtype"], result["layout"]) == ("float32", "contiguous") and result["batch"] == min(batches)


def _row(kind: str, result: dict[str, Any]) -> str:
    ours, name, batch = median(result, "ours"), result["operator"], result["batch"]
    plain = median(result, "eager") if kind == "example" else best(result, ("plain", "eager"))
    if kind == "step":
        name = f"Training {name}, {result['dtype']}"
    elif kind == "inference":
        name = name[0].upper() + name[1:].removesuffix(f", batch {batch}")
    elif kind == "example":
        name = name.replace(",", " by `fuse`,", 1)
    else:
        operator, comma, mode = name.partition(",")
        name = f"`{operator}`{comma}{mode}, forward and backward"
    digits = 0 if ours >= 100 else 1
    ratio = gain(ours, plain).partition(", ")[2]
    return f"| {name} | {batch} | {plain:.{digits}f} ms | {ours:.{digits}f} ms, {ratio} |"

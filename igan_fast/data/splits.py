"""How the photos of a dataset are split into "train", "val" and "test": by name, or at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from igan_fast.data.shuffle import check_seed, seeded_permutation
from igan_fast.errors import InputError

__all__ = [
    "SPLIT_NAMES",
    "check_split",
    "described_sizes",
    "named_splits",
    "no_validation",
    "paper_split",
    "random_split",
]

#: What people call the split in the name of a folder or a file, in lower case.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

#: The sizes of the paper's training and test split (Sec. 5.1).
PAPER_SPLIT = (185_000, 15_000)


def check_split(split: object) -> None:
    """Check the argument ``split`` of a dataset.

    Raises:
        InputError: it is neither ``"official"`` nor ``"paper"``.
    """
    if split not in ("official", "paper"):
        raise InputError(f"split: found {split!r}, expected 'official' or 'paper'")


def no_validation(how: str) -> str:
    """A warning that a dataset has no photos for validation; ``how`` says how it was split."""
    return (
        f"no photos for validation ({how}); training cannot measure the model and keeps its last checkpoints only, not "
        "the best one, and 'evaluate' needs another --split"
    )


def described_sizes(splits: Mapping[str, NDArray[np.int64]]) -> str:
    """The number of photos in each split, such as ``90 train, 5 val, 5 test``."""
    return ", ".join(f"{len(positions):,} {name}" for name, positions in splits.items())


def random_split(count: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """90 % train, 5 % val and 5 % test, and from three photos on at least one in each."""
    held_out = max(count // 20, 1 if count >= 3 else 0)
    order = seeded_permutation(count, check_seed(seed))
    val, test, train = np.split(order, [held_out, 2 * held_out])
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def paper_split(count: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """The paper's sizes, or fewer photos in the same proportion."""
    train, val = PAPER_SPLIT
    if count < train + val:
        train = round(count * train / (train + val))
        val = count - train
    order = seeded_permutation(count, check_seed(seed))
    return {"train": np.sort(order[:train]), "val": np.sort(order[train : train + val])}


def named_splits(
    parts: Sequence[str | None], kind: Literal["folder", "file"], split: str, seed: int
) -> tuple[dict[str, NDArray[np.int64]], str]:
    """Split photos whose folders or files are named after splits (``SPLIT_NAMES``).

    Without such names, or with "train" alone, the split is random, as without CelebA's partition file. If there is
    "train" and "test" but no "val", a random 5 % of the training photos become "val".

    Args:
        parts: for each photo the split that its folder or file is named after; None for all if none is.
        kind: what has these names.
        split: ``"official"`` for this split, ``"paper"`` for ``paper_split`` of all photos.
        seed: the seed of what is random.

    Returns:
        The splits, and a phrase that says how they were made.
    """
    found = set(parts)
    if split == "paper":
        return paper_split(len(parts), seed), f"the paper's split, seed {seed}"
    if found <= {None, "train"}:
        why = f"no val and no test {kind}" if "train" in found else f"no train, val and test {kind}s"
        return random_split(len(parts), seed), f"{why}: random 90/5/5 % split, seed {seed}"
    names = np.array([str(part) for part in parts])
    splits = {name: np.flatnonzero(names == name) for name in ("train", "val", "test")}
    how = f"split by {kind} names"
    train = splits["train"]
    if not len(splits["val"]) and len(train) > 1:
        order = train[seeded_permutation(len(train), check_seed(seed))]
        count = max(len(train) // 20, 1)
        splits["val"], splits["train"] = np.sort(order[:count]), np.sort(order[count:])
        how += f", val a random 5 % of train, seed {seed}"
    if not len(splits["test"]):
        del splits["test"]
    return splits, how

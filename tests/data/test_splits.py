"""Splits by the names of folders and files."""

from __future__ import annotations

import numpy as np
import pytest

from igan_fast.data.splits import named_splits, paper_split, random_split
from igan_fast.errors import InputError


def lists(splits: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: rows.tolist() for name, rows in splits.items()}


def test_all_three_are_named() -> None:
    splits, how = named_splits(["test", "train", "val", "train", "test"], "folder", "official", 0)
    assert lists(splits) == {"train": [1, 3], "val": [2], "test": [0, 4]}
    assert how == "split by folder names"


def test_without_test_there_is_none() -> None:
    splits, _ = named_splits(["val", "train"], "file", "official", 0)
    assert lists(splits) == {"train": [1], "val": [0]}


@pytest.mark.parametrize("count", [2, 19, 40, 100])
def test_without_val_a_twentieth_of_train_becomes_it(count: int) -> None:
    parts = ["train"] * count + ["test"] * 3
    splits, how = named_splits(parts, "folder", "official", 7)
    held_out = {2: 1, 19: 1, 40: 2, 100: 5}[count]
    assert len(splits["val"]) == held_out
    assert sorted([*splits["train"], *splits["val"]]) == list(range(count))
    assert all(rows.tolist() == sorted(rows.tolist()) for rows in splits.values())
    assert splits["test"].tolist() == [count, count + 1, count + 2]
    assert how == "split by folder names, val a random 5 % of train, seed 7"
    again, _ = named_splits(parts, "folder", "official", 7)
    assert lists(again) == lists(splits)
    if count == 100:
        other, _ = named_splits(parts, "folder", "official", 8)
        assert lists(other) != lists(splits)


def test_a_single_training_photo_is_kept() -> None:
    splits, _ = named_splits(["train", "test"], "folder", "official", 0)
    assert lists(splits) == {"train": [0], "val": [], "test": [1]}


@pytest.mark.parametrize(
    ("part", "why"), [(None, "no train, val and test files"), ("train", "no val and no test file")]
)
def test_without_names_or_with_train_alone_the_split_is_random(part: str | None, why: str) -> None:
    splits, how = named_splits([part] * 40, "file", "official", 3)
    assert lists(splits) == lists(random_split(40, 3))
    assert how == f"{why}: random 90/5/5 % split, seed 3"


def test_test_alone_has_no_training_photos() -> None:
    splits, _ = named_splits(["test", "test"], "file", "official", 0)
    assert lists(splits) == {"train": [], "val": [], "test": [0, 1]}


def test_the_papers_split_ignores_the_names() -> None:
    splits, how = named_splits(["train"] * 10 + ["test"] * 30, "file", "paper", 1)
    assert lists(splits) == lists(paper_split(40, 1))
    assert how == "the paper's split, seed 1"


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed: found -1"):
        named_splits(["train", "train", "test"], "file", "official", -1)

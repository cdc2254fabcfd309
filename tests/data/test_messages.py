"""Phrases that several messages share."""

from __future__ import annotations

import pytest

from igan_fast.data.messages import counted, first_three


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 photos"), (1, "1 photo"), (2, "2 photos"), (1234, "1,234 photos")]
)
def test_counted_uses_the_plural_except_for_one(count: int, expected: str) -> None:
    assert counted(["x"] * count, "photo") == expected


@pytest.mark.parametrize(
    ("names", "expected"), [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d"], "a, b, c, …")]
)
def test_first_three_says_whether_there_are_more(names: list[str], expected: str) -> None:
    assert first_three(names) == expected

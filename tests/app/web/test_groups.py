"""The order of the sliders, and the search among them."""

from __future__ import annotations

import pytest

from igan_fast.app.web.groups import grouped, matching
from igan_fast.data.attributes import CELEBA_ATTRIBUTES


@pytest.mark.parametrize(
    "names",
    [
        CELEBA_ATTRIBUTES,
        CELEBA_ATTRIBUTES[::-1],
        ("Smiling",),
        ("Bald", "Goatee"),
        ("own",),
        tuple(f"own{k}" for k in range(30)),
        ("Bald", *(f"own{k}" for k in range(30))),
        ("Smiling", "own"),
    ],
)
def test_each_attribute_has_one_slider(names: tuple[str, ...]) -> None:
    groups = grouped(names)
    assert sorted(name for group in groups.values() for name in group) == sorted(names)
    assert all(groups.values())
    assert len(next(iter(groups.values()))) <= 6


def test_celebas_attributes_are_all_in_a_group() -> None:
    groups = grouped(CELEBA_ATTRIBUTES)
    assert "Others" not in groups
    assert groups["Often used"][:2] == ["Smiling", "Eyeglasses"]


def test_a_search_finds_what_holds_all_its_words() -> None:
    assert matching(CELEBA_ATTRIBUTES, "hair bl") == {"Black_Hair", "Blond_Hair"}
    assert matching(CELEBA_ATTRIBUTES, "WEARING_h") == {"Wearing_Hat"}
    assert matching(CELEBA_ATTRIBUTES, "  ") == set(CELEBA_ATTRIBUTES)
    assert matching(CELEBA_ATTRIBUTES, "xyz") == set()

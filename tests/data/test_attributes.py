"""CelebA's attribute names, look-up by name, and parsing of edits."""

from __future__ import annotations

import pytest

from igan_fast.data.attributes import (
    CELEBA_ATTRIBUTES,
    attribute_indices,
    changes_by_index,
    parse_changes,
    spelled_change,
)
from igan_fast.errors import InputError
from igan_fast.reference.editing import Amount


def test_the_forty_attributes_are_celebas_in_celebas_order() -> None:
    assert len(CELEBA_ATTRIBUTES) == len(set(CELEBA_ATTRIBUTES)) == 40
    # CelebA's file lists them in ASCII order.
    assert list(CELEBA_ATTRIBUTES) == sorted(CELEBA_ATTRIBUTES)
    assert CELEBA_ATTRIBUTES[20] == "Male"
    assert CELEBA_ATTRIBUTES[31] == "Smiling"


def test_indices_follow_the_order_of_the_names() -> None:
    assert attribute_indices(["c", "a"], ["a", "b", "c"]) == [2, 0]
    assert attribute_indices([], ["a"]) == []


@pytest.mark.parametrize("typo", ["smiling", "Smilling", "SMILING"])
def test_a_typo_gets_a_suggestion(typo: str) -> None:
    with pytest.raises(InputError, match=f"--set: unknown attribute '{typo}'; did you mean Smiling"):
        attribute_indices([typo], CELEBA_ATTRIBUTES, where="--set")


def test_a_name_without_close_matches_gets_the_whole_list() -> None:
    with pytest.raises(InputError, match="the 2 known ones are Bald, Young"):
        attribute_indices(["qqqq"], ["Bald", "Young"])


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="'Bald' is given twice"):
        attribute_indices(["Bald", "Bald"], CELEBA_ATTRIBUTES)
    with pytest.raises(InputError, match="'Bald' is given twice"):
        parse_changes(["Bald=1", "Bald=0"], CELEBA_ATTRIBUTES)


def test_changes_are_parsed() -> None:
    changes = parse_changes(["Smiling=1", "Bald=0.25", "Bangs=flip"], CELEBA_ATTRIBUTES)
    assert changes == {"Smiling": 1.0, "Bald": 0.25, "Bangs": "flip"}
    assert changes_by_index(changes, ["Bangs", "Bald", "Smiling"]) == {2: 1.0, 1: 0.25, 0: "flip"}


@pytest.mark.parametrize("text", ["Smiling", "Smiling=", "=1", ""])
def test_a_malformed_assignment_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected NAME=VALUE"):
        parse_changes([text], CELEBA_ATTRIBUTES)


def test_a_sign_makes_an_amount() -> None:
    changes = parse_changes(["Smiling=+2", "Bald=-0.5", "Bangs=−1", "Male=+0"], CELEBA_ATTRIBUTES)
    assert changes == {"Smiling": Amount(2), "Bald": Amount(-0.5), "Bangs": Amount(-1), "Male": Amount(0)}
    assert changes_by_index({"Bald": "-10", "Bangs": Amount(0.5)}, ["Bangs", "Bald"]) == {
        1: Amount(-10),
        0: Amount(0.5),
    }


@pytest.mark.parametrize("changes", [["Smiling"], "Smiling=1", {"Smiling"}, None, 1])
def test_changes_are_values_by_name(changes: object) -> None:
    with pytest.raises(InputError, match=r"changes: found .*, expected values by name, such as \{'Smiling': 1\}"):
        changes_by_index(changes, CELEBA_ATTRIBUTES)  # type: ignore[arg-type]


def test_an_edit_is_spelled_as_it_is_typed() -> None:
    typed = ["Smiling=+2", "Bald=-0.5", "Male=0.25", "Young=1", "Bangs=flip"]
    changes = parse_changes(typed, CELEBA_ATTRIBUTES)
    assert [f"{name}={spelled_change(change)}" for name, change in changes.items()] == typed


@pytest.mark.parametrize("value", ["2", "nan", "inf", "yes", "Flip", "1e400", ".", "0x1"])
def test_values_outside_of_zero_to_one_are_refused(value: str) -> None:
    with pytest.raises(
        InputError, match=rf"--set: Smiling={value}: expected a number from 0 to 1, 'flip', or an amount"
    ):
        parse_changes([f"Smiling={value}"], CELEBA_ATTRIBUTES)


@pytest.mark.parametrize("value", ["+10.1", "-11", "+", "-", "+nan", "-inf", "++1", "+-1", "+yes", "+1_0"])
def test_amounts_beyond_ten_are_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"--set: Smiling=.*: expected an amount from −10 to \+10"):
        parse_changes([f"Smiling={value}"], CELEBA_ATTRIBUTES)


@pytest.mark.parametrize("value", [None, "x", float("nan"), 10**400])
def test_an_amount_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"changes: Smiling=.*: expected an amount from −10 to \+10"):
        changes_by_index({"Smiling": Amount(value)}, CELEBA_ATTRIBUTES)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [10**400, None, [1], "1_0"])
def test_a_value_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"changes: Smiling=.*: expected a number from 0 to 1"):
        changes_by_index({"Smiling": value}, CELEBA_ATTRIBUTES)  # type: ignore[dict-item]


def test_an_amount_from_python_is_checked_too() -> None:
    with pytest.raises(InputError, match=r"changes: Smiling=\+11: expected an amount from −10 to \+10"):
        changes_by_index({"Smiling": Amount(11)}, CELEBA_ATTRIBUTES)


@pytest.mark.parametrize("value", [1.5, -1, float("nan")])
def test_values_from_python_are_checked_too(value: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        changes_by_index({"Smiling": value}, CELEBA_ATTRIBUTES)


def test_an_unknown_name_in_an_edit_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean Eyeglasses"):
        parse_changes(["Eyeglass=1"], CELEBA_ATTRIBUTES)
    with pytest.raises(InputError, match="unknown attribute 'Hat'"):
        changes_by_index({"Hat": 1}, CELEBA_ATTRIBUTES)

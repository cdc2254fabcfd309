"""The state of the controls, and the way back."""

from __future__ import annotations

from dataclasses import replace

from igan_fast.app.web.settings import History, Settings
from igan_fast.reference.editing import Amount

START = Settings(({}, {}))


def test_strength_multiplies_all_amounts() -> None:
    settings = replace(START.with_amounts(1, {"Smiling": 1.5, "Male": -1, "Bangs": 0}), strength=0.5)
    assert settings.changes(0) == {}
    assert settings.changes(1) == {"Smiling": Amount(0.75), "Male": Amount(-0.5)}
    assert replace(settings, strength=0).changes(1) == {}


def test_moving_one_control_is_one_step() -> None:
    history = History(START)
    for value in (0.5, 1, 1.5):
        history.set(history.now.with_amounts(0, {"Smiling": value}))
    history.set(history.now.with_amounts(0, {"Smiling": 1.5, "Male": 1}))
    history.set(history.now.with_amounts(1, {"Male": 1}))  # the same attribute of another face
    history.set(replace(history.now, keep="nothing"))
    history.set(history.now)  # nothing
    seen = []
    while history.undo():
        seen.append((history.now.keep, history.now.amounts))
    assert seen == [
        ("photo", ({"Smiling": 1.5, "Male": 1}, {"Male": 1})),
        ("photo", ({"Smiling": 1.5, "Male": 1}, {})),
        ("photo", ({"Smiling": 1.5}, {})),
        ("photo", ({}, {})),
    ]
    assert not history.undo()


def test_after_a_step_back_the_same_control_makes_a_new_step() -> None:
    history = History(START)
    history.set(START.with_amounts(0, {"Smiling": 1}))
    history.undo()
    history.set(START.with_amounts(0, {"Smiling": 2}))
    assert history.undo()
    assert history.now == START


def test_a_reset_is_a_step() -> None:
    moved = START.with_amounts(0, {"Smiling": 1, "Male": 1})
    history = History(START)
    history.set(moved)
    history.set(START)
    history.undo()
    assert history.now == moved


def test_the_oldest_steps_are_forgotten() -> None:
    history = History(START)
    for k in range(1000):
        history.set(START.with_amounts(k % 2, {"Smiling": 1 + k}))
    steps = 0
    while history.undo():
        steps += 1
    assert 100 <= steps <= 300

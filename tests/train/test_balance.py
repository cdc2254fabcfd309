"""The balance rule against hand-computed sequences, and its exact resume."""

from __future__ import annotations

import json
import math

import pytest
import torch

from igan_fast.errors import InputError
from igan_fast.train.balance import Balance


def feed(balance: Balance, *pairs: tuple[float, float]) -> list[tuple[int, int]]:
    """The decision after each update, as the loop takes it."""
    decisions = []
    for d_loss, g_loss in pairs:
        balance.update(torch.tensor(d_loss), torch.tensor(g_loss))
        decisions.append(tuple(balance.extra_updates()))
    return decisions  # type: ignore[return-value]


def test_decides_from_the_losses_up_to_the_iteration_before() -> None:
    # momentum 0: the mean is the last loss taken in, so each decision shows which pair it rests on
    balance = Balance(ratio=3.0, max_extra=2, momentum=0.0)
    assert balance.extra_updates() == (0, 0)
    assert feed(balance, (8.0, 1.0), (1.0, 4.0), (1.0, 1.0), (1.0, 1.0)) == [(0, 0), (2, 0), (0, 1), (0, 0)]


@pytest.mark.parametrize(
    ("d_loss", "g_loss", "expected"),
    [
        (3.0, 1.0, (0, 0)),  # exactly the ratio is not more than it
        (3.25, 1.0, (1, 0)),
        (6.0, 1.0, (1, 0)),
        (6.25, 1.0, (2, 0)),
        (9.25, 1.0, (3, 0)),
        (100.0, 1.0, (3, 0)),
        (1.0, 3.25, (0, 1)),
        (1.0, 7.0, (0, 2)),
        (0.0, 1.0, (0, 3)),
        (0.0, 0.0, (0, 0)),
        (math.nan, 1.0, (0, 0)),
        (1.0, math.nan, (0, 0)),
        (math.inf, 1.0, (3, 0)),
    ],
)
def test_how_many_extra_updates(d_loss: float, g_loss: float, expected: tuple[int, int]) -> None:
    assert feed(Balance(ratio=3.0, max_extra=3), (d_loss, g_loss), (1.0, 1.0))[1] == expected


def test_running_means_by_hand() -> None:
    balance = Balance(momentum=0.75)
    assert balance.means is None
    feed(balance, (4.0, 1.0))
    assert balance.means is None  # still under way
    feed(balance, (8.0, 2.0), (0.0, 0.0))
    # weights of the two pairs: 0.75·0.25 and 0.25
    assert balance.means == pytest.approx(((4 * 0.1875 + 8 * 0.25) / 0.4375, (0.1875 + 2 * 0.25) / 0.4375), rel=1e-12)


def test_a_single_spike_does_not_outweigh_the_past() -> None:
    decisions = feed(Balance(momentum=0.98), *[(1.0, 1.0)] * 60, (50.0, 1.0), (1.0, 1.0))
    assert set(decisions) == {(0, 0)}
    decisions = feed(Balance(momentum=0.98), *[(1.0, 1.0)] * 60, *[(10.0, 1.0)] * 30)
    # the weighted mean by hand: n spikes of 10 among ones weigh 1 + 9·(1 − 0.98ⁿ)/(1 − 0.98^(60 + n)) > 3
    crossing = next(n for n in range(1, 30) if 9 * (1 - 0.98**n) / (1 - 0.98 ** (60 + n)) > 2)
    assert decisions[60 : 60 + crossing] == [(0, 0)] * crossing
    assert decisions[60 + crossing] == (1, 0)


def test_zero_max_extra_switches_it_off() -> None:
    assert feed(Balance(max_extra=0), (100.0, 1.0), (100.0, 1.0)) == [(0, 0), (0, 0)]


def test_resume_at_any_point_decides_as_if_never_stopped() -> None:
    torch.manual_seed(0)
    pairs = [(float(d), float(g)) for d, g in torch.rand(40, 2).pow(3)]
    whole = Balance(ratio=1.2, momentum=0.7)
    expected = feed(whole, *pairs)
    assert len(set(expected)) > 3
    for stop in (0, 1, 2, 17, 39):
        first = Balance(ratio=1.2, momentum=0.7)
        feed(first, *pairs[:stop])
        state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
        second = Balance(ratio=1.2, momentum=0.7)
        second.load_state_dict(state)
        assert second.extra_updates() == first.extra_updates()
        assert feed(second, *pairs[stop:]) == expected[stop:]
        assert second.state_dict() == whole.state_dict()


def test_the_losses_may_be_overwritten_after_the_call() -> None:
    balance = Balance(momentum=0.0)
    d_loss, g_loss = torch.tensor(8.0, requires_grad=True), torch.tensor(1.0)
    balance.update(d_loss, g_loss)
    d_loss.data.zero_()
    assert feed(balance, (1.0, 1.0)) == [(2, 0)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_decides_as_a_cpu_does() -> None:
    torch.manual_seed(0)
    pairs = torch.rand(50, 2).pow(3)
    on_gpu, on_cpu = Balance(ratio=1.2, momentum=0.7), Balance(ratio=1.2, momentum=0.7)
    for d_loss, g_loss in pairs:
        on_gpu.update(d_loss.cuda(), g_loss.cuda())
        on_cpu.update(d_loss, g_loss)
        assert on_gpu.extra_updates() == on_cpu.extra_updates()
    assert on_gpu.state_dict() == on_cpu.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.5}, "balance_ratio: found 0.5, expected a number above 1"),
        ({"ratio": 1.0}, "balance_ratio: found 1.0"),
        ({"ratio": math.inf}, "balance_ratio: found inf"),
        ({"ratio": math.nan}, "balance_ratio: found nan"),
        ({"max_extra": -1}, "max_extra_updates: found -1, expected at least 0"),
        ({"momentum": 1.0}, r"balance_momentum: found 1.0, expected a number in \[0, 1\)"),
        ({"momentum": -0.1}, "balance_momentum: found -0.1"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Balance(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [{}, {"d_sum": 0.0, "g_sum": 0.0, "weight": 0.0, "pending": [1.0]}])
def test_bad_state(state: dict[str, object]) -> None:
    with pytest.raises(InputError, match="balance state"):
        Balance().load_state_dict(state)

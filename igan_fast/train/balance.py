"""Which net lags behind, and how many extra updates it gets for that (Sec. 4.1).

From the running means of the two adversarial losses: where one is more than ``ratio`` times the other, the net with the
larger loss lags and gets 1 extra update in this iteration, 2 where it is more than 2·``ratio`` times the other, and so
on up to ``max_extra``.

The losses are born on the device, and reading one at once would make the host wait for the whole iteration. So the
means run exactly one :meth:`Balance.update` behind: each call starts the copy of its own pair of losses and takes in
the pair of the call before, whose copy ran while the host prepared this iteration. With ``update`` called in iteration
i, right after the step, the decision of iteration i rests on the losses of iterations 1 … i−1. The lag is the same on
every device, never "whatever has arrived": a run decides alike each time, and a resumed one as if it had not stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.errors import InputError

__all__ = ["Balance", "ExtraUpdates"]


class ExtraUpdates(NamedTuple):
    """How many more updates each net gets in this iteration; at least one of them is 0."""

    discriminator: int
    generator: int


class _Pair(NamedTuple):
    """D's and G's loss on their way to the host; ``copied`` is None where they are there already."""

    values: Tensor  # (2,) on the CPU
    copied: torch.cuda.Event | None

    def read(self) -> tuple[float, float]:
        if self.copied is not None:
            self.copied.synchronize()
        first, second = self.values.tolist()
        return first, second


class Balance:
    """The rule above, with its memory.

    Args:
        ratio: how many times the other's mean a loss has to exceed, above 1: at 1 one of the two would always lag.
        max_extra: the most extra updates in one iteration; 0 switches the rule off.
        momentum: weight of the past in the running means, in [0, 1); 0.98 remembers about 50 iterations.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(self, ratio: float = 3.0, max_extra: int = 2, momentum: float = 0.98) -> None:
        # By the names of the options, which is how a user knows the first two.
        if not 1.0 < ratio < inf:
            raise InputError(f"balance_ratio: found {ratio}, expected a number above 1")
        if max_extra < 0:
            raise InputError(f"max_extra_updates: found {max_extra}, expected at least 0")
        if not 0.0 <= momentum < 1.0:
            raise InputError(f"balance_momentum: found {momentum}, expected a number in [0, 1)")
        self.ratio = ratio
        self.max_extra = max_extra
        self.momentum = momentum
        self._d_sum = self._g_sum = self._weight = 0.0  # weighted sums; the mean is the sum over the weight
        self._pending: _Pair | None = None

    @property
    def means(self) -> tuple[float, float] | None:
        """The running means of D's and G's adversarial loss that decide now; ``None`` before there are any."""
        return (self._d_sum / self._weight, self._g_sum / self._weight) if self._weight else None

    def update(self, d_loss: Tensor, g_loss: Tensor) -> None:
        """Note this iteration's adversarial losses of D and G, scalars on any device, without waiting for them."""
        if self._pending is not None:
            d_value, g_value = self._pending.read()
            keep, take = self.momentum, 1.0 - self.momentum
            self._d_sum = keep * self._d_sum + take * d_value
            self._g_sum = keep * self._g_sum + take * g_value
            self._weight = keep * self._weight + take
        self._pending = _start_copy(torch.stack((d_loss.detach(), g_loss.detach())))

    def extra_updates(self) -> ExtraUpdates:
        """The decision for this iteration. NaN on either side gives none: the monitor stops such a run."""
        return ExtraUpdates(self._steps(self._d_sum, self._g_sum), self._steps(self._g_sum, self._d_sum))

    def _steps(self, own: float, other: float) -> int:
        # Both sums have the same weight, so that they compare as the means do; a product also takes an `other` of 0.
        return sum(own > count * self.ratio * other for count in range(1, self.max_extra + 1))

    def state_dict(self) -> dict[str, Any]:
        """All that the decisions to come depend on, the losses under way (which it waits for) included, for JSON."""
        pending = None if self._pending is None else list(self._pending.read())
        return {"d_sum": self._d_sum, "g_sum": self._g_sum, "weight": self._weight, "pending": pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where :meth:`state_dict` was taken. Raises ``InputError`` where it is not such a state."""
        try:
            d_sum, g_sum, weight = (float(state[name]) for name in ("d_sum", "g_sum", "weight"))
            pending = None if state["pending"] is None else torch.tensor(state["pending"], dtype=torch.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"balance state: found {state!r}, expected what Balance.state_dict gives") from error
        if pending is not None and pending.shape != (2,):
            raise InputError(f"balance state: pending is {state['pending']!r}, expected two losses or None")
        self._d_sum, self._g_sum, self._weight = d_sum, g_sum, weight
        self._pending = None if pending is None else _Pair(pending, None)


def _start_copy(losses: Tensor) -> _Pair:
    if not losses.is_cuda:
        return _Pair(losses.cpu(), None)
    with torch.cuda.device(losses.device):
        # Only a copy into pinned memory runs without the host.
        values = torch.empty(2, dtype=losses.dtype, pin_memory=True).copy_(losses, non_blocking=True)
        copied = torch.cuda.current_stream().record_event()
    return _Pair(values, copied)

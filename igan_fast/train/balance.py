"""Extra updates for the network that lags behind (Sec. 4.1).

The rule compares the running means of the two adversarial losses. If one mean is more than ``ratio`` times the other,
its network gets one extra update in this iteration. If it is more than 2·``ratio`` times the other, the network gets
two, and so on up to ``max_extra``.

The losses are on the device. If the host read them at once, it would wait for the whole iteration. So the means lag by
one call of :meth:`Balance.update`: each call starts to copy its own losses to the host, and adds the losses of the
previous call to the means. Their copy ran while the host prepared the iteration. If ``update`` is called after the step
of iteration i, the decision in iteration i depends on the losses of iterations 1 … i−1. The lag is the same on every
device, so the decisions are reproducible, and a resumed run decides as if it had not stopped.
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
    """The number of extra updates of each network in this iteration; at least one of them is 0."""

    discriminator: int
    generator: int


class _Pair(NamedTuple):
    """The losses of D and G, which are being copied to the host. ``copied`` is None if they are there already."""

    values: Tensor  # (2,) on the CPU
    copied: torch.cuda.Event | None

    def read(self) -> tuple[float, float]:
        if self.copied is not None:
            self.copied.synchronize()
        first, second = self.values.tolist()
        return first, second


class Balance:
    """The rule above, with its running means.

    Args:
        ratio: a network lags if the mean of its loss is more than ``ratio`` times the other's. It is above 1, because
            at 1 one of the two would always lag.
        max_extra: the largest number of extra updates in one iteration; 0 switches the rule off.
        momentum: weight of the previous mean in the running means, in [0, 1). 0.98 averages about 50 iterations.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(self, ratio: float = 3.0, max_extra: int = 2, momentum: float = 0.98) -> None:
        # The messages call the first two arguments by the names of their options.
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
        """The present running means of D's and G's adversarial losses; ``None`` before the first losses are added."""
        return (self._d_sum / self._weight, self._g_sum / self._weight) if self._weight else None

    def update(self, d_loss: Tensor, g_loss: Tensor) -> None:
        """Record this iteration's adversarial losses of D and G, scalars on any device, without waiting for them."""
        if self._pending is not None:
            d_value, g_value = self._pending.read()
            keep, take = self.momentum, 1.0 - self.momentum
            self._d_sum = keep * self._d_sum + take * d_value
            self._g_sum = keep * self._g_sum + take * g_value
            self._weight = keep * self._weight + take
        self._pending = _start_copy(torch.stack((d_loss.detach(), g_loss.detach())))

    def extra_updates(self) -> ExtraUpdates:
        """Decide the extra updates of this iteration. If a mean is NaN there are none; the monitor stops such a run."""
        return ExtraUpdates(self._steps(self._d_sum, self._g_sum), self._steps(self._g_sum, self._d_sum))

    def _steps(self, own: float, other: float) -> int:
        # Both sums have the same weight, so comparing them compares the means. Without a division `other` may be 0.
        return sum(own > count * self.ratio * other for count in range(1, self.max_extra + 1))

    def state_dict(self) -> dict[str, Any]:
        """Return all that later decisions depend on, as JSON values. Waits for the losses that are being copied."""
        pending = None if self._pending is None else list(self._pending.read())
        return {"d_sum": self._d_sum, "g_sum": self._g_sum, "weight": self._weight, "pending": pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ``InputError`` if ``state`` is something else."""
        try:
            d_sum, g_sum, weight = (float(state[name]) for name in ("d_sum", "g_sum", "weight"))
            pending = None if state["pending"] is None else torch.tensor(state["pending"], dtype=torch.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"balance state: found {state!r}, expected what Balance.state_dict returns") from error
        if pending is not None and pending.shape != (2,):
            raise InputError(f"balance state: pending is {state['pending']!r}, expected two losses or None")
        self._d_sum, self._g_sum, self._weight = d_sum, g_sum, weight
        self._pending = None if pending is None else _Pair(pending, None)


def _start_copy(losses: Tensor) -> _Pair:
    if not losses.is_cuda:
        return _Pair(losses.cpu(), None)
    with torch.cuda.device(losses.device):
        # Only a copy to pinned memory is asynchronous.
        values = torch.empty(2, dtype=losses.dtype, pin_memory=True).copy_(losses, non_blocking=True)
        copied = torch.cuda.current_stream().record_event()
    return _Pair(values, copied)

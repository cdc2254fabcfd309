"""Parameters that want no gradient for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["frozen"]

_lock = threading.Lock()

#: In how many blocks a parameter is that wants a gradient outside of them.
_blocks: dict[nn.Parameter, int] = {}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside the block no parameter of ``module`` wants a gradient. Blocks may overlap, in one thread or in several:
    what wanted a gradient before wants one again when the last of them ends."""
    with _lock:
        thawed = [parameter for parameter in module.parameters() if parameter.requires_grad or parameter in _blocks]
        for parameter in thawed:
            _blocks[parameter] = _blocks.get(parameter, 0) + 1
            parameter.requires_grad_(False)
    try:
        yield
    finally:
        with _lock:
            for parameter in thawed:
                _blocks[parameter] -= 1
                if not _blocks[parameter]:
                    del _blocks[parameter]
                    parameter.requires_grad_(True)

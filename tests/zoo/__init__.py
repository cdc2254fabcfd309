"""Small networks as others write them, for whatever has to work on any ``nn.Module``.

``NETWORKS[name].make()`` gives a module and example inputs; ``runs``, ``kept`` and ``calls`` say what may be fused in
it, what must not, and how else it is used. The spelling follows well-known repositories, the code is our own.
"""

from __future__ import annotations

from zoo import (  # noqa: F401 - they register networks
    blocks,
    branches,
    functional,
    generators,
    odd_settings,
    odd_uses,
    pyramids,
    residual,
    sequences,
)
from zoo.network import NETWORKS, Inputs, Network

__all__ = ["NETWORKS", "Inputs", "Network"]

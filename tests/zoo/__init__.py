"""Small networks written as in well-known repositories, to test code that has to work on any ``nn.Module``.

``NETWORKS[name].make()`` returns a module and example inputs. ``chains`` says what may be fused in it, ``not_fused``
what must not be, and ``calls`` how else it is used. The style follows the repositories, the code is our own.
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

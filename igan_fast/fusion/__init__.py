"""Other people's networks on the fused operators: ``fuse(model)``, and back with ``unfuse(model)``.

Not named ``igan_fast.fuse`` as the function is: a package cannot have a function and a module of one name.
"""

from __future__ import annotations

from igan_fast.fusion import handlers  # noqa: F401  what it tells is registered there
from igan_fast.fusion.report import Entry, FusionReport
from igan_fast.fusion.rewrite import fuse, unfuse

__all__ = ["Entry", "FusionReport", "fuse", "unfuse"]

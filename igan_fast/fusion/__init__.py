"""Run any model on the fused operators: ``fuse(model)``, and undo it: ``unfuse(model)``.

To read the code, begin with the docstring of ``deferred.py``, which follows one call through the modules. Then:

1. ``rewrite.py``: ``fuse`` sets the class of each convolution and normalisation to one of ``modules.py``, a subclass of
   ``FusedModule`` (``fused_module.py``); ``report.py`` shows what was done.
2. ``normalization.py``: what a fused normalisation does when it is called; ``normalize.py`` computes it.
   ``convolution.py``: the same for a convolution; in evaluation ``ways.py`` finds out how it is computed, and
   ``kept.py`` keeps the weights with a normalisation folded into them.
3. ``expectation.py``: what a module expects to follow it. ``watched.py``: how it learns that.
4. ``result.py`` and ``deferred.py``: a module's result before its first use. ``activation.py`` and ``handlers.py``: the
   functions that can use such a result without computing its data.
5. ``autograd.py``: two helpers for autograd.

This package is not named ``igan_fast.fuse``: a package cannot have a function and a module of one name.
"""

from __future__ import annotations

from igan_fast.fusion import handlers  # noqa: F401  importing it registers its handlers
from igan_fast.fusion.report import Entry, FusionReport
from igan_fast.fusion.rewrite import fuse, unfuse

__all__ = ["Entry", "FusionReport", "fuse", "unfuse"]

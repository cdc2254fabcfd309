"""Convolutions: one ``convolve`` and one ``gradients``, which choose the implementation.

- ``settings``: a convolution's settings
- ``dispatch``: the choice
- ``winograd``, ``subpixel``, ``onednn``, ``pytorch``: the implementations, in the order in which they are asked
- ``plan``: what an implementation is
"""

from igan_fast.ops.convolution.dispatch import convolve, gradients, plan_of
from igan_fast.ops.convolution.plan import Plan
from igan_fast.ops.convolution.settings import ConvSettings, InputSpec
from igan_fast.ops.convolution.winograd import filters_kept

__all__ = ["ConvSettings", "InputSpec", "Plan", "convolve", "filters_kept", "gradients", "plan_of"]

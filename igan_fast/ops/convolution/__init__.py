"""Convolutions: ``convolve`` and ``gradients`` choose the fastest implementation.

- ``settings``: a convolution's settings
- ``dispatch``: what the choice depends on, and the calls of the chosen functions
- ``choice``: the choice
- ``triton_images``, ``triton``, ``winograd``, ``dilated``, ``winograd_1d``, ``direct``, ``subpixel``, ``onednn``,
  ``few_channels``, ``pytorch``: the implementations, in the order in which they are tried; the first two only where the
  user asks for them
- ``winograd_costs``, ``winograd_1d_costs``: where ``winograd`` and ``winograd_1d`` are faster than PyTorch, from
  measured constants
- ``filters``: transformed filters that are kept
- ``triton_fake``: the shapes of Triton's results, for tensors without data
- ``measured``: what is timed for the choice between the first two and the others by measurement
- ``plan``: the base class of implementations, and the input and the result of the choice
"""

from igan_fast.ops.convolution import triton_fake  # noqa: F401  (it registers them)
from igan_fast.ops.convolution.choice import asking_for
from igan_fast.ops.convolution.dispatch import activation_gradients, convolve, gradients, plan_of
from igan_fast.ops.convolution.filters import filters_kept
from igan_fast.ops.convolution.plan import Plan
from igan_fast.ops.convolution.settings import ConvSettings, InputSpec
from igan_fast.ops.convolution.triton import asked_for

__all__ = [
    "ConvSettings",
    "InputSpec",
    "Plan",
    "activation_gradients",
    "asked_for",
    "asking_for",
    "convolve",
    "filters_kept",
    "gradients",
    "plan_of",
]

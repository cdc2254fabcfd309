"""The classes of a fused model's convolutions and normalisations: PyTorch's own with another ``forward``.

``fuse`` gives a module its class *in place*: parameters, buffers, hooks, name and identity stay, and the class's name.
Each is right by itself, whatever comes before it and behind it: what it returns is PyTorch's result, in PyTorch's
memory layout, or a ``Deferred`` that becomes it.
"""

from __future__ import annotations

from torch import nn

from igan_fast.fusion.convolution import FusedConvolution
from igan_fast.fusion.normalization import FusedBatchNorm, FusedInstanceNorm
from igan_fast.fusion.fused_module import Twin, derived

__all__ = ["TWINS"]

_KINDS: dict[type[Twin], tuple[type[nn.Module], ...]] = {
    FusedBatchNorm: (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    FusedInstanceNorm: (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    FusedConvolution: (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    ),
}

#: The fused class of each of PyTorch's.
TWINS: dict[type[nn.Module], type[Twin]] = {
    plain: derived(twin, plain, __name__) for twin, kinds in _KINDS.items() for plain in kinds
}

globals().update({plain.__name__: twin for plain, twin in TWINS.items()})  # where pickle looks for them

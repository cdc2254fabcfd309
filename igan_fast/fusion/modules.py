"""The classes that ``fuse`` gives to convolutions, normalisations and linear layers.

Each of PyTorch's classes has one fused class of the same name. ``fuse`` changes only the class of a module object: its
parameters, buffers and hooks stay. The results of a fused module do not depend on the modules before and after it:
it returns PyTorch's result in PyTorch's memory format, or a ``Deferred`` tensor that turns into that result.
"""

from __future__ import annotations

from torch import nn

from igan_fast.fusion.convolution import FusedConvolution
from igan_fast.fusion.fused_module import FusedModule, fused_class_of
from igan_fast.fusion.linear import FusedLinear
from igan_fast.fusion.normalization import FusedBatchNorm, FusedInstanceNorm, FusedSyncBatchNorm

__all__ = ["FUSED_CLASSES"]

_PLAIN_CLASSES: dict[type[FusedModule], tuple[type[nn.Module], ...]] = {
    FusedBatchNorm: (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    FusedSyncBatchNorm: (nn.SyncBatchNorm,),
    FusedInstanceNorm: (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    FusedConvolution: (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    ),
    FusedLinear: (nn.Linear,),
}

#: For each class of PyTorch, the fused class of the same name.
FUSED_CLASSES: dict[type[nn.Module], type[FusedModule]] = {
    plain: fused_class_of(plain, base, __name__) for base, classes in _PLAIN_CLASSES.items() for plain in classes
}

# Pickle finds a class by its name in this module.
globals().update({plain.__name__: fused_class for plain, fused_class in FUSED_CLASSES.items()})

"""The classes that fused modules have: torch's own with another ``forward``, and nothing else.

``fuse`` gives a module one of these classes *in place*, so that its parameters, buffers, name, hooks and identity stay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from igan_fast.fusion.forward import Fused, FusedActivation, FusedBatchNorm, FusedConvolution, FusedInstanceNorm
from igan_fast.fusion.run import Run

__all__ = ["ACTIVATIONS", "CONVOLUTIONS", "NORMS", "install", "restored"]


class FusedBatchNorm1d(FusedBatchNorm, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` in a fused run."""

    plain = nn.BatchNorm1d


class FusedBatchNorm2d(FusedBatchNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` in a fused run."""

    plain = nn.BatchNorm2d


class FusedBatchNorm3d(FusedBatchNorm, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` in a fused run."""

    plain = nn.BatchNorm3d


class FusedInstanceNorm1d(FusedInstanceNorm, nn.InstanceNorm1d):
    """``nn.InstanceNorm1d`` in a fused run."""

    plain = nn.InstanceNorm1d


class FusedInstanceNorm2d(FusedInstanceNorm, nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` in a fused run."""

    plain = nn.InstanceNorm2d


class FusedInstanceNorm3d(FusedInstanceNorm, nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` in a fused run."""

    plain = nn.InstanceNorm3d


class FusedConv1d(FusedConvolution, nn.Conv1d):
    """``nn.Conv1d`` in a fused run."""

    plain, dimensions = nn.Conv1d, 1


class FusedConv2d(FusedConvolution, nn.Conv2d):
    """``nn.Conv2d`` in a fused run."""

    plain, dimensions = nn.Conv2d, 2


class FusedConv3d(FusedConvolution, nn.Conv3d):
    """``nn.Conv3d`` in a fused run."""

    plain, dimensions = nn.Conv3d, 3


class FusedConvTranspose1d(FusedConvolution, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` in a fused run."""

    plain, dimensions = nn.ConvTranspose1d, 1


class FusedConvTranspose2d(FusedConvolution, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` in a fused run."""

    plain, dimensions = nn.ConvTranspose2d, 2


class FusedConvTranspose3d(FusedConvolution, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` in a fused run."""

    plain, dimensions = nn.ConvTranspose3d, 3


class FusedReLU(FusedActivation, nn.ReLU):
    """``nn.ReLU`` in a fused run."""

    plain = nn.ReLU


class FusedLeakyReLU(FusedActivation, nn.LeakyReLU):
    """``nn.LeakyReLU`` in a fused run."""

    plain = nn.LeakyReLU


def _by_plain(*kinds: type[Fused]) -> dict[type[nn.Module], type[Fused]]:
    return {kind.plain: kind for kind in kinds}


#: The fused class of each of torch's.
NORMS = _by_plain(
    FusedBatchNorm1d, FusedBatchNorm2d, FusedBatchNorm3d, FusedInstanceNorm1d, FusedInstanceNorm2d, FusedInstanceNorm3d
)
CONVOLUTIONS = _by_plain(
    FusedConv1d, FusedConv2d, FusedConv3d, FusedConvTranspose1d, FusedConvTranspose2d, FusedConvTranspose3d
)
ACTIVATIONS = _by_plain(FusedReLU, FusedLeakyReLU)


def install(run: Run) -> None:
    """Give the run's modules their fused classes; the activation is replaced at its place alone, since networks often
    have one object in many places."""
    for place in run.acts:
        act: Any = place.module
        if isinstance(act, FusedActivation):
            if run.shared or act._run is not None:
                continue  # another run with the same activation has been here
            (act,) = act._original  # one that is shared elsewhere; at this place it is this run's alone
        fused: Any = copy.copy(act)
        fused.__class__ = ACTIVATIONS[type(act)]
        fused._original = (act,)
        fused._run = None if run.shared else run
        place.parent._modules[place.name] = fused
    for module, kinds in ((run.conv, CONVOLUTIONS), (run.norm, NORMS)):
        if module is not None:
            module.__class__ = kinds[type(module)]
            module._run = run  # type: ignore[assignment]


def restored(model: nn.Module) -> Iterator[nn.Module]:
    """Undo ``install`` all over a model, and tell what has its own class again."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, FusedActivation):
                (original,) = child._original
                original.training = child.training
                parent._modules[name] = original
                yield original
    for module in list(model.modules()):
        if isinstance(module, Fused) and not isinstance(module, FusedActivation):
            module._run = None
            if module.__class__ in (*NORMS.values(), *CONVOLUTIONS.values()):  # and not parametrised since
                module.__class__ = module.plain  # type: ignore[assignment]
                del module._run
            yield module

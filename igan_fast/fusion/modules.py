"""The classes that fused modules have: torch's own with another ``forward``, and nothing else.

``fuse`` gives a module one of these classes *in place*, so that its parameters, buffers, name, hooks and identity stay.
A run's convolution computes all of it where it can, and what follows passes on; each decides that when it is called, so
that a hook, or a module that was put in another's place, is met as it would be without fusing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igan_fast import ops
from igan_fast.fusion.run import MARK, Run
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.geometry import Geometry

__all__ = ["ACTIVATIONS", "CONVOLUTIONS", "NORMS", "install", "restored"]


class _Fused(nn.Module):
    """What fused modules share."""

    #: torch's own class, which ``unfuse`` gives back.
    plain: ClassVar[type[nn.Module]]

    _run: Run | None

    def _replicate_for_data_parallel(self) -> Any:
        """``nn.DataParallel``'s replicas have parameters of their own, which a run does not know: each goes alone."""
        replica = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        if self._run is not None:
            replica._run = copy.copy(self._run)
            if self._run.norm is not None:
                replica._run.conv, replica._run.places = None, self._run.places[-1:]
        return replica


class _FusedNorm(_Fused):
    """A normalisation that applies the activation behind it, or has been computed by the convolution before it."""

    weight: Any
    bias: Any
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        run = self._run
        if run is None:
            return super().forward(input)  # type: ignore[no-any-return]
        return input if run.joined() else self.normalise(input, run)

    def normalise(self, input: Tensor, run: Run) -> Tensor:
        """The normalisation, and the activation where the run has it."""
        self._check_input_dim(input)  # type: ignore[operator]
        unbatched = input.dim() == self._unbatched_dim()
        x = input.unsqueeze(0) if unbatched else input
        y = ops.norm_act(
            x, self.weight, self.bias, eps=self.eps, negative_slope=run.activation_slope(), **self.settings(x.shape[0])
        )
        return run.marked(y.squeeze(0) if unbatched else y)

    def settings(self, batch: int) -> dict[str, Any]:
        """The operator's arguments on statistics, for this call: it counts the batch."""
        raise NotImplementedError

    def _unbatched_dim(self) -> int | None:
        return None


class _FusedBatchNorm(_FusedNorm):
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    momentum: Any
    track_running_stats: bool

    def settings(self, batch: int) -> dict[str, Any]:
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        tracked = not self.training or self.track_running_stats
        return {
            "running_mean": self.running_mean if tracked else None,
            "running_var": self.running_var if tracked else None,
            "training": self.training,
            "momentum": momentum,
        }


class _FusedInstanceNorm(_FusedNorm):
    running_mean: Any
    running_var: Any
    momentum: Any
    track_running_stats: bool

    def settings(self, batch: int) -> dict[str, Any]:
        own = self.training or not self.track_running_stats  # each picture's own statistics
        return {
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "training": own,
            "momentum": 0.0 if self.momentum is None else self.momentum,
            "groups": max(batch, 1) if own else 1,
            "average_groups": True,
        }

    def _unbatched_dim(self) -> int | None:
        return self._get_no_batch_dim()  # type: ignore[no-any-return, operator]


class _FusedConvolution(_Fused):
    """A convolution that computes the normalisation behind it too, and the activation behind that."""

    transposed: bool
    dimensions: ClassVar[int]

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        run = self._run
        rest = () if output_size is None else (output_size,)
        if run is not None and run.norm is None:
            return self._alone(input, run, *rest)
        if run is None or not run.joined():
            return super().forward(input, *rest)  # type: ignore[no-any-return]
        norm: Any = run.norm
        if rest:
            return norm.normalise(super().forward(input, *rest), run)  # type: ignore[no-any-return]
        unbatched = input.dim() == self.dimensions + 1
        x = input.unsqueeze(0) if unbatched else input
        weight: Tensor = self.weight  # type: ignore[assignment]
        padding: Any = self.padding
        if self.padding_mode != "zeros" or isinstance(padding, str):
            mode: Any = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)  # type: ignore[arg-type]
            padding = 0
        y = ops.conv_norm_act(
            x,
            weight,
            norm.weight,
            norm.bias,
            transposed=self.transposed,
            stride=self.stride,  # type: ignore[arg-type]
            padding=padding,
            output_padding=self.output_padding,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
            conv_groups=self.groups,  # type: ignore[arg-type]
            conv_bias=self.bias,  # type: ignore[arg-type]
            eps=norm.eps,
            negative_slope=run.activation_slope(),
            **norm.settings(x.shape[0]),
        )
        y = _laid_out(y, x, weight)
        return run.marked(y.squeeze(0) if unbatched else y)

    def _alone(self, input: Tensor, run: Run, *rest: Any) -> Tensor:
        """Without a normalisation: by our own kernels where these are faster, else as it was."""
        slope = run.activation_slope()
        settings: dict[str, Any] = {
            "transposed": self.transposed,
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
        }
        weight: Tensor = self.weight  # type: ignore[assignment]
        if not rest and not torch.compiler.is_compiling() and Geometry(2, **settings).has_kernel(input, weight):
            y = conv_act(input, weight, self.bias, negative_slope=slope, **settings)  # type: ignore[arg-type]
            return run.marked(_laid_out(y, input, weight))
        y = super().forward(input, *rest)
        if slope != 1:
            y = F.leaky_relu(y, slope) if slope else F.relu(y)
        return run.marked(y)


def _laid_out(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y in the layout that torch's own convolution gives: what follows may count on it (view)."""
    return y.contiguous() if x.is_contiguous() and weight.is_contiguous() else y


class _FusedActivation(_Fused):
    """An activation that the module before it has applied: always where it has a run, else to what is marked."""

    _original: tuple[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        run = self._run
        applied = run.activates() if run is not None else getattr(input, MARK, False)
        if not applied:
            return super().forward(input)  # type: ignore[no-any-return]
        if run is None:
            delattr(input, MARK)
        return input


class FusedBatchNorm1d(_FusedBatchNorm, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` in a fused run."""

    plain = nn.BatchNorm1d


class FusedBatchNorm2d(_FusedBatchNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` in a fused run."""

    plain = nn.BatchNorm2d


class FusedBatchNorm3d(_FusedBatchNorm, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` in a fused run."""

    plain = nn.BatchNorm3d


class FusedInstanceNorm1d(_FusedInstanceNorm, nn.InstanceNorm1d):
    """``nn.InstanceNorm1d`` in a fused run."""

    plain = nn.InstanceNorm1d


class FusedInstanceNorm2d(_FusedInstanceNorm, nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` in a fused run."""

    plain = nn.InstanceNorm2d


class FusedInstanceNorm3d(_FusedInstanceNorm, nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` in a fused run."""

    plain = nn.InstanceNorm3d


class FusedConv1d(_FusedConvolution, nn.Conv1d):
    """``nn.Conv1d`` in a fused run."""

    plain, dimensions = nn.Conv1d, 1


class FusedConv2d(_FusedConvolution, nn.Conv2d):
    """``nn.Conv2d`` in a fused run."""

    plain, dimensions = nn.Conv2d, 2


class FusedConv3d(_FusedConvolution, nn.Conv3d):
    """``nn.Conv3d`` in a fused run."""

    plain, dimensions = nn.Conv3d, 3


class FusedConvTranspose1d(_FusedConvolution, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` in a fused run."""

    plain, dimensions = nn.ConvTranspose1d, 1


class FusedConvTranspose2d(_FusedConvolution, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` in a fused run."""

    plain, dimensions = nn.ConvTranspose2d, 2


class FusedConvTranspose3d(_FusedConvolution, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` in a fused run."""

    plain, dimensions = nn.ConvTranspose3d, 3


class FusedReLU(_FusedActivation, nn.ReLU):
    """``nn.ReLU`` in a fused run."""

    plain = nn.ReLU


class FusedLeakyReLU(_FusedActivation, nn.LeakyReLU):
    """``nn.LeakyReLU`` in a fused run."""

    plain = nn.LeakyReLU


def _by_plain(*kinds: type[_Fused]) -> dict[type[nn.Module], type[_Fused]]:
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
        if isinstance(act, _FusedActivation):
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
            if isinstance(child, _FusedActivation):
                (original,) = child._original
                original.training = child.training
                parent._modules[name] = original
                yield original
    for module in list(model.modules()):
        if isinstance(module, _Fused) and not isinstance(module, _FusedActivation):
            module._run = None
            if module.__class__ in (*NORMS.values(), *CONVOLUTIONS.values()):  # and not parametrised since
                module.__class__ = module.plain  # type: ignore[assignment]
                del module._run
            yield module

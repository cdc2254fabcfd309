"""What fused modules do when they are called.

A run's convolution computes all of it where it can, and what follows passes on; each decides that when it is called, so
that a hook, or a module that was put in another's place, is met as it would be without fusing.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from igan_fast import ops
from igan_fast.fusion.run import MARK, Run
from igan_fast.ops import backend
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.geometry import Geometry
from igan_fast.ops.layout import channels_first

__all__ = ["Fused", "FusedActivation", "FusedBatchNorm", "FusedConvolution", "FusedInstanceNorm"]


class Fused(nn.Module):
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


class FusedNorm(Fused):
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

    @abstractmethod
    def settings(self, batch: int) -> dict[str, Any]:
        """The operator's arguments on statistics, for this call: it counts the batch."""

    def _unbatched_dim(self) -> int | None:
        return None


class FusedBatchNorm(FusedNorm):
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


class FusedInstanceNorm(FusedNorm):
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


class FusedConvolution(Fused):
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
        x, padding = self._padded(x)
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

    def _padded(self, x: Tensor) -> tuple[Tensor, Any]:
        """x, and the zeros that the convolution is to add: by a copy only where it has no numbers for what to add."""
        sides = self._reversed_padding_repeated_twice  # two each for the last dimension, the one before, …
        if self.padding_mode != "zeros":
            mode: Any = self.padding_mode
            return F.pad(x, sides, mode=mode), 0  # type: ignore[arg-type]
        if not isinstance(self.padding, str):
            return x, self.padding
        if sides[::2] == sides[1::2]:  # type: ignore[index]
            return x, sides[-2::-2]  # type: ignore[index]
        return F.pad(x, sides), 0  # type: ignore[arg-type]

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
        native = backend.namespace("auto", input.device, (input.dtype,)) == backend.NATIVE
        if not rest and Geometry(2, native=native, **settings).has_kernel(input, weight):
            bias: Tensor | None = self.bias  # type: ignore[assignment]
            y = conv_act(input, weight, bias, negative_slope=slope, writable=run.writable, **settings)
            return run.marked(_laid_out(y, input, weight))
        y = super().forward(input, *rest)
        if slope != 1:
            y = F.leaky_relu(y, slope) if slope else F.relu(y)
        return run.marked(y)


def _laid_out(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y in the layout that torch's own convolution gives: what follows may count on it (view)."""
    if not (x.is_contiguous() and weight.is_contiguous()):
        return y
    return channels_first(y) if y.dim() == 4 else y.contiguous()


class FusedActivation(Fused):
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

"""Fused batch and instance normalisation."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from igan_fast.fusion import fused_module
from igan_fast.fusion.deferred import Deferred, to_ordinary
from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.fused_module import (
    ONE_PASS,
    FusedModule,
    is_few,
    is_left_again,
    is_small,
    may_change_unseen,
    memory_format_of,
)
from igan_fast.fusion.normalize import NormCall, RunningUpdate, Shared, Statistics, normalize
from igan_fast.fusion.result import Result
from igan_fast.fusion.watched import guard, to_ordinary_for_norm, watch
from igan_fast.ops import backend, norm_act_processes
from igan_fast.ops.layout import channels_first, dense
from igan_fast.ops.norm_act import HALF_DTYPES
from igan_fast.ops.norm_act_gradient import operators_of
from igan_fast.ops.transforms import transformed

if TYPE_CHECKING:
    from igan_fast.reference.processes import ProcessGroup

__all__ = ["FusedBatchNorm", "FusedInstanceNorm", "FusedNorm", "FusedSyncBatchNorm"]


#: Batch normalisation in training gains from so many times ``MIN_ELEMENTS`` on, for contiguous maps (True) and
#: channels_last ones (False), without (True) and with (False) an activation after it (measured). PyTorch's is up to
#: twice as fast with channels_last maps.
TIMES = {(True, True): 2, (True, False): 2, (False, True): 16, (False, False): 8}


class FusedNorm(FusedModule):
    """A normalisation that also computes the activation that it expects to follow."""

    num_features: int
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    eps: float
    momentum: Any
    track_running_stats: bool

    #: Whether a fused convolution may compute this normalisation together with itself, in evaluation.
    foldable: ClassVar[bool] = False
    #: Whether each image is normalised by itself, and the running statistics are updated by the mean over the images.
    per_instance: ClassVar[bool] = False

    def forward(self, input: Tensor) -> Tensor:
        if type(input) is Tensor and not torch.compiler.is_compiling() and self._is_small(input):
            return self._left(input)
        if not self.is_fused() or self.has_backward_hooks():
            return self.plain_class.forward(self, to_ordinary(input))  # type: ignore[no-any-return]
        folded = self._folded_result(input)
        if folded is not None:
            return folded
        x = to_ordinary_for_norm(input, self) if self.foldable else to_ordinary(input)
        # Read each attribute once: nn.Module looks up parameters slowly, and a parametrisation computes them each time.
        weight, bias = parameters = self.weight, self.bias
        running = self.running_mean, self.running_var
        if self._is_small(x) or transformed(x, *parameters, *running) or not self._supports(x, *parameters, *running):
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        namespace = backend.namespace("auto", x.device, (x.dtype,))
        if namespace is None:
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        x, expectation = self._in_memory_format_of_result(x), self._expectation
        slope = None if may_change_unseen(x) else expectation.slope
        statistics, update = self._begin_call(*running)
        groups = x.shape[0] if self.per_instance and statistics is None else 1
        call = NormCall(namespace, expectation, groups, self.eps, slope, statistics, update, self.per_instance, [])
        return watch(normalize(x, weight, bias, call), expectation)

    def _is_small(self, x: Tensor) -> bool:
        """Whether x has so few elements that PyTorch is as fast."""
        return is_small(x)

    def _left(self, x: Tensor) -> Tensor:
        """The result of PyTorch's module."""
        return self.plain_class.forward(self, x)  # type: ignore[no-any-return]

    def _supports(self, x: Tensor, *parameters: Tensor | None) -> bool:
        """Whether the fused operators support these tensors and give PyTorch's result. If not, PyTorch's module is
        called, which also raises PyTorch's errors.

        Args:
            parameters: weight, bias, running mean and running variance.
        """
        dtypes = (x.dtype, torch.float32) if x.dtype in HALF_DTYPES else (x.dtype,)
        for t in parameters:
            if t is not None and (t.dtype not in dtypes or t.device != x.device or t.shape != (self.num_features,)):
                return False
        running_mean, running_var = parameters[2:]
        return (
            (running_mean is None) == (running_var is None)
            and self.eps > 0
            and self._supports_input(x)
            and x.shape[1] == self.num_features
            # Autograd raises an error for an inference tensor, and PyTorch's module does so before any side effect.
            and (not x.is_inference() or torch.is_inference_mode_enabled())
        )

    @abstractmethod
    def _supports_input(self, x: Tensor) -> bool:
        """Whether the fused operators support the shape and the memory format of x."""

    def _in_memory_format_of_result(self, x: Tensor) -> Tensor:
        """x in the memory format of PyTorch's result."""
        return x

    @abstractmethod
    def _begin_call(
        self, running_mean: Tensor | None, running_var: Tensor | None
    ) -> tuple[Statistics | None, RunningUpdate | None]:
        """``NormCall.statistics`` and ``NormCall.update`` of a new call. Batch normalisation in training also counts
        the call in ``num_batches_tracked``."""

    def _folded_result(self, input: Tensor) -> Tensor | None:
        """The result, if the convolution that returned ``input`` has already computed it; else None."""
        return None


class FusedBatchNorm(FusedNorm):
    """Batch normalisation. In evaluation without gradients, the fused convolution before it may compute both."""

    foldable = True

    def forward(self, input: Tensor) -> Tensor:
        own = vars(self)
        expectation, parameters, buffers = own.get("_expectation"), own["_parameters"], own["_buffers"]
        if expectation is not None and is_left_again(expectation, input) and not own["training"]:
            mean, var = buffers.get("running_mean"), buffers.get("running_var")
            if mean is not None and var is not None and type(self) is self.fused_class:
                return torch.batch_norm(
                    *(input, parameters["weight"], parameters["bias"], mean, var, False, own["momentum"] or 0.0),
                    *(own["eps"], torch.backends.cudnn.enabled),
                )
        return super().forward(input)

    def _is_small(self, x: Tensor) -> bool:
        """In evaluation without gradients only the pass of the activation is gained. Else ``TIMES`` are the limits."""
        expectation: Expectation | None = vars(self).get("_expectation")
        alone = expectation is not None and expectation.slope is None and not expectation.unknown
        if not self.training and not torch.is_grad_enabled():
            return (alone and x.device.type == "cpu") or is_few(x.numel() // ONE_PASS)
        contiguous = bool(x.is_contiguous())  # which raises torch.fx's own error for its proxies
        return is_few(x.numel() // TIMES[contiguous, alone])

    def _left(self, x: Tensor) -> Tensor:
        """As above, by fewer steps where nothing unusual is set: ``nn.Module`` finds parameters and buffers slowly."""
        own = vars(self)
        parameters, buffers, training, momentum = own["_parameters"], own["_buffers"], own["training"], own["momentum"]
        mean, var, count = (buffers.get(name) for name in ("running_mean", "running_var", "num_batches_tracked"))
        if (
            mean is None
            or var is None
            or (training and (count is None or momentum is None or not own["track_running_stats"]))
            or "weight" not in parameters
            or "bias" not in parameters
            or type(self) is not self.fused_class
        ):
            return super()._left(x)
        self._check_input_dim(x)  # type: ignore[operator]
        if training:
            count.add_(1)
        elif not torch.is_grad_enabled() and type(x) is Tensor and (expectation := own.get("_expectation")) is not None:
            expectation.repeat_left(x)
        return F.batch_norm(
            x, mean, var, parameters["weight"], parameters["bias"], training, momentum or 0.0, own["eps"]
        )

    def _supports_input(self, x: Tensor) -> bool:
        self._check_input_dim(x)  # type: ignore[operator]
        single = x.numel() == x.shape[1] and (self.training or self.running_mean is None)
        return not single and memory_format_of(x) is not None

    def _begin_call(
        self, running_mean: Tensor | None, running_var: Tensor | None
    ) -> tuple[Statistics | None, RunningUpdate | None]:
        if not self.training:
            return None if running_mean is None or running_var is None else (running_mean, running_var), None
        if not self.track_running_stats:
            return None, None
        momentum, count = self.momentum or 0.0, self.num_batches_tracked
        if count is not None:
            count.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(count)
        update = None if running_mean is None or running_var is None else (running_mean, running_var, momentum)
        return None, update

    def folding_tensors(self) -> tuple[Tensor | None, ...]:
        """Weight, bias, running mean and running variance."""
        parameters, buffers = self._parameters, self._buffers
        try:  # faster than ``nn.Module.__getattr__``
            return parameters["weight"], parameters["bias"], buffers["running_mean"], buffers["running_var"]
        except KeyError:
            return self.weight, self.bias, self.running_mean, self.running_var

    def can_fold(self, dtype: torch.dtype) -> bool:
        """Whether a convolution in ``dtype`` may compute this normalisation, by a scale and a shift of each channel."""
        if self.training or not self.is_fused() or self.has_backward_hooks():
            return False
        if self._forward_pre_hooks:  # they may change this module after the convolution's call
            return False
        tensors = self.folding_tensors()
        if tensors[2] is None or tensors[3] is None or transformed(*tensors):
            return False
        records = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        for t in tensors:
            if t is not None and (
                (t.dtype is not dtype and not (t.dtype is torch.float32 and dtype in HALF_DTYPES))
                or t.is_inference()  # it has no version counter
                or (records and t.requires_grad)
            ):
                return False
        return True

    def _folded_result(self, input: Tensor) -> Tensor | None:
        if type(input) is not Deferred or input.is_computed():  # C++ may have written into the computed data
            return None
        result = input.result
        folded = result.folded_norm
        if (
            folded is None
            or result.activated is None
            or not folded.is_still(self)
            or torch.is_inference_mode_enabled() != result.inference_mode
        ):
            return None
        y = result.take_activated()
        if result.slope is None:
            return watch(y, self._expectation)
        weight, bias, mean, var = folded.copies
        eps, convolve = self.eps, result.compute

        def plain() -> Tensor:
            return F.batch_norm(convolve(), mean, var, weight, bias, False, 0.0, eps)

        own = Result(self._expectation, result.inputs, plain, y, result.slope, autocast=result.autocast)
        return guard(Deferred(y, own))


class FusedSyncBatchNorm(FusedBatchNorm):
    """Batch normalisation, in training by the statistics of the batches of all processes. Unlike PyTorch's module, it
    also runs on a CPU, with the native extension.

    The processes wait for each other's statistics, so all have to take the same path. None of the conditions in
    ``forward`` may therefore depend on the number of images, which may differ.
    """

    process_group: Any

    def _left(self, x: Tensor) -> Tensor:
        return FusedNorm._left(self, x)

    def forward(self, input: Tensor) -> Tensor:
        group = self._processes() if self.is_fused() else None
        if group is None:
            return super().forward(input)
        x = to_ordinary_for_norm(input, self)
        weight, bias = parameters = self.weight, self.bias
        running = self.running_mean, self.running_var
        namespace = backend.namespace("auto", x.device, (x.dtype,))
        if namespace is None or transformed(x, *parameters, *running) or not self._supports(x, *parameters, *running):
            return self.plain_class.forward(self, x)  # type: ignore[no-any-return]
        x, operators = dense(x), operators_of(namespace)
        _, update = self._begin_call(*running)
        with torch.no_grad():
            mean, var, unbiased, values = norm_act_processes.statistics(operators, x, 1, group)
            if update is not None:
                running_mean, running_var, momentum = update
                operators.norm_act_update(running_mean, running_var, mean, unbiased, None, momentum)
        expectation, hooks = self._expectation, self.has_backward_hooks()
        slope = None if hooks or may_change_unseen(x) else expectation.slope
        shared = Shared(values, group)
        call = NormCall(namespace, expectation, 1, self.eps, slope, (mean, var), None, False, [], shared)
        y = normalize(x, weight, bias, call)
        return y if hooks else watch(y, expectation)

    def _processes(self) -> ProcessGroup | None:
        """The group whose batches are normalised together now; None where PyTorch's module normalises alone."""
        if not self.training or not dist.is_available() or not dist.is_initialized():
            return None
        group = self.process_group or dist.group.WORLD
        return group if isinstance(group, dist.ProcessGroup) and group.size() > 1 else None

    def _supports_input(self, x: Tensor) -> bool:
        if self._processes() is None:
            return super()._supports_input(x)
        self._check_input_dim(x)  # type: ignore[operator]
        return True


class FusedInstanceNorm(FusedNorm):
    """Instance normalisation. The result is contiguous, as PyTorch's is, whatever the input's memory format."""

    per_instance = True

    def _in_memory_format_of_result(self, x: Tensor) -> Tensor:
        return channels_first(x) if x.dim() == 4 else x.contiguous()

    def _supports_input(self, x: Tensor) -> bool:
        self._check_input_dim(x)  # type: ignore[operator]
        if self.running_mean is None and self.track_running_stats and not self.training:
            return False  # PyTorch raises an error
        elements = x.numel() // (x.shape[0] * x.shape[1])
        batched = x.dim() != self._get_no_batch_dim()  # type: ignore[operator]
        return batched and elements >= max(fused_module.MIN_ELEMENTS_PER_INSTANCE, 2)

    def _begin_call(
        self, running_mean: Tensor | None, running_var: Tensor | None
    ) -> tuple[Statistics | None, RunningUpdate | None]:
        if running_mean is None or running_var is None:
            return None, None
        if self.training or not self.track_running_stats:
            return None, (running_mean, running_var, self.momentum or 0.0)
        return (running_mean, running_var), None

"""How a convolution is computed in evaluation, without gradients. It is found out once for each kind of call."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.fused_module import ONE_PASS, is_few, memory_format_of
from igan_fast.fusion.kept import Kept
from igan_fast.fusion.result import version_of
from igan_fast.ops import backend
from igan_fast.ops.constant import is_constant
from igan_fast.ops.convolution import ConvSettings, plan_of, pytorch
from igan_fast.ops.convolution.choice import chosen
from igan_fast.ops.convolution.direct import MAX_CHANNELS
from igan_fast.ops.convolution.dispatch import problem_of
from igan_fast.ops.convolution.plan import Convolve
from igan_fast.ops.layout import channels_first, no_view

#: What a call of our kernels costs besides what is predicted, in seconds. The call itself, mostly Python that no cache
#: holds; for each value, the copies of contiguous maps to channels_last and back; for each weight, its comparison with
#: what is kept. Measured in networks, on an AMD EPYC with AVX-512.
CALL, COPY, COMPARISON = 80e-6, 0.6e-9, 0.35e-9

#: Our kernels have to be predicted to take at most so much of PyTorch's time. The predictions know nothing of the other
#: layers, which use the caches in between. With this margin no layer of the measured networks was slower.
MARGIN = 0.8

#: The same for a convolution and its gradients together.
TRAINING_MARGIN = 0.9

__all__ = [
    "Keeps",
    "Way",
    "autocast_dtype",
    "convolution_of",
    "gains_in_training",
    "in_memory_format_of_result",
    "settings_of",
    "way_of",
]


_SETTINGS = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode")


class Keeps(enum.Enum):
    """When copies of the parameters are kept (``Way.keeps``)."""

    AT_ONCE = enum.auto()
    IF_REPEATED = enum.auto()
    NEVER = enum.auto()


class Way:
    """A way to compute a convolution, alone or with a batch normalisation folded into it.

    Attributes:
        settings: of the convolution of the padded input.
        pad: pads the input where ``settings`` cannot; else None.
        convolution: PyTorch's function with the settings of the module. It computes the module's plain result.
        keeps: whether calls keep copies of the parameters (``Kept``): at once; or of more weights than the input has
            values, once a call finds the weights of the call before; or never.
        alone: whether our kernels gain without what is kept.
        own: whether our kernels may compute it.
        by_pytorch: whether PyTorch's function computes it, and so chooses the memory format of the result.
    """

    def __init__(
        self,
        settings: ConvSettings,
        pad: Callable[[Tensor], Tensor] | None,
        convolution: Callable[..., Tensor],
        *,
        keeps: Keeps,
        alone: bool,
        own: bool,
        by_pytorch: bool,
    ) -> None:
        self.settings, self.pad, self.convolution = settings, pad, convolution
        self.keeps, self.alone, self.own, self.by_pytorch = keeps, alone, own, by_pytorch
        self._runs: dict[tuple[bool, bool], Convolve] = {}
        if by_pytorch:
            run = functools.partial(pytorch.convolve, settings)
            self._runs = {(constant, active): run for constant in (False, True) for active in (False, True)}

    def run(self, x: Tensor, kept: Kept, slope: float) -> Tensor:
        """The result with the kept weight and bias, and with the LeakyReLU of this slope."""
        return self.compute(x, kept.weight, kept.bias, slope, constant=kept.is_constant)

    def compute(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, *, constant: bool = False
    ) -> Tensor:
        """The result with these parameters, of which ``weight`` may be ``constant`` (``igan_fast.ops.constant``)."""
        given = x if self.pad is None else self.pad(x)
        if given.dtype != weight.dtype:  # autocast
            given = given.to(weight.dtype)
        run = self._runs.get((constant, slope != 1))
        if run is None:
            plan = plan_of(given, weight, bias, self.settings, slope, constant=constant)
            refused = plan.implementation.own_kernels and not self.own
            run = functools.partial(pytorch.convolve, self.settings) if refused else plan.run
            if x.device.type == "cpu":  # on a GPU the choice may change
                self._runs[constant, slope != 1] = run
        y = run(given, weight, bias, slope)
        if not self.by_pytorch:
            y = in_memory_format_of_result(y, x, weight)
        return (
            y.data if version_of(y) > 0 else y
        )  # with a version counter that starts at 0, as that of PyTorch's result


def way_of(
    module: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, known: Expectation, *, folds: bool
) -> Way | None:
    """The way to compute a fused convolution without gradients; None if PyTorch's module has to, or is as fast.

    Args:
        dtype: of the computation.
        known: keeps the way for later calls.
        folds: whether a batch normalisation is folded into the convolution.
    """
    own = vars(module)
    settings = tuple([own[name] for name in _SETTINGS])
    kind = (
        *(x.shape, x.stride(), x.dtype, x.device, weight.shape, weight.stride(), weight.dtype, dtype),
        *(bias is None, folds, is_constant(weight), settings),
    )
    return known.way_of(kind, lambda: _find(module, x, weight, bias, dtype, folds))  # type: ignore[no-any-return]


def _find(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, folds: bool) -> Way | None:
    namespace = backend.namespace("auto", x.device, (x.dtype,))
    if namespace is None or x.dim() != weight.dim() or x.dtype != weight.dtype or not x.numel():
        return None
    pad, padding = _padding_of(module, weight)
    settings = settings_of(module, padding)
    if settings is None or x.shape[1] != module.in_channels:
        return None
    if module.padding == "same" and any(stride != 1 for stride in settings.stride):
        return None  # PyTorch raises an error
    padded = x if pad is None else pad(x)
    if not settings.fits(padded, weight, bias):
        return None  # PyTorch returns an empty result, or raises its error
    # A Deferred needs copies of the parameters to be able to compute the plain result.
    at_once = x.numel() >= weight.numel() or is_constant(weight)
    on_cpu, weight_format = x.device.type == "cpu", memory_format_of(weight)
    kernels = weight_format is not None and dtype == x.dtype and namespace == backend.NATIVE
    kept, alone = (
        kernels and _own_kernels_gain(padded, weight, bias, settings, kept=constant) for constant in (True, False)
    )
    keeps = Keeps.AT_ONCE if at_once else Keeps.IF_REPEATED if kept and on_cpu else Keeps.NEVER
    if folds:
        outputs = _outputs(padded, weight, settings)
        # PyTorch computes a contiguous 1×1 convolution as a matrix product, and copies the bias in a pass of its own.
        passes = 2 if x.is_contiguous() and math.prod(weight.shape[2:]) == 1 else 1
        if keeps == Keeps.NEVER or is_few(outputs if kept or not on_cpu else outputs // (passes * ONE_PASS)):
            return None
        if weight_format is None and not weight.is_contiguous():
            return None
    elif pad is not None or not (kept if at_once else kept or alone):
        return None
    return Way(
        settings,
        pad,
        convolution_of(module),
        keeps=keeps,
        alone=alone,
        own=kept or alone or not on_cpu,
        by_pytorch=weight_format is None,
    )


def _own_kernels_gain(x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings, *, kept: bool) -> bool:
    """Whether our kernels are faster than PyTorch's convolution, if what depends on the weight alone is ``kept``, or is
    not."""
    implementation = plan_of(x, weight, bias, settings, constant=kept).implementation
    if not implementation.own_kernels or x.device.type != "cpu":
        return implementation.own_kernels
    predicted = implementation.seconds(problem_of(x, weight, bias, settings, constant=kept), "convolve")
    if predicted is None:
        return not _is_from_few(x, weight, settings)
    ours, pytorchs = predicted
    ours += CALL
    if kept and not is_constant(weight):
        ours += COMPARISON * weight.numel()
    if x.is_contiguous() and weight.is_contiguous() and not implementation.contiguous:
        ours += COPY * (x.numel() + _outputs(x, weight, settings))
    return ours < MARGIN * pytorchs


def gains_in_training(x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> bool:
    """Whether our kernels gain on the CPU: they compute the convolution, a gradient or more of the three, and take less
    time for them than PyTorch."""
    problem = problem_of(x, weight, bias, settings)
    computed = chosen(problem)
    own = [implementation for implementation in computed.values() if implementation.own_kernels]
    if not own:
        return False
    # What PyTorch computes in both cases takes as long in both.
    ours, pytorchs = CALL, 0.0
    for computation, implementation in computed.items():
        if implementation.own_kernels:
            predicted = implementation.seconds(problem, computation)
            if predicted is None:
                return not _is_from_few(x, weight, settings)
            ours += predicted[0]
            pytorchs += predicted[1]
    if x.is_contiguous() and weight.is_contiguous() and not own[0].contiguous:
        # The input for the output and for the weight's gradient, and its own; the output and its gradient.
        ours += COPY * (3 * x.numel() + 2 * _outputs(x, weight, settings))
    return ours < TRAINING_MARGIN * pytorchs


def _is_from_few(x: Tensor, weight: Tensor, settings: ConvSettings) -> bool:
    """Whether a convolution is from few channels to a small map. Our kernel gains about a tenth of the time there, and
    the time of most such calls is short (measured)."""
    return settings.channels(weight)[0] <= MAX_CHANNELS and is_few(_outputs(x, weight, settings) // ONE_PASS)


def _outputs(x: Tensor, weight: Tensor, settings: ConvSettings) -> int:
    """The number of values of a convolution's output."""
    return x.shape[0] * settings.channels(weight)[1] * math.prod(settings.output_size(x.shape, weight.shape))


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype to which autocast casts x for a convolution; None where it is off, or leaves x as it is."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def settings_of(module: Any, padding: Any) -> ConvSettings | None:
    """The present settings of a convolution, with this padding; None for values that only PyTorch supports."""
    try:
        return ConvSettings.cached(
            len(module.kernel_size),
            transposed=module.transposed,
            stride=module.stride,
            padding=padding,
            output_padding=module.output_padding,
            dilation=module.dilation,
            groups=module.groups,
        )
    except (TypeError, ValueError):
        return None


def convolution_of(module: Any) -> Callable[..., Tensor]:
    """PyTorch's function with the present settings of a convolution."""
    function = getattr(F, f"conv{'_transpose' * module.transposed}{len(module.kernel_size)}d")
    settings = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
    if module.transposed:
        return functools.partial(function, padding=module.padding, output_padding=module.output_padding, **settings)
    if module.padding_mode == "zeros":
        return functools.partial(function, padding=module.padding, **settings)
    pad = functools.partial(F.pad, pad=module._reversed_padding_repeated_twice, mode=module.padding_mode)
    return lambda x, *parameters: function(pad(x), *parameters, **settings)


def _padding_of(module: Any, weight: Tensor) -> tuple[Callable[[Tensor], Tensor] | None, Any]:
    """What pads the input, and the ``padding`` of the convolution after that. Its implementations support neither other
    padding modes than zeros, nor "same" with an odd number of rows or columns to add: these pad the input."""
    if module.padding_mode != "zeros":
        # In F.pad's order: last dimension first, two numbers each.
        return functools.partial(F.pad, pad=module._reversed_padding_repeated_twice, mode=module.padding_mode), 0
    if not isinstance(module.padding, str):
        return None, module.padding
    if module.padding != "same":  # "valid"
        return None, 0
    total = [d * (k - 1) for d, k in zip(module.dilation, weight.shape[2:], strict=True)]
    if not any(n % 2 for n in total):
        return None, [n // 2 for n in total]
    return functools.partial(F.pad, pad=[side for n in reversed(total) for side in (n // 2, n - n // 2)]), 0


def in_memory_format_of_result(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y in the memory format of PyTorch's result. The code that uses the result may rely on it (``view``)."""
    if x.is_contiguous() and weight.is_contiguous():
        y = channels_first(y) if y.dim() == 4 else y.contiguous()
    return no_view(y) if y._is_view() else y

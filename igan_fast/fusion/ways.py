"""How a convolution is computed in evaluation, without gradients. It is found out once for each kind of call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.fusion.expectation import Expectation
from igan_fast.fusion.fused_module import is_few, memory_format_of
from igan_fast.fusion.kept import Kept
from igan_fast.fusion.result import version_of
from igan_fast.ops import backend
from igan_fast.ops.constant import is_constant
from igan_fast.ops.convolution import ConvSettings, plan_of, pytorch
from igan_fast.ops.convolution.plan import Convolve
from igan_fast.ops.layout import channels_first, no_view

__all__ = ["Way", "autocast_dtype", "convolution_of", "in_memory_format_of_result", "settings_of", "way_of"]


_SETTINGS = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode")


class Way:
    """A way to compute a convolution, alone or with a batch normalisation folded into it.

    Attributes:
        settings: of the convolution of the padded input.
        pad: pads the input where ``settings`` cannot; else None.
        convolution: PyTorch's function with the settings of the module. It computes the module's plain result.
        keeps: whether calls keep copies of the parameters (``Kept``). For large weights that costs too much.
        by_pytorch: whether PyTorch's function computes it, and so chooses the memory format of the result.
    """

    def __init__(
        self,
        settings: ConvSettings,
        pad: Callable[[Tensor], Tensor] | None,
        convolution: Callable[..., Tensor],
        *,
        keeps: bool,
        by_pytorch: bool,
    ) -> None:
        self.settings, self.pad, self.convolution = settings, pad, convolution
        self.keeps, self.by_pytorch = keeps, by_pytorch
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
            run = plan_of(given, weight, bias, self.settings, slope, constant=constant).run
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
    keeps = x.numel() >= weight.numel() or is_constant(weight)
    weight_format = memory_format_of(weight)
    if not folds:
        if x.dim() != 4 or pad is not None or weight_format is None or dtype != x.dtype or namespace != backend.NATIVE:
            return None
        if not plan_of(x, weight, bias, settings, constant=keeps).implementation.own_kernels:
            return None
    else:
        size = settings.output_size(padded.shape, weight.shape)
        outputs = x.shape[0] * module.out_channels * math.prod(size)
        if not keeps or is_few(max(x.numel(), outputs)):
            return None
        if weight_format is None and not weight.is_contiguous():
            return None
    return Way(settings, pad, convolution_of(module), keeps=keeps, by_pytorch=weight_format is None)


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

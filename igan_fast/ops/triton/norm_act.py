"""norm_act in Triton: the operators. Their launches are in ``norm_act_launches``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.triton.common import grid, on_device, operator, two_floats
from igan_fast.ops.triton.norm_act_forward import update
from igan_fast.ops.triton.norm_act_launches import COMBINE_CHANNELS, Backward, Launches, statistics


@operator(
    "norm_act(Tensor x, Tensor? weight, Tensor? bias, float eps, float negative_slope, SymInt groups, "
    "Tensor? film=None) -> (Tensor y, Tensor mean, Tensor var)"
)
def norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    negative_slope: float,
    groups: int,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``igan_fast.ops.norm_act``."""
    launches = Launches(x, weight, bias, eps, negative_slope, groups, film)
    with on_device(x):
        mean, var = statistics(x, groups)
        return launches.apply(x, mean, var), mean, var


@operator("norm_act_statistics(Tensor x, SymInt groups) -> (Tensor mean, Tensor var)")
def norm_act_statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """See ``igan_fast.ops.norm_act_processes``."""
    with on_device(x):
        return statistics(x, groups)


@operator(
    "norm_act_inference(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
    "float negative_slope, Tensor? film=None) -> Tensor"
)
def norm_act_inference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    negative_slope: float,
    film: Tensor | None = None,
) -> Tensor:
    """See ``igan_fast.ops.norm_act``."""
    groups = mean.shape[0] if mean.dim() == 2 else 1
    launches = Launches(x, weight, bias, eps, negative_slope, groups, film)
    with on_device(x):
        return launches.apply(x, mean.contiguous(), var.contiguous())


@operator(
    "norm_act_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
    "float negative_slope, bool batch_statistics, Tensor? film=None) -> "
    "(Tensor dx, Tensor dweight, Tensor dbias, Tensor dfilm)"
)
def norm_act_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    negative_slope: float,
    batch_statistics: bool,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``igan_fast.ops.norm_act``. Without film, its gradient is an empty tensor."""
    backward = Backward(grad, x, weight, bias, mean, var, eps, negative_slope, film)
    with on_device(x):
        dfilm = backward.add_segments()
        values = x.numel() // (mean.shape[0] * x.shape[1])
        terms, dweight, dbias = backward.combine(backward.segment_sums, values)
        return backward.gradient(terms, batch_statistics), dweight, dbias, dfilm


@operator(
    "norm_act_sums(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
    "float negative_slope, Tensor? film=None) -> (Tensor sums, Tensor dfilm)"
)
def norm_act_sums(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    negative_slope: float,
    film: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See ``igan_fast.ops.norm_act_processes``. Without film, its gradient is an empty tensor."""
    backward = Backward(grad, x, weight, bias, mean, var, eps, negative_slope, film)
    with on_device(x):
        dfilm = backward.add_segments()
        return torch.stack([sums.sum(1, dtype=torch.float64) for sums in backward.segment_sums]), dfilm


@operator(
    "norm_act_gradient(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
    "Tensor mean_sums, float eps, float negative_slope, Tensor? film=None) -> Tensor"
)
def norm_act_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    mean_sums: Tensor,
    eps: float,
    negative_slope: float,
    film: Tensor | None = None,
) -> Tensor:
    """See ``igan_fast.ops.norm_act_processes``."""
    backward = Backward(grad, x, weight, bias, mean, var, eps, negative_slope, film)
    with on_device(x):
        terms, _, _ = backward.combine(mean_sums[:, :, None].unbind(), 1)
        return backward.gradient(terms, True)


@operator(
    "norm_act_update(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, SymInt? count, "
    "float momentum) -> ()"
)
def norm_act_update(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, count: int | None, momentum: float
) -> None:
    """See ``igan_fast.ops.norm_act``."""
    groups, channels = mean.shape
    unbiased = 1.0 if count is None else count / (count - 1)
    with on_device(mean):
        for running, statistics, factor in ((running_mean, mean, 1.0), (running_var, var, unbiased)):
            target = running if running.is_contiguous() else running.contiguous()
            update[grid(triton.cdiv(channels, COMBINE_CHANNELS))](
                target,
                statistics,
                channels,
                groups,
                two_floats(momentum),
                two_floats(factor),
                ACC=tl.float64,
                CHANNELS=COMBINE_CHANNELS,
            )
            if target is not running:
                running.copy_(target)

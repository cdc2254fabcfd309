"""Normalisation and LeakyReLU in one operator.

The forward saves the input and the statistics only. The backward computes the normalised values again from these, and
from their signs the LeakyReLU's derivative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from igan_fast.ops import backend, norm_act_gradient
from igan_fast.ops.layout import dense
from igan_fast.ops.transforms import overridable
from igan_fast.reference import ops as reference

__all__ = ["norm_act"]

#: Limits of a GPU's kernels: the values of a group in one channel, which have 32-bit numbers (a loop may go one block
#: past the last); the programs of a launch, of at least 64 values each; and, for the native kernels, the channels and
#: the groups, each of which is a dimension of the grid.
MOST_VALUES, MOST_PARTS, MOST_NATIVE = 2**30, 2**31 - 2**12, 2**16 - 1


@overridable
def norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    negative_slope: float = 0.2,
    groups: int = 1,
    average_groups: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Normalise each channel, then LeakyReLU: ``F.leaky_relu(F.batch_norm(x, ...), negative_slope)``.

    ``groups`` splits the batch into that many contiguous parts, each normalised by statistics of its own: 1 is batch
    normalisation, N is instance normalisation, 2 normalises real and fake images apart in one call. The running
    statistics become what ``groups`` calls, one part after the other, would make them.

    Args:
        x: (N, C, *spatial), float16, bfloat16, float32 or float64, in any memory layout.
        weight, bias: (C,), or None for 1 and 0; of the dtype of ``x``, or float32 where ``x`` is a half type.
        running_mean, running_var: (C,). With ``training`` they are updated in place; without it they replace the
            batch's statistics. None: the batch's statistics are used with and without ``training``.
        momentum: weight of the new batch in the running statistics, which take its unbiased variance, as in PyTorch.
        eps: added to the variance.
        negative_slope: of the LeakyReLU; 0 is ReLU, 1 is no activation.
        average_groups: update the running statistics once, with the mean of the groups' statistics, as
            ``nn.InstanceNorm2d`` does.
        impl: "auto", "native", "triton" or "reference".

    Returns:
        A tensor of the shape, dtype and memory format of ``x``. Statistics are computed in float32 or float64, without
        cancellation for data far from zero, in a fixed order: the same input gives the same bits.

    Raises:
        ValueError: a shape, dtype or device that does not fit ``x``; ``groups`` does not divide N; there is one value
            per channel, and the batch's statistics are needed; an unknown ``impl``.
        RuntimeError: ``impl`` names an implementation that cannot run these tensors; the message says why.
    """
    settings: dict[str, Any] = {
        "training": training,
        "momentum": momentum,
        "eps": eps,
        "negative_slope": negative_slope,
        "groups": groups,
        "average_groups": average_groups,
    }
    namespace = backend.namespace(impl, x.device, (x.dtype,), (x, weight, bias, running_mean, running_var))
    if namespace is None or x.dim() < 2 or x.numel() == 0:
        return reference.norm_act(x, weight, bias, running_mean, running_var, **settings)
    check_arguments(x, x.shape[1], weight, bias, running_mean, running_var, groups)
    if impl == "auto" and not launchable(namespace, x.device, x.shape, groups):
        return reference.norm_act(x, weight, bias, running_mean, running_var, **settings)
    operators = getattr(torch.ops, namespace)
    x = dense(x)
    if not training and running_mean is not None:
        y: Tensor = operators.norm_act_inference(x, weight, bias, running_mean, running_var, eps, negative_slope)
        return y
    count = check_count(x, groups)
    y, mean, var = operators.norm_act(x, weight, bias, eps, negative_slope, groups)
    if training and running_mean is not None:
        mean, var = (of_groups(t.detach(), average_groups) for t in (mean, var))
        operators.norm_act_update(running_mean, running_var, mean, var, count, momentum)
    return y


def launchable(namespace: str, device: torch.device, shape: Sequence[int], groups: int) -> bool:
    """Whether the kernels of a device can number the values of a tensor: see the limits above.

    A CPU's kernels can number any: they use 64 bits.

    Args:
        namespace: the dispatcher's namespace that the kernels are in.
        shape: (N, C, *spatial).
    """
    if device.type == "cpu":
        return True
    if namespace == backend.NATIVE and max(groups, shape[1]) > MOST_NATIVE:
        return False
    values = shape[0] // groups * math.prod(shape[2:])
    return values <= MOST_VALUES and groups * shape[1] * (values // 64 + 1) <= MOST_PARTS


def check_arguments(
    x: Tensor,
    channels: int,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    groups: int,
) -> None:
    """Raise a ValueError that names the argument which does not fit x (N, …) or the number of normalised channels."""
    if groups < 1 or x.shape[0] % groups:
        raise ValueError(f"groups is {groups}; expected a positive divisor of the batch size {x.shape[0]}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var: one is None; expected both or neither")
    half = x.dtype in (torch.float16, torch.bfloat16)
    for name, tensor in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if tensor is None:
            continue
        if tensor.dim() != 1 or tensor.shape[0] != channels:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected ({channels},), one per channel")
        if tensor.dtype != x.dtype and not (half and tensor.dtype == torch.float32):
            raise ValueError(f"{name} is {tensor.dtype} for an x of {x.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}; expected {x.device}, as x")


def check_count(x: Tensor, groups: int) -> int:
    """The number of values in each channel of a group. One value raises the ValueError that PyTorch raises."""
    count = x.numel() // (x.shape[1] * groups)
    if count == 1:
        size = torch.Size((x.shape[0] // groups, *x.shape[1:]))
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    return count


def of_groups(statistics: Tensor, average: bool) -> Tensor:
    """Means or variances (groups, C) as ``norm_act_update`` takes them: one row where they are averaged."""
    return statistics.mean(0, keepdim=True) if average else statistics


backend.on_load(norm_act_gradient.register)

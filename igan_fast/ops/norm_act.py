"""Normalisation and LeakyReLU in one operator.

Forward it saves the input and the statistics, nothing else: the normalised values are found again, and with them the
side of the LeakyReLU that each was on.
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

#: What the kernels of a GPU number in 32 bits, with room for a last piece that is not full; in 16 bits the native ones.
MOST_NUMBERED, MOST_PIECES, MOST_NATIVE = 2**30, 2**31 - 2**12, 2**16 - 1


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
    normalisation, N is instance normalisation, 2 is "real and fake in one call, normalised apart". The running
    statistics end as after ``groups`` successive calls, or move once where ``average_groups``.

    Args:
        x: (N, C, *spatial), float16, bfloat16, float32 or float64, in any memory layout.
        weight, bias: (C,), or None for 1 and 0; of the dtype of ``x``, or float32 where that is a half type.
        running_mean, running_var: (C,), updated in place when ``training``; used instead of the batch's own statistics
            when not. None: the batch's own statistics always.
        momentum: weight of the new batch in the running statistics (its unbiased variance, as torch has it).
        negative_slope: 0 is ReLU, 1 is no activation.
        average_groups: the running statistics move once, by the mean of what each group asks for, as
            ``nn.InstanceNorm2d`` has it.
        impl: "auto", "native", "triton" or "reference".

    Returns:
        A tensor of the shape, dtype and memory format of ``x``. Statistics are taken in float32 or wider, exactly for
        data far from zero, in a fixed order: the same input gives the same bits.

    Raises:
        ValueError: a shape, dtype or device that does not fit ``x``; ``groups`` that does not divide N; one value per
            channel while the batch's own statistics are needed; an unknown ``impl``.
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
    """Whether a GPU's kernels can number what they work on: the values of a channel, and the channels of all groups in
    pieces of 64 values; the native ones no more than 65,535 channels or groups. A CPU's number all in 64 bits.

    Args:
        namespace: the dispatcher's, of the kernels.
        shape: (N, C, *spatial).
    """
    if device.type == "cpu":
        return True
    if namespace == backend.NATIVE and max(groups, shape[1]) > MOST_NATIVE:
        return False
    values = shape[0] // groups * math.prod(shape[2:])
    return values <= MOST_NUMBERED and groups * shape[1] * (values // 64 + 1) <= MOST_PIECES


def check_arguments(
    x: Tensor,
    channels: int,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    groups: int,
) -> None:
    """Raise a ValueError that names the argument which does not fit x (N, …) or the channels to be normalised."""
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
    """Values per channel and group; as torch, a ValueError where there is only one."""
    count = x.numel() // (x.shape[1] * groups)
    if count == 1:
        size = torch.Size((x.shape[0] // groups, *x.shape[1:]))
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    return count


def of_groups(statistics: Tensor, average: bool) -> Tensor:
    """The groups' means or variances (groups, C) as the running statistics are to see them."""
    return statistics.mean(0, keepdim=True) if average else statistics


backend.on_load(norm_act_gradient.register)

"""The operators of the package in plain PyTorch. The fused operators of ``igan_fast.ops`` must equal them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.reference import processes

if TYPE_CHECKING:
    from igan_fast.reference.processes import ProcessGroup

__all__ = [
    "Features",
    "accumulation_dtype",
    "activate",
    "conv_norm_act",
    "convolve",
    "feature_l1",
    "modulate",
    "norm_act",
    "pairs_of",
    "per_dimension",
    "weighted_pairs",
    "widen",
]

#: Feature maps as networks return them: a tensor, or sequences of them nested to any depth.
Features: TypeAlias = Tensor | Sequence["Features"]

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED_CONVOLUTIONS = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


def activate(x: Tensor, negative_slope: float) -> Tensor:
    """LeakyReLU. A slope of 0 is computed as ReLU, because 0 · ∞ is NaN (for x = −∞, and for infinite gradients)."""
    return F.relu(x) if negative_slope == 0 else F.leaky_relu(x, negative_slope)


def feature_l1(fake: Features, real: Features, weights: Sequence[float] | None = None) -> Tensor:
    """Multi-layer L1 distance Σᵢ wᵢ · mean|fakeᵢ − realᵢ| (Sec. 3.3.2, the perceptual loss).

    Args:
        fake, real: tensors, or sequences of them nested to any depth, of one structure and pairwise equal shapes;
            float16, bfloat16, float32 or float64. Either side may require a gradient, which is 0 where fakeᵢ = realᵢ.
        weights: one number per pair, in the order of the flattened sequences; 1 each where omitted.

    Returns:
        A scalar, float64 where an input is float64, else float32. A pair of empty tensors contributes NaN, the mean of
        an empty tensor in PyTorch.

    Raises:
        ValueError: there is no pair; the sequences do not match in structure, shapes or number of weights.
        TypeError: something that is neither a tensor nor a sequence.
    """
    pairs, weights = weighted_pairs(fake, real, weights)
    distances = [weight * (widen(f) - widen(r)).abs().mean() for weight, (f, r) in zip(weights, pairs, strict=True)]
    return torch.stack([distance.to(accumulation_dtype(*distances)) for distance in distances]).sum()


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
    film: Tensor | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Normalise each channel, apply the LeakyReLU, then scale and shift each channel of each image (``film``).

    The batch is split into ``groups`` contiguous parts of equal size. Each part is normalised by its mean and variance:
    1 is batch normalisation, N is instance normalisation, 2 normalises real and fake images separately in one call. The
    running statistics are updated once per part, in order, as by separate calls.

    Args:
        x: (N, C, *spatial).
        weight, bias: (C,), or None for 1 and 0.
        running_mean, running_var: (C,). With ``training`` they are updated in place; without it they replace the
            batch's statistics. None: the batch's statistics are used with and without ``training``.
        momentum: weight of the new batch in the running statistics, which take its unbiased variance, as in PyTorch.
        eps: added to the variance.
        negative_slope: of the LeakyReLU; 0 is ReLU, 1 is no activation.
        average_groups: update the running statistics once, with the mean of the groups' statistics, as
            ``nn.InstanceNorm2d`` does.
        film: (N, 2·C), γ and β of each image: the result is multiplied by 1 + γ and β is added (feature-wise linear
            modulation; Perez et al., AAAI 2018). None for 0 and 0.
        process_group: a group of ``torch.distributed``, whose processes normalise their batches together: where the
            batch's statistics are used, those of each part are the statistics of the same part of all processes. Every
            process of the group makes the same calls, forward and backward. Their batches may differ in size, and may
            be empty. The gradients are those of the sum of all processes' losses; the gradients of ``weight``,
            ``bias`` and ``film`` are each process's share of them, as ``DistributedDataParallel`` expects. None: this
            process alone.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: ``groups`` does not divide N; or the statistics of the batch are needed, but a part has only one
            value per channel (in all processes of ``process_group``); or ``film`` has another shape.
        TypeError: ``process_group`` is something else.
    """
    if groups < 1 or (groups > 1 and x.shape[0] % groups):
        raise ValueError(f"groups is {groups}; expected a positive divisor of the batch size {x.shape[0]}")
    use_batch_statistics = training or running_mean is None
    shared = processes.is_shared(process_group) and use_batch_statistics
    if weight is None and bias is not None:
        weight = torch.ones_like(bias)  # without a weight PyTorch cannot compute the gradient of a bias on a GPU
    parts = x.tensor_split(groups) if groups > 1 else (x,)
    running = [(running_mean, running_var)] * groups
    averaged = average_groups and training and running_mean is not None and running_var is not None
    if averaged:
        running = [(running_mean.clone(), running_var.clone()) for _ in parts]  # type: ignore[union-attr]

    def normalise(part: Tensor, mean: Tensor | None, var: Tensor | None) -> Tensor:
        if shared and process_group is not None:
            updated = (mean, var) if training else (None, None)
            y = processes.batch_norm(widen(part), *updated, weight, bias, momentum, eps, process_group)
            return y.to(part.dtype)
        return F.batch_norm(part, mean, var, weight, bias, use_batch_statistics, momentum, eps)

    normalised = [normalise(part, *statistics) for part, statistics in zip(parts, running, strict=True)]
    if averaged:
        for kept, each in zip((running_mean, running_var), zip(*running, strict=True), strict=True):
            kept.copy_(torch.stack(each).mean(0))  # type: ignore[union-attr]
    y = activate(torch.cat(normalised) if groups > 1 else normalised[0], negative_slope)
    return y if film is None else modulate(y, film)


def modulate(y: Tensor, film: Tensor) -> Tensor:
    """(1 + γ) · y + β for y (N, C, *spatial) and ``film`` (N, 2·C), which holds γ and β of each image.

    Raises:
        ValueError: ``film`` has another shape.
    """
    if film.shape != (y.shape[0], 2 * y.shape[1]):
        raise ValueError(f"film has shape {tuple(film.shape)}; expected {(y.shape[0], 2 * y.shape[1])}, γ and β")
    scale, shift = film.to(y.dtype)[(..., *[None] * (y.dim() - 2))].chunk(2, 1)
    return y * (1 + scale) + shift


def conv_norm_act(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    transposed: bool = False,
    stride: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 2,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    conv_groups: int = 1,
    conv_bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    negative_slope: float = 0.2,
    groups: int = 1,
    average_groups: bool = False,
    film: Tensor | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """A (transposed) convolution, then ``norm_act``, whose arguments are ``groups``, ``average_groups``, ``film`` and
    ``process_group``.

    Args:
        x: (N, C_in, *spatial) with one to three spatial dimensions.
        conv_weight: (C_out, C_in / conv_groups, *kernel), or (C_in, C_out / conv_groups, *kernel) where ``transposed``.
        stride, padding, dilation: of the convolution, one number or one for each spatial dimension.
        output_padding: of the transposed convolution, one number or one for each spatial dimension.
        conv_groups: the ``groups`` of the convolution.
        conv_bias: (C_out,), or None. Normalisation by the batch's statistics cancels it: it changes only the running
            mean.

    Returns:
        (N, C_out, *spatial_out).

    Raises:
        ValueError: an ``output_padding`` without ``transposed``, or as ``norm_act``.
        TypeError: as ``norm_act``.
    """
    return norm_act(
        convolve(
            x,
            conv_weight,
            transposed=transposed,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
            conv_groups=conv_groups,
            conv_bias=conv_bias,
        ),
        weight,
        bias,
        running_mean,
        running_var,
        training=training,
        momentum=momentum,
        eps=eps,
        negative_slope=negative_slope,
        groups=groups,
        average_groups=average_groups,
        film=film,
        process_group=process_group,
    )


def convolve(
    x: Tensor,
    conv_weight: Tensor,
    *,
    transposed: bool,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
    conv_groups: int,
    conv_bias: Tensor | None,
) -> Tensor:
    """The convolution of ``conv_norm_act``.

    Raises:
        ValueError: an ``output_padding`` without ``transposed``.
    """
    if transposed:
        return _TRANSPOSED_CONVOLUTIONS[x.dim()](
            x, conv_weight, conv_bias, stride, padding, output_padding, conv_groups, dilation
        )
    if output_padding != 0 and any(per_dimension("output_padding", output_padding, x.dim() - 2)):
        raise ValueError(f"output_padding is {output_padding}; expected 0 unless transposed")
    return _CONVOLUTIONS[x.dim()](x, conv_weight, conv_bias, stride, padding, dilation, conv_groups)


def weighted_pairs(
    fake: Features, real: Features, weights: Sequence[float] | None
) -> tuple[list[tuple[Tensor, Tensor]], Sequence[float]]:
    """The pairs of two structures of feature maps, and the weight of each: 1 where ``weights`` is None.

    Raises:
        ValueError, TypeError: as ``feature_l1``.
    """
    pairs = list(pairs_of(fake, real))
    if not pairs:
        raise ValueError("fake and real hold no tensor; expected at least one pair")
    if weights is None:
        weights = [1.0] * len(pairs)
    if len(weights) != len(pairs):
        raise ValueError(f"weights has {len(weights)} numbers for {len(pairs)} pairs of feature maps")
    return pairs, weights


def pairs_of(fake: Features, real: Features, where: str = "fake") -> Iterator[tuple[Tensor, Tensor]]:
    """Flatten two sequences of one structure into pairs of tensors.

    Args:
        where: the name of ``fake`` in messages, for example "fake[0][1]".

    Raises:
        ValueError: the two do not match in structure or shapes.
        TypeError: something that is neither a tensor nor a sequence.
    """
    if isinstance(fake, Tensor) and isinstance(real, Tensor):
        if fake.shape != real.shape:
            raise ValueError(f"{where} has shape {tuple(fake.shape)}, its real counterpart {tuple(real.shape)}")
        yield fake, real
    elif isinstance(fake, Tensor) or isinstance(real, Tensor):
        raise ValueError(f"{where} is a tensor on one side and a sequence on the other")
    else:
        for name, side in ((where, fake), (f"{where}'s real counterpart", real)):
            if isinstance(side, str) or not isinstance(side, Sequence):
                raise TypeError(f"{name} is a {type(side).__name__}; expected a tensor or a sequence of tensors")
        if len(fake) != len(real):
            raise ValueError(f"{where} has {len(fake)} entries, its real counterpart {len(real)}")
        for index, (f, r) in enumerate(zip(fake, real, strict=True)):
            yield from pairs_of(f, r, f"{where}[{index}]")


def per_dimension(name: str, value: int | Sequence[int], dimensions: int) -> list[int]:
    """One number for each spatial dimension.

    Raises:
        ValueError: ``value`` is neither a number nor that many of them.
    """
    if isinstance(value, int):
        return [value] * dimensions
    if len(value) != dimensions:
        raise ValueError(f"{name} is {value}; expected a number, or {dimensions} of them")
    return [int(number) for number in value]


def widen(x: Tensor) -> Tensor:
    """x in float32 if it is float16 or bfloat16, so that differences and means are not rounded to 16 bits."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype in which sums over the tensors are computed: float64 if one of them is float64, else float32."""
    for tensor in tensors:
        if tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32

"""norm_act by the statistics of all processes of a group (``torch.distributed``).

Forward: each process computes the mean and the variance of its parts of the batch; those of all processes are gathered
and combined by Chan's formula; x is normalised by them. Backward: each process computes its sums; those of all
processes are gathered and added; the gradient of x follows from them. Each direction gathers once. The tensors that are
combined are small, (groups, C), and are computed in float64, in the same way on every process, so that all get the same
bits.

The dispatcher's operators are the two halves of ``norm_act`` and of ``norm_act_backward``:

- ``norm_act_statistics``, then ``norm_act_inference``;
- ``norm_act_sums``: Σ dz, Σ dz · (x − mean) and Σ (x − mean) of each group and channel, where dz is the gradient of
  the LeakyReLU's input; then ``norm_act_gradient``, which takes these sums divided by the number of values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops.layout import like
from igan_fast.ops.norm_act_gradient import Normalization, plain_gradient
from igan_fast.ops.transforms import batched
from igan_fast.reference.ops import accumulation_dtype
from igan_fast.reference.processes import check_count, gather

if TYPE_CHECKING:
    from igan_fast.reference.processes import ProcessGroup

__all__ = ["Moments", "gradient", "normalise", "register", "statistics"]


class Moments(NamedTuple):
    """The statistics of the groups over all processes.

    mean, var: (groups, C), float32, or float64 if x is.
    unbiased: the unbiased variance, as ``var``.
    values: (1,), float64: the number of values in each channel of a group.
    """

    mean: Tensor
    var: Tensor
    unbiased: Tensor
    values: Tensor


def statistics(operators: Any, x: Tensor, groups: int, process_group: ProcessGroup) -> Moments:
    """The statistics of x, dense or empty, and of the other processes' x.

    Args:
        operators: the dispatcher's operators of one namespace.

    Raises:
        ValueError: all processes together have fewer than two values per channel (not checked on a GPU).
    """
    channels, dtype = x.shape[1], accumulation_dtype(x)
    own = x.numel() // max(channels * groups, 1)
    if own:
        mean, var = operators.norm_act_statistics(x, groups)
    else:
        mean = var = x.new_zeros((groups, channels), dtype=dtype)
    moments = torch.cat([mean, var], 1).double()
    gathered = gather(F.pad(moments, (0, 1), value=own), process_group)
    means, variances, counts = torch.split(gathered, [channels, channels, 1], 2)
    count = counts[:, :1].sum(0)
    check_count(count, process_group)
    combined = (means * counts).sum(0) / count
    m2 = ((variances + (means - combined).square()) * counts).sum(0)
    found = (combined, m2 / count, m2 / (count - 1))
    combined, var, unbiased = (t.to(dtype) for t in found)
    return Moments(combined, var, unbiased, count.view(1))


def normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    film: Tensor | None,
    operators: Any,
    moments: Moments,
    eps: float,
    negative_slope: float,
    process_group: ProcessGroup,
) -> Tensor:
    """x, dense or empty, normalised by ``moments`` and activated; differentiable. ``moments`` are those of x."""
    y: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, film, operators, moments, eps, negative_slope, process_group
    )
    return y


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        film: Tensor | None,
        operators: Any,
        moments: Moments,
        eps: float,
        negative_slope: float,
        process_group: ProcessGroup,
    ) -> Tensor:
        mean, var, _, values = moments
        ctx.save_for_backward(x, weight, bias, film, mean, var, values)
        ctx.arguments = operators, eps, negative_slope, process_group
        if x.numel() == 0:
            return torch.empty_like(x)
        y: Tensor = operators.norm_act_inference(x, weight, bias, mean, var, eps, negative_slope, film)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, film, mean, var, values = ctx.saved_tensors
        operators, eps, negative_slope, process_group = ctx.arguments
        normalization = Normalization(x, weight, bias, mean, var, eps, negative_slope, True, film)
        found = gradient(operators, grad, normalization, values, process_group)
        inputs = zip(found, (x, weight, bias, film), ctx.needs_input_grad, strict=False)
        return (*(g.to(t.dtype) if needs else None for g, t, needs in inputs), *[None] * 5)


def gradient(
    operators: Any, grad: Tensor, n: Normalization, values: Tensor, process_group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``norm_act_gradient.gradient`` of a normalisation by the statistics of all processes, which are n.mean and n.var.

    Where autograd records (``create_graph=True``), PyTorch's own functions compute it, so that it is differentiable.

    Args:
        values: as of ``Moments``.

    Raises:
        RuntimeError: ``grad`` holds a batch of gradients (``torch.func``, ``is_grads_batched``).
    """
    if batched(grad):
        raise RuntimeError(
            "norm_act with a process_group has no batched gradients (torch.func, is_grads_batched, "
            "jacobian(vectorize=True)): processes cannot exchange them"
        )
    if torch.is_grad_enabled():
        return plain_gradient(grad, n, process_group)
    x, film = n.x, n.film
    given = (x, n.weight, n.bias, n.mean, n.var)
    settings = (n.eps, n.negative_slope, film)
    if x.numel():
        grad = like(grad, x)
        sums, dfilm = operators.norm_act_sums(grad, *given, *settings)
    else:
        sums = x.new_zeros((3, *n.mean.shape), dtype=torch.float64)
        dfilm = x.new_zeros((0,) if film is None else film.shape, dtype=n.mean.dtype)
    mean_sums = gather(sums, process_group).sum(0) / values
    dx = operators.norm_act_gradient(grad, *given, mean_sums, *settings) if x.numel() else torch.empty_like(x)
    dbias, products, _ = sums
    dweight = products * (n.var.double() + n.eps).rsqrt()
    return dx, dweight.sum(0).to(n.mean.dtype), dbias.sum(0).to(n.mean.dtype), dfilm


def register(namespace: str) -> None:
    """Register the fake implementations of the halves of norm_act in one of the dispatcher's namespaces."""
    library = f"{namespace}::norm_act"
    torch.library.register_fake(f"{library}_statistics")(_fake_statistics)
    torch.library.register_fake(f"{library}_sums")(_fake_sums)
    torch.library.register_fake(f"{library}_gradient")(lambda grad, x, *_: torch.empty_like(x))


def _fake_statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    mean = x.new_empty((groups, x.shape[1]), dtype=accumulation_dtype(x))
    return mean, torch.empty_like(mean)


def _fake_sums(
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
    dfilm = x.new_empty((0,) if film is None else film.shape, dtype=accumulation_dtype(x))
    return x.new_empty((3, *mean.shape), dtype=torch.float64), dfilm

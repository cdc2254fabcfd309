"""Convolution, normalisation and LeakyReLU: one autograd node in training, one convolution in eval mode without
gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.constant import cast, derived
from igan_fast.ops.conv_act import ConvAct
from igan_fast.ops.convolution import ConvSettings, InputSpec, Plan, convolve, gradients, plan_of
from igan_fast.ops.layout import dense
from igan_fast.ops.norm_act import check_arguments, check_count, launchable, norm_act, of_groups
from igan_fast.ops.norm_act_gradient import call, gradient
from igan_fast.ops.transforms import overridable
from igan_fast.reference import ops as reference
from igan_fast.reference.processes import is_shared

if TYPE_CHECKING:
    from igan_fast.reference.processes import ProcessGroup

__all__ = ["conv_norm_act", "fold"]


@overridable
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
    impl: str = "auto",
) -> Tensor:
    """A (transposed) convolution, then ``norm_act``, whose arguments are ``groups``, ``average_groups``, ``film`` and
    ``process_group``.

    In eval mode with running statistics, if nothing but ``film`` needs a gradient, the normalisation is folded into the
    weight and the bias of the convolution. On the CPU, most convolutions also apply the LeakyReLU.

    Args:
        x: (N, C_in, *spatial) with one to three spatial dimensions.
        conv_weight: (C_out, C_in / conv_groups, *kernel), or (C_in, C_out / conv_groups, *kernel) where ``transposed``.
        stride, padding, dilation: of the convolution, one number or one for each spatial dimension.
        output_padding: of the transposed convolution, one number or one for each spatial dimension.
        conv_groups: the ``groups`` of the convolution.
        conv_bias: (C_out,), or None. Normalisation by the batch's statistics cancels it: it changes only the running
            mean, and its gradient is 0. PyTorch computes this gradient with rounding errors around 0. The fused
            operator returns exactly 0, except under ``torch.compile``, with a ``process_group``, and for some
            convolutions from or to at most 4 channels (composite implementations of ``igan_fast.ops.convolution``).

    Returns:
        (N, C_out, *spatial_out).

    Raises:
        ValueError: an ``output_padding`` without ``transposed``; ``x``, ``conv_weight`` or ``conv_bias`` of the wrong
            shape; a setting with the wrong number of values; or as ``norm_act``.
        TypeError, RuntimeError: as ``norm_act``.
    """
    tensors = (x, conv_weight, weight, bias, running_mean, running_var, conv_bias, film)
    namespace = backend.namespace(impl, x.device, (x.dtype,), tensors)
    normalisation: dict[str, Any] = {
        "training": training,
        "momentum": momentum,
        "eps": eps,
        "negative_slope": negative_slope,
        "groups": groups,
        "average_groups": average_groups,
        "film": film,
        "process_group": process_group,
    }
    shared = is_shared(process_group) and (training or running_mean is None)
    convolution: dict[str, Any] = {
        "transposed": transposed,
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "dilation": dilation,
        "conv_groups": conv_groups,
        "conv_bias": conv_bias,
    }

    def plain() -> Tensor:
        if shared and namespace is not None:  # the other processes may use the operators, and wait for this one there
            z = reference.convolve(x, conv_weight, **convolution)
            return norm_act(z, weight, bias, running_mean, running_var, impl=impl, **normalisation)
        return reference.conv_norm_act(
            x, conv_weight, weight, bias, running_mean, running_var, **convolution, **normalisation
        )

    if namespace is None or x.numel() == 0:
        return plain()
    if x.dim() not in (3, 4, 5) or conv_weight.dim() != x.dim():
        raise ValueError(
            f"x has shape {tuple(x.shape)}, conv_weight {tuple(conv_weight.shape)}; expected 3 to 5 dimensions, both"
        )
    settings = ConvSettings.cached(
        x.dim() - 2,
        transposed=transposed,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=conv_groups,
        native=namespace == backend.NATIVE,
    )
    c_in, channels = settings.channels(conv_weight)
    if x.shape[1] != c_in:
        raise ValueError(f"x has {x.shape[1]} channels; expected {c_in}, as conv_weight {tuple(conv_weight.shape)}")
    if conv_bias is not None and conv_bias.shape != (channels,):
        raise ValueError(f"conv_bias has shape {tuple(conv_bias.shape)}; expected ({channels},), one per channel")
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, conv_weight = x.to(dtype), cast(conv_weight, dtype)
        conv_bias = None if conv_bias is None else conv_bias.to(dtype)
    if not settings.fits(x, conv_weight, conv_bias):
        return plain()  # PyTorch returns an empty result, or raises its error
    check_arguments(x, channels, weight, bias, running_mean, running_var, groups, film)
    shape = (x.shape[0], channels, *settings.output_size(x.shape, conv_weight.shape))
    if impl == "auto" and not launchable(namespace, x.device, shape, groups, film=film is not None):
        return plain()

    evaluating = not training and running_mean is not None
    needs_gradient = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, conv_weight, weight, bias, conv_bias)
    )
    if not training and not needs_gradient and running_mean is not None and running_var is not None:
        folded = _folded(
            x, conv_weight, weight, bias, running_mean, running_var, conv_bias, settings, eps, negative_slope
        )
        return folded if film is None else reference.modulate(folded, film)
    # One autograd node computes both, except in eval mode and with other processes, where the convolution has a node of
    # its own; under a compiler, which fuses them; and for a composite convolution, which autograd differentiates.
    compiling, apart = torch.compiler.is_compiling(), evaluating or shared
    plan = None if compiling else plan_of(x, conv_weight, None, settings)
    if apart or plan is None or plan.implementation.composite:
        z: Tensor
        if plan is None or plan.implementation.composite:
            z = convolve(x, conv_weight, conv_bias, settings, differentiable=True)
        else:
            z = ConvAct.apply(x, conv_weight, conv_bias, settings, 1.0, False)  # type: ignore[no-untyped-call]
        return norm_act(z, weight, bias, running_mean, running_var, impl=impl, **normalisation)
    y: Tensor
    y, mean, var, _ = _ConvNormAct.apply(  # type: ignore[no-untyped-call]
        x, conv_weight, weight, bias, conv_bias, film, namespace, plan, eps, negative_slope, groups
    )
    if training and running_mean is not None:
        count = y.numel() // (channels * groups)
        if conv_bias is not None:
            mean = mean + conv_bias.detach().to(mean.dtype)
        mean, var = (of_groups(t, average_groups) for t in (mean, var))
        getattr(torch.ops, namespace).norm_act_update(running_mean, running_var, mean, var, count, momentum)
    return y


class _ConvNormAct(torch.autograd.Function):
    """Convolution, normalisation by the batch's statistics, LeakyReLU, and scale and shift by ``film``.

    It saves the parameters, the convolution's output z and the statistics; the input x only if the weight needs a
    gradient. z is returned as an output only for second derivatives. Autograd treats a saved output as a function of x
    and conv_weight, and passes its gradient to the backward pass as ``grad_z``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        conv_weight: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        conv_bias: Tensor | None,
        film: Tensor | None,
        namespace: str,
        plan: Plan,
        eps: float,
        negative_slope: float,
        groups: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z = dense(plan.run(x, conv_weight, None, 1.0))
        check_count(z, groups)
        y, mean, var = call(namespace, "norm_act", z, weight, bias, eps, negative_slope, groups, film)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, conv_weight, weight, bias, z, mean, var, film)
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.arguments = namespace, plan.settings, eps, negative_slope
        ctx.input_spec = InputSpec.of(x)
        ctx.conv_bias = None if conv_bias is None else (conv_bias.shape, conv_bias.dtype)
        return y, mean, var, z

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, _mean: None, _var: None, grad_z: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, conv_weight, weight, bias, z, mean, var, film = ctx.saved_tensors
        namespace, settings, eps, negative_slope = ctx.arguments
        dz, dweight, dbias, dfilm = grad_z, None, None, None
        if grad is not None:
            operators = getattr(torch.ops, namespace)
            dz, dweight, dbias, dfilm = gradient(
                operators, grad, z, weight, bias, mean, var, eps, negative_slope, True, film
            )
            dz = dz if grad_z is None else dz + grad_z
        if dz is None:
            return (None,) * 11
        needs_x, needs_conv_weight, needs_weight, needs_bias, needs_conv_bias, needs_film = ctx.needs_input_grad[:6]
        dx, dconv_weight = gradients(
            dz, x, conv_weight, settings, ctx.input_spec, needs_input=needs_x, needs_weight=needs_conv_weight
        )
        return (
            dx,
            dconv_weight,
            dweight.to(weight.dtype) if needs_weight and dweight is not None else None,
            dbias.to(bias.dtype) if needs_bias and dbias is not None else None,
            dz.new_zeros(ctx.conv_bias[0], dtype=ctx.conv_bias[1]) if needs_conv_bias else None,
            dfilm.to(film.dtype) if needs_film and dfilm is not None else None,
            *[None] * 5,
        )


def _folded(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    conv_bias: Tensor | None,
    settings: ConvSettings,
    eps: float,
    negative_slope: float,
) -> Tensor:
    """The convolution, normalisation and LeakyReLU by one convolution. For a frozen weight its weight and bias are
    computed once."""
    sources = (conv_weight, conv_bias, weight, bias, running_mean, running_var)
    name = ("folded", settings.transposed, settings.groups, eps, x.dtype)
    folded, shift = derived(name, sources, lambda: fold(*sources, settings, eps, x.dtype))
    return convolve(x, folded, shift, settings, negative_slope)


def fold(
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    settings: ConvSettings,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The weight and the bias, in ``dtype``, of the convolution that also normalises by the running statistics:
    conv_weight · scale and bias − (running_mean − conv_bias) · scale, with scale = weight / √(running_var + eps)."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale = (running_var.to(wide) + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(wide)
    shift = -running_mean.to(wide) * scale
    if conv_bias is not None:
        shift = shift + conv_bias.to(wide) * scale
    if bias is not None:
        shift = shift + bias.to(wide)
    if settings.transposed:  # (C_in, C_out / groups, …): each group of input channels has other output channels
        by_group = conv_weight.to(wide).reshape(settings.groups, -1, *conv_weight.shape[1:])
        scaled = by_group * scale.view(settings.groups, 1, -1, *[1] * (conv_weight.dim() - 2))
        folded = scaled.flatten(0, 1).to(dtype)
    else:
        folded = (conv_weight.to(wide) * scale.view(-1, *[1] * (conv_weight.dim() - 1))).to(dtype)
    return folded, shift.to(dtype)

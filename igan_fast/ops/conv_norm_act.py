"""Convolution, normalisation and LeakyReLU: one autograd node in training, one convolution in eval mode."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.norm_act import check_arguments, check_count, dense, like, norm_act
from igan_fast.ops.subpixel import FEW_CHANNELS, conv_transpose2d
from igan_fast.reference import ops as reference

__all__ = ["conv_norm_act"]

_HAS_EPILOGUE = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def conv_norm_act(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    transposed: bool = False,
    stride: int = 2,
    padding: int = 2,
    output_padding: int = 0,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    negative_slope: float = 0.2,
    groups: int = 1,
    impl: str = "auto",
) -> Tensor:
    """A (transposed) convolution without bias, then ``norm_act``; ``groups`` is that of ``norm_act``.

    With running statistics in eval mode, where no gradient is wanted, the normalisation is folded into the
    convolution's weights, and on a CPU the LeakyReLU into its last step.

    Args:
        x: (N, C_in, *spatial) with one to three spatial dimensions.
        conv_weight: (C_out, C_in, *kernel), or (C_in, C_out, *kernel) where ``transposed``.
        output_padding: of the transposed convolution.

    Returns:
        (N, C_out, *spatial_out).

    Raises:
        ValueError: an ``output_padding`` without ``transposed``; ``x`` or ``conv_weight`` of the wrong shape; or as
            ``norm_act``.
        RuntimeError: as ``norm_act``.
    """
    namespace = backend.namespace(impl, x.device, (x.dtype,))
    if namespace is None or x.numel() == 0:
        return reference.conv_norm_act(
            x,
            conv_weight,
            weight,
            bias,
            running_mean,
            running_var,
            transposed=transposed,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            training=training,
            momentum=momentum,
            eps=eps,
            negative_slope=negative_slope,
            groups=groups,
        )
    if x.dim() not in (3, 4, 5) or conv_weight.dim() != x.dim():
        raise ValueError(
            f"x has shape {tuple(x.shape)}, conv_weight {tuple(conv_weight.shape)}; expected 3 to 5 dimensions, both"
        )
    if output_padding and not transposed:
        raise ValueError(f"output_padding is {output_padding}; expected 0 unless transposed")
    c_in, channels = conv_weight.shape[0 if transposed else 1], conv_weight.shape[1 if transposed else 0]
    if x.shape[1] != c_in:
        raise ValueError(f"x has {x.shape[1]} channels; expected {c_in}, as conv_weight {tuple(conv_weight.shape)}")
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, conv_weight = x.to(dtype), conv_weight.to(dtype)
    check_arguments(x, channels, weight, bias, running_mean, running_var, groups)

    geometry = _Geometry(x.dim() - 2, transposed, stride, padding, output_padding)
    evaluating = not training and running_mean is not None
    differentiable = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, conv_weight, weight, bias)
    )
    if not training and not differentiable and running_mean is not None and running_var is not None:
        return _folded(x, conv_weight, weight, bias, running_mean, running_var, geometry, eps, negative_slope)
    few_channels = transposed and x.dim() == 4 and channels <= FEW_CHANNELS
    if evaluating or few_channels or torch.compiler.is_compiling():  # a compiler makes one of the two itself
        z: Tensor = (
            conv_transpose2d(x, conv_weight, stride, padding, output_padding)
            if few_channels
            else torch.ops.aten.convolution(x, conv_weight, None, *geometry.arguments)
        )
        return norm_act(
            z,
            weight,
            bias,
            running_mean,
            running_var,
            training=training,
            momentum=momentum,
            eps=eps,
            negative_slope=negative_slope,
            groups=groups,
            impl=impl,
        )
    y: Tensor
    y, mean, var = _ConvNormAct.apply(  # type: ignore[no-untyped-call]
        x, conv_weight, weight, bias, namespace, geometry.arguments, eps, negative_slope, groups
    )
    if training and running_mean is not None:
        count = y.numel() // (channels * groups)
        getattr(torch.ops, namespace).norm_act_update(running_mean, running_var, mean, var, count, momentum)
    return y


class _Geometry:
    """The arguments of aten::convolution after weight and bias."""

    def __init__(self, dims: int, transposed: bool, stride: int, padding: int, output_padding: int) -> None:
        self.transposed = transposed
        self.stride, self.padding, self.output_padding = [stride] * dims, [padding] * dims, [output_padding] * dims
        self.arguments = (self.stride, self.padding, [1] * dims, transposed, self.output_padding, 1)


class _ConvNormAct(torch.autograd.Function):
    """Saves the convolution's input and output, and the statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        conv_weight: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        namespace: str,
        geometry: tuple[Any, ...],
        eps: float,
        negative_slope: float,
        groups: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        z = dense(torch.ops.aten.convolution(x, conv_weight, None, *geometry))
        check_count(z, groups)
        y, mean, var = getattr(torch.ops, namespace).norm_act(z, weight, bias, eps, negative_slope, groups)
        ctx.save_for_backward(x, conv_weight, weight, bias, z, mean, var)
        ctx.mark_non_differentiable(mean, var)
        ctx.settings = namespace, geometry, eps, negative_slope
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, conv_weight, weight, bias, z, mean, var = ctx.saved_tensors
        namespace, geometry, eps, slope = ctx.settings
        if torch.is_grad_enabled():  # create_graph: z was made out of autograd's sight, and has to be made again
            z = dense(torch.ops.aten.convolution(x, conv_weight, None, *geometry))
        dz, dweight, dbias = getattr(torch.ops, namespace).norm_act_backward(
            like(grad, z), z, weight, bias, mean, var, eps, slope, True
        )
        needs_x, needs_conv_weight, needs_weight, needs_bias = ctx.needs_input_grad[:4]
        dx = dconv_weight = None
        if needs_x or needs_conv_weight:
            dx, dconv_weight, _none = torch.ops.aten.convolution_backward(
                dz, x, conv_weight, None, *geometry, (needs_x, needs_conv_weight, False)
            )
        return (
            dx,
            dconv_weight,
            dweight.to(weight.dtype) if needs_weight else None,
            dbias.to(bias.dtype) if needs_bias else None,
            *[None] * 5,
        )


def _folded(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    geometry: _Geometry,
    eps: float,
    negative_slope: float,
) -> Tensor:
    """LeakyReLU(conv(x, W·s) + (b − mean·s)) with s = weight / √(var + eps)."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale = (running_var.to(wide) + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(wide)
    shift = -running_mean.to(wide) * scale
    if bias is not None:
        shift = shift + bias.to(wide)
    per_channel = (1, -1) if geometry.transposed else (-1, 1)
    folded = (conv_weight.to(wide) * scale.view(*per_channel, *[1] * (conv_weight.dim() - 2))).to(x.dtype)
    shift = shift.to(x.dtype)
    if _has_epilogue(x):
        return _convolve_with_epilogue(x, folded, shift, geometry, negative_slope)
    z: Tensor = torch.ops.aten.convolution(x, folded, shift, *geometry.arguments)
    return F.leaky_relu_(z, negative_slope)


def _has_epilogue(x: Tensor) -> bool:
    """Whether oneDNN's convolution that ends in a LeakyReLU can be used."""
    return x.device.type == "cpu" and x.dim() == 4 and x.dtype in (torch.float32, torch.bfloat16) and _HAS_EPILOGUE


def _convolve_with_epilogue(x: Tensor, weight: Tensor, bias: Tensor, geometry: _Geometry, slope: float) -> Tensor:
    stride, padding, dilation, transposed, output_padding, groups = geometry.arguments
    epilogue = ("leaky_relu", [slope], "")
    if transposed:
        y: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            x, weight, bias, padding, output_padding, stride, dilation, groups, *epilogue
        )
    else:
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, dilation, groups, *epilogue)
    return y

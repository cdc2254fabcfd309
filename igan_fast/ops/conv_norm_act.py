"""Convolution, normalisation and LeakyReLU: one autograd node in training, one convolution in eval mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops import backend, strided_conv
from igan_fast.ops.epilogue import convolve_with_epilogue, has_epilogue
from igan_fast.ops.norm_act import check_arguments, check_count, dense, like, norm_act, of_groups
from igan_fast.ops.subpixel import FEW_CHANNELS, conv_transpose2d
from igan_fast.reference import ops as reference
from igan_fast.reference.ops import per_dimension

__all__ = ["conv_norm_act"]


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
    impl: str = "auto",
) -> Tensor:
    """A (transposed) convolution, then ``norm_act``; ``groups`` and ``average_groups`` are those of ``norm_act``.

    With running statistics in eval mode, where no gradient is wanted, the normalisation is folded into the
    convolution's weights, and on a CPU the LeakyReLU into its last step.

    Args:
        x: (N, C_in, *spatial) with one to three spatial dimensions.
        conv_weight: (C_out, C_in / conv_groups, *kernel), or (C_in, C_out / conv_groups, *kernel) where ``transposed``.
        stride, padding, dilation: of the convolution, one number or one for each spatial dimension.
        output_padding: of the transposed convolution, likewise.
        conv_groups: of the convolution.
        conv_bias: (C_out,), or None. Statistics of the batch take it out again: it shows in the running mean alone, is
            added nowhere else, and its gradient is exactly 0 (where PyTorch's is rounding noise around 0).

    Returns:
        (N, C_out, *spatial_out).

    Raises:
        ValueError: an ``output_padding`` without ``transposed``; ``x``, ``conv_weight`` or ``conv_bias`` of the wrong
            shape; a setting that has not one number for each spatial dimension; or as ``norm_act``.
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
            dilation=dilation,
            conv_groups=conv_groups,
            conv_bias=conv_bias,
            training=training,
            momentum=momentum,
            eps=eps,
            negative_slope=negative_slope,
            groups=groups,
            average_groups=average_groups,
        )
    if x.dim() not in (3, 4, 5) or conv_weight.dim() != x.dim():
        raise ValueError(
            f"x has shape {tuple(x.shape)}, conv_weight {tuple(conv_weight.shape)}; expected 3 to 5 dimensions, both"
        )
    dimensions = x.dim() - 2
    geometry = _Geometry(
        transposed,
        per_dimension("stride", stride, dimensions),
        per_dimension("padding", padding, dimensions),
        per_dimension("output_padding", output_padding, dimensions),
        per_dimension("dilation", dilation, dimensions),
        conv_groups,
        namespace == backend.NATIVE,
    )
    if any(geometry.output_padding) and not transposed:
        raise ValueError(f"output_padding is {output_padding}; expected 0 unless transposed")
    c_in, channels = geometry.channels(conv_weight)
    if x.shape[1] != c_in:
        raise ValueError(f"x has {x.shape[1]} channels; expected {c_in}, as conv_weight {tuple(conv_weight.shape)}")
    if conv_bias is not None and conv_bias.shape != (channels,):
        raise ValueError(f"conv_bias has shape {tuple(conv_bias.shape)}; expected ({channels},), one per channel")
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, conv_weight = x.to(dtype), conv_weight.to(dtype)
        conv_bias = None if conv_bias is None else conv_bias.to(dtype)
    check_arguments(x, channels, weight, bias, running_mean, running_var, groups)

    evaluating = not training and running_mean is not None
    differentiable = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, conv_weight, weight, bias, conv_bias)
    )
    if not training and not differentiable and running_mean is not None and running_var is not None:
        return _folded(
            x, conv_weight, weight, bias, running_mean, running_var, conv_bias, geometry, eps, negative_slope
        )
    few_channels = geometry.few_channels(conv_weight)
    if evaluating or few_channels or torch.compiler.is_compiling():  # a compiler makes one of the two itself
        z: Tensor = (
            conv_transpose2d(
                x, conv_weight, geometry.stride[0], geometry.padding[0], geometry.output_padding[0], bias=conv_bias
            )
            if few_channels
            else torch.ops.aten.convolution(x, conv_weight, conv_bias, *geometry.arguments)
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
            average_groups=average_groups,
            impl=impl,
        )
    y: Tensor
    y, mean, var = _ConvNormAct.apply(  # type: ignore[no-untyped-call]
        x, conv_weight, weight, bias, conv_bias, namespace, geometry, eps, negative_slope, groups
    )
    if training and running_mean is not None:
        count = y.numel() // (channels * groups)
        if conv_bias is not None:
            mean = mean + conv_bias.detach().to(mean.dtype)
        mean, var = (of_groups(t, average_groups) for t in (mean, var))
        getattr(torch.ops, namespace).norm_act_update(running_mean, running_var, mean, var, count, momentum)
    return y


class _Geometry:
    """A convolution's settings; ``arguments`` are those of aten::convolution after weight and bias."""

    def __init__(
        self,
        transposed: bool,
        stride: list[int],
        padding: list[int],
        output_padding: list[int],
        dilation: list[int],
        groups: int,
        native: bool,
    ) -> None:
        self.transposed, self.native, self.groups = transposed, native, groups
        self.stride, self.padding, self.output_padding, self.dilation = stride, padding, output_padding, dilation
        self.arguments = (stride, padding, dilation, transposed, output_padding, groups)

    def channels(self, conv_weight: Tensor) -> tuple[int, int]:
        """Of the input and of the output."""
        first, second = conv_weight.shape[0], conv_weight.shape[1] * self.groups
        return (first, second) if self.transposed else (second, first)

    def few_channels(self, conv_weight: Tensor) -> bool:
        """Whether a transposed convolution may be faster in sub-pixel form."""
        return (
            self.transposed
            and conv_weight.dim() == 4
            and conv_weight.shape[1] <= FEW_CHANNELS
            and self.groups == 1
            and self.dilation == [1, 1]
            and all(len(set(pair)) == 1 for pair in (self.stride, self.padding, self.output_padding))
        )

    def has_kernel(self, x: Tensor, conv_weight: Tensor) -> bool:
        """Whether our own kernels convolve."""
        return (
            self.native
            and self.groups == 1
            and self.dilation == [1, 1]
            and all(len(set(pair)) == 1 for pair in (self.stride, self.padding, self.output_padding))
            and strided_conv.applies(
                x,
                conv_weight,
                transposed=self.transposed,
                stride=self.stride[0],
                padding=self.padding[0],
                output_padding=self.output_padding[0],
            )
        )

    def convolve(self, x: Tensor, conv_weight: Tensor) -> Tensor:
        """The convolution, in the layout that the normalisation takes."""
        if self.has_kernel(x, conv_weight):
            return strided_conv.convolve(x, conv_weight, transposed=self.transposed)
        return dense(torch.ops.aten.convolution(x, conv_weight, None, *self.arguments))

    def gradients(
        self, grad: Tensor, x: Tensor | None, conv_weight: Tensor, needs_x: bool, needs_weight: bool, shape: torch.Size
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of x and of the weights; x is of ``shape``, and None where the weights need none."""
        x = conv_weight.new_empty(1).expand(shape) if x is None else x  # not looked at
        if self.has_kernel(x, conv_weight) and not torch.is_grad_enabled():
            return (
                strided_conv.input_gradient(grad, conv_weight, transposed=self.transposed) if needs_x else None,
                strided_conv.weight_gradient(grad, x, transposed=self.transposed) if needs_weight else None,
            )
        dx, dweight, _none = torch.ops.aten.convolution_backward(
            grad, x, conv_weight, None, *self.arguments, (needs_x, needs_weight, False)
        )
        return dx, dweight


class _ConvNormAct(torch.autograd.Function):
    """Saves the convolution's output and the statistics; its input only where the weights need a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        conv_weight: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        conv_bias: Tensor | None,
        namespace: str,
        geometry: _Geometry,
        eps: float,
        negative_slope: float,
        groups: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        z = geometry.convolve(x, conv_weight)
        check_count(z, groups)
        y, mean, var = getattr(torch.ops, namespace).norm_act(z, weight, bias, eps, negative_slope, groups)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, conv_weight, weight, bias, z, mean, var)
        ctx.mark_non_differentiable(mean, var)
        ctx.settings = namespace, geometry, eps, negative_slope
        ctx.shape, ctx.conv_bias = x.shape, None if conv_bias is None else (conv_bias.shape, conv_bias.dtype)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, conv_weight, weight, bias, z, mean, var = ctx.saved_tensors
        namespace, geometry, eps, slope = ctx.settings
        if torch.is_grad_enabled():  # create_graph: z was made out of autograd's sight, and has to be made again
            if x is None:
                raise RuntimeError(
                    "conv_norm_act: a second derivative wants a conv_weight that requires a gradient, "
                    "or impl='reference' (in a fused model: igan_fast.unfuse)"
                )
            z = dense(torch.ops.aten.convolution(x, conv_weight, None, *geometry.arguments))
        dz, dweight, dbias = getattr(torch.ops, namespace).norm_act_backward(
            like(grad, z), z, weight, bias, mean, var, eps, slope, True
        )
        needs_x, needs_conv_weight, needs_weight, needs_bias, needs_conv_bias = ctx.needs_input_grad[:5]
        dx, dconv_weight = geometry.gradients(dz, x, conv_weight, needs_x, needs_conv_weight, ctx.shape)
        return (
            dx,
            dconv_weight,
            dweight.to(weight.dtype) if needs_weight else None,
            dbias.to(bias.dtype) if needs_bias else None,
            grad.new_zeros(ctx.conv_bias[0], dtype=ctx.conv_bias[1]) if needs_conv_bias else None,
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
    geometry: _Geometry,
    eps: float,
    negative_slope: float,
) -> Tensor:
    """LeakyReLU(conv(x, W·s) + (b − (mean − conv_bias)·s)) with s = weight / √(var + eps)."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale = (running_var.to(wide) + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(wide)
    shift = -running_mean.to(wide) * scale
    if conv_bias is not None:
        shift = shift + conv_bias.to(wide) * scale
    if bias is not None:
        shift = shift + bias.to(wide)
    if geometry.transposed:  # (C_in, C_out / groups, …): each group of rows has output channels of its own
        rows = conv_weight.to(wide).reshape(geometry.groups, -1, *conv_weight.shape[1:])
        scaled = rows * scale.view(geometry.groups, 1, -1, *[1] * (conv_weight.dim() - 2))
        folded = scaled.flatten(0, 1).to(x.dtype)
    else:
        folded = (conv_weight.to(wide) * scale.view(-1, *[1] * (conv_weight.dim() - 1))).to(x.dtype)
    shift = shift.to(x.dtype)
    if geometry.has_kernel(x, folded):
        return strided_conv.convolve(
            x, folded, transposed=geometry.transposed, bias=shift.detach().contiguous(), negative_slope=negative_slope
        )
    # Of a transposed one with contiguous weights, oneDNN's own is the slower way at 1×1 pixels, and elsewhere no faster.
    if has_epilogue(x) and not (geometry.transposed and folded.is_contiguous()):
        return convolve_with_epilogue(x, folded, shift, geometry.arguments, negative_slope)
    z: Tensor = torch.ops.aten.convolution(x, folded, shift, *geometry.arguments)
    return F.leaky_relu_(z, negative_slope)

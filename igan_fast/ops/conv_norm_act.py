"""Convolution, normalisation and LeakyReLU: one autograd node in training, one convolution in eval mode."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.ops import backend, winograd_conv
from igan_fast.ops.epilogue import convolve_with_epilogue, has_epilogue
from igan_fast.ops.norm_act import check_arguments, check_count, dense, like, norm_act
from igan_fast.ops.subpixel import FEW_CHANNELS, conv_transpose2d
from igan_fast.reference import ops as reference

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

    geometry = _Geometry(x.dim() - 2, transposed, stride, padding, output_padding, namespace == backend.NATIVE)
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
        x, conv_weight, weight, bias, namespace, geometry, eps, negative_slope, groups
    )
    if training and running_mean is not None:
        count = y.numel() // (channels * groups)
        getattr(torch.ops, namespace).norm_act_update(running_mean, running_var, mean, var, count, momentum)
    return y


class _Geometry:
    """A convolution's settings; ``arguments`` are those of aten::convolution after weight and bias."""

    def __init__(
        self, dims: int, transposed: bool, stride: int, padding: int, output_padding: int, native: bool
    ) -> None:
        self.transposed, self.native = transposed, native
        self.options: dict[str, Any] = {
            "transposed": transposed,
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
        }
        self.stride, self.padding, self.output_padding = [stride] * dims, [padding] * dims, [output_padding] * dims
        self.arguments = (self.stride, self.padding, [1] * dims, transposed, self.output_padding, 1)

    def has_kernel(self, x: Tensor, conv_weight: Tensor) -> bool:
        """Whether our own kernels convolve."""
        return self.native and winograd_conv.applies(x, conv_weight, **self.options)

    def convolve(self, x: Tensor, conv_weight: Tensor) -> Tensor:
        """The convolution, in the layout that the normalisation takes."""
        if self.has_kernel(x, conv_weight):
            return winograd_conv.convolve(x, conv_weight, **self.options)
        return dense(torch.ops.aten.convolution(x, conv_weight, None, *self.arguments))

    def gradients(
        self, grad: Tensor, x: Tensor | None, conv_weight: Tensor, needs_x: bool, needs_weight: bool, shape: torch.Size
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of x and of the weights; x is of ``shape``, and None where the weights need none."""
        x = conv_weight.new_empty(1).expand(shape) if x is None else x  # not looked at
        if self.has_kernel(x, conv_weight) and not torch.is_grad_enabled():
            ours: dict[str, Any] = {name: self.options[name] for name in ("transposed", "stride", "padding")}
            return (
                winograd_conv.input_gradient(grad, conv_weight, shape[2:], **ours) if needs_x else None,
                winograd_conv.weight_gradient(grad, x, conv_weight.shape[2], **ours) if needs_weight else None,
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
        ctx.shape = x.shape
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, conv_weight, weight, bias, z, mean, var = ctx.saved_tensors
        namespace, geometry, eps, slope = ctx.settings
        if torch.is_grad_enabled():  # create_graph: z was made out of autograd's sight, and has to be made again
            if x is None:
                raise RuntimeError(
                    "conv_norm_act: a second derivative wants a conv_weight that requires a gradient, "
                    "or impl='reference'"
                )
            z = dense(torch.ops.aten.convolution(x, conv_weight, None, *geometry.arguments))
        dz, dweight, dbias = getattr(torch.ops, namespace).norm_act_backward(
            like(grad, z), z, weight, bias, mean, var, eps, slope, True
        )
        needs_x, needs_conv_weight, needs_weight, needs_bias = ctx.needs_input_grad[:4]
        dx, dconv_weight = geometry.gradients(dz, x, conv_weight, needs_x, needs_conv_weight, ctx.shape)
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
    if geometry.has_kernel(x, folded):
        return winograd_conv.convolve(
            x, folded, bias=shift.detach().contiguous(), negative_slope=negative_slope, **geometry.options
        )
    if has_epilogue(x):
        return convolve_with_epilogue(x, folded, shift, geometry.arguments, negative_slope)
    z: Tensor = torch.ops.aten.convolution(x, folded, shift, *geometry.arguments)
    return F.leaky_relu_(z, negative_slope)

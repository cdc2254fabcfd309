"""Blocks of somebody's own: what they are made of is chosen by arguments; residual and pre-activation blocks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from zoo.network import Inputs, images, network


class Conv2dBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, norm_fn: str, acti_fn: str, transposed: bool = False) -> None:
        super().__init__()
        conv = nn.ConvTranspose2d if transposed else nn.Conv2d
        layers: list[nn.Module] = [conv(n_in, n_out, 4, stride=2, padding=1, bias=(norm_fn == "none"))]
        if norm_fn == "batchnorm":
            layers.append(nn.BatchNorm2d(n_out))
        elif norm_fn == "instancenorm":
            layers.append(nn.InstanceNorm2d(n_out, affine=True))
        if acti_fn == "relu":
            layers.append(nn.ReLU())
        elif acti_fn == "lrelu":
            layers.append(nn.LeakyReLU())
        elif acti_fn == "tanh":
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AttganGenerator(nn.Module):
    def __init__(self, n_attrs: int = 2, shortcut_layers: int = 1) -> None:
        super().__init__()
        self.shortcut_layers = shortcut_layers
        self.enc_layers = nn.ModuleList(
            [Conv2dBlock(3, 4, "batchnorm", "lrelu"), Conv2dBlock(4, 8, "instancenorm", "lrelu")]
        )
        self.dec_layers = nn.ModuleList(
            [
                Conv2dBlock(8 + n_attrs, 6, "batchnorm", "relu", transposed=True),
                Conv2dBlock(6 + 4, 3, "none", "tanh", transposed=True),
            ]
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        z = x
        zs = []
        for layer in self.enc_layers:
            z = layer(z)
            zs.append(z)
        return zs

    def decode(self, zs: list[Tensor], a: Tensor) -> Tensor:
        a_tile = a.view(a.size(0), -1, 1, 1).repeat(1, 1, zs[-1].size(2), zs[-1].size(3))
        z = torch.cat([zs[-1], a_tile], dim=1)
        for i, layer in enumerate(self.dec_layers):
            z = layer(z)
            if self.shortcut_layers > i:
                z = torch.cat([z, zs[len(self.dec_layers) - 2 - i]], dim=1)
        return z

    def forward(self, x: Tensor, a: Tensor | None = None, mode: str = "enc-dec") -> Any:
        if mode == "enc-dec":
            return self.decode(self.encode(x), a)
        return self.encode(x)


@network(
    "elvisyjlin/AttGAN-PyTorch: a block class that builds a Sequential, encode and decode, mode argument",
    [
        "enc_layers.0.layers.0 enc_layers.0.layers.1 enc_layers.0.layers.2",
        "enc_layers.1.layers.0 enc_layers.1.layers.1 enc_layers.1.layers.2",
        "dec_layers.0.layers.0 dec_layers.0.layers.1 dec_layers.0.layers.2",
    ],
    {},
    {"encode only": lambda module, inputs: module(inputs[0], mode="enc")},
)
def attgan() -> tuple[nn.Module, Inputs]:
    return AttganGenerator(), (images(8), torch.rand(3, 2))


class MunitBlock(nn.Module):
    def __init__(
        self, dim_in: int, dim_out: int, norm: str, activation: str, pad_type: str = "reflect", bias: bool = True
    ) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1) if pad_type == "reflect" else nn.ZeroPad2d(1)
        self.norm: nn.Module | None
        if norm == "bn":
            self.norm = nn.BatchNorm2d(dim_out)
        elif norm == "in":
            self.norm = nn.InstanceNorm2d(dim_out)
        elif norm == "ln":
            self.norm = OwnLayerNorm(dim_out)
        elif norm == "adain":
            self.norm = AdaptiveInstanceNorm2d(dim_out)
        else:
            self.norm = None
        self.activation: nn.Module | None
        if activation == "relu":
            self.activation = nn.ReLU(inplace=True)
        elif activation == "lrelu":
            self.activation = nn.LeakyReLU(0.2, inplace=True)
        elif activation == "prelu":
            self.activation = nn.PReLU()
        else:
            self.activation = None
        self.conv = nn.Conv2d(dim_in, dim_out, 3, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pad(x))
        if self.norm:
            x = self.norm(x)
        if self.activation:
            x = self.activation(x)
        return x


class AdaptiveInstanceNorm2d(nn.Module):
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, 1e-5, 0.1
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.size(0), x.size(1)
        mean, var = self.running_mean.repeat(b), self.running_var.repeat(b)
        x_reshaped = x.contiguous().view(1, b * c, *x.size()[2:])
        out = F.batch_norm(x_reshaped, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        return out.view(b, c, *x.size()[2:])


class OwnLayerNorm(nn.Module):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(num_features))
        self.beta = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.view(x.size(0), -1).mean(1).view(-1, 1, 1, 1)
        std = x.view(x.size(0), -1).std(1).view(-1, 1, 1, 1)
        return (x - mean) / (std + 1e-5) * self.gamma.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)


class MunitGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        model: list[nn.Module] = [MunitBlock(3, 4, "in", "relu")]
        model += [MunitBlock(4, 4, "bn", "lrelu", pad_type="zero"), MunitBlock(4, 4, "in", "none", bias=False)]
        self.content = nn.Sequential(*model)
        self.adain = MunitBlock(4, 4, "adain", "relu")
        self.tail = nn.Sequential(
            MunitBlock(4, 4, "ln", "relu"), MunitBlock(4, 4, "bn", "prelu"), MunitBlock(4, 3, "none", "none")
        )
        self.mlp = nn.Linear(5, 8)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.mlp(style).chunk(2, dim=1)
        self.adain.norm.weight = scale.contiguous().view(-1)
        self.adain.norm.bias = shift.contiguous().view(-1)
        return self.tail(self.adain(self.content(x)))


@network(
    "NVlabs/MUNIT Conv2dBlock: pad, conv, norm and activation as attributes that may be None, AdaIN set from outside",
    [
        "content.0.conv content.0.norm content.0.activation",
        "content.1.conv content.1.norm content.1.activation",
        "content.2.conv content.2.norm",
        "tail.1.conv tail.1.norm",
    ],
    {
        "adain.norm": "no norm of torch's; its weight is set before each call",
        "tail.0.norm": "a layer norm",
        "tail.1.activation": "a PReLU has a slope that learns",
    },
)
def munit() -> tuple[nn.Module, Inputs]:
    return MunitGenerator(), (images(6), torch.randn(3, 5))


class PreActivationBlock(nn.Module):
    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        actv: nn.Module = nn.LeakyReLU(0.2),  # noqa: B008 - one object for all blocks, as people write it
        downsample: bool = False,
    ) -> None:
        super().__init__()
        self.actv = actv
        self.downsample = downsample
        self.learned_sc = dim_in != dim_out
        self._build_weights(dim_in, dim_out)

    def _build_weights(self, dim_in: int, dim_out: int) -> None:
        self.conv1 = nn.Conv2d(dim_in, dim_in, 3, 1, 1)
        self.conv2 = nn.Conv2d(dim_in, dim_out, 3, 1, 1)
        self.norm1 = nn.InstanceNorm2d(dim_in, affine=True)
        self.norm2 = nn.InstanceNorm2d(dim_in, affine=True)
        if self.learned_sc:
            self.conv1x1 = nn.Conv2d(dim_in, dim_out, 1, 1, 0, bias=False)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.learned_sc:
            x = self.conv1x1(x)
        if self.downsample:
            x = F.avg_pool2d(x, 2)
        return x

    def _residual(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        x = self.actv(x)
        x = self.conv1(x)
        if self.downsample:
            x = F.avg_pool2d(x, 2)
        x = self.norm2(x)
        x = self.actv(x)
        return self.conv2(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self._shortcut(x) + self._residual(x)
        return x / math.sqrt(2)


class AdaIN(nn.Module):
    def __init__(self, style_dim: int, num_features: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(num_features, affine=False)
        self.fc = nn.Linear(style_dim, num_features * 2)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        h = self.fc(s)
        gamma, beta = torch.chunk(h.view(h.size(0), h.size(1), 1, 1), chunks=2, dim=1)
        return (1 + gamma) * self.norm(x) + beta


class StarganV2Generator(nn.Module):
    def __init__(self, style_dim: int = 5) -> None:
        super().__init__()
        self.from_rgb = nn.Conv2d(3, 4, 3, 1, 1)
        self.encode = nn.ModuleList([PreActivationBlock(4, 6, downsample=True), PreActivationBlock(6, 6)])
        self.adain, self.actv, self.conv = AdaIN(style_dim, 6), nn.LeakyReLU(0.2), nn.Conv2d(6, 4, 3, 1, 1)
        self.to_rgb = nn.Sequential(nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 1, 1, 0))

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        x = self.from_rgb(x)
        for block in self.encode:
            x = block(x)
        x = self.conv(F.interpolate(self.actv(self.adain(x, s)), scale_factor=2, mode="nearest"))
        return self.to_rgb(x)


@network(
    "clovaai/stargan-v2: norm before the convolution, one activation object in all blocks, AdaIN",
    [
        "encode.0.norm1 encode.0.actv",
        "encode.0.norm2 encode.0.actv",
        "encode.1.norm1 encode.1.actv",
        "encode.1.conv1 encode.1.norm2 encode.1.actv",
        "adain.norm",
        "conv to_rgb.0 to_rgb.1",
    ],
    {
        "encode.0.norm1": "its input is also the shortcut's, so nothing before it can be joined",
        "encode.0.conv1": "pooling stands between it and norm2 in this block, but not in the next",
        "adain.norm": "scaled and shifted before the activation",
    },
)
def stargan_v2() -> tuple[nn.Module, Inputs]:
    return StarganV2Generator(), (images(8), torch.randn(3, 5))


class ConditionalNorm(nn.Module):
    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, output_size: int, input_size: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Linear(input_size, output_size, bias=False), nn.Linear(input_size, output_size)
        self.register_buffer("stored_mean", torch.zeros(output_size))
        self.register_buffer("stored_var", torch.ones(output_size))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain = (1 + self.gain(y)).view(y.size(0), -1, 1, 1)
        bias = self.bias(y).view(y.size(0), -1, 1, 1)
        out = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, self.training, 0.1, 1e-5)
        return out * gain + bias


class GBlock(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        which_conv: Callable[..., nn.Module],
        which_bn: Callable[[int], nn.Module],
        activation: Callable[[Tensor], Tensor],
        upsample: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.upsample = activation, upsample
        self.conv1, self.conv2 = which_conv(in_channels, out_channels), which_conv(out_channels, out_channels)
        self.conv_sc = which_conv(in_channels, out_channels, kernel_size=1, padding=0)
        self.bn1, self.bn2 = which_bn(in_channels), which_bn(out_channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.activation(self.bn1(x, y))
        if self.upsample:
            h = self.upsample(h)
            x = self.upsample(x)
        h = self.conv1(h)
        h = self.activation(self.bn2(h, y))
        h = self.conv2(h)
        return h + self.conv_sc(x)


class BigganGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        which_conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)
        which_bn = functools.partial(ConditionalNorm, input_size=5)
        self.linear = nn.Linear(7, 6 * 4 * 4)
        upsample = functools.partial(F.interpolate, scale_factor=2)
        self.blocks = nn.ModuleList(
            [nn.ModuleList([GBlock(6, 4, which_conv, which_bn, nn.ReLU(inplace=False), upsample)])]
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(4), nn.ReLU(inplace=False), nn.Conv2d(4, 3, kernel_size=3, padding=1)
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.linear(z).view(z.size(0), -1, 4, 4)
        for blocklist in self.blocks:
            for block in blocklist:
                h = block(h, y)
        return torch.tanh(self.output_layer(h))


@network(
    "ajbrock/BigGAN-PyTorch: class-conditional norm by F.batch_norm, which_conv and which_bn as partials",
    ["output_layer.0 output_layer.1"],
    {"blocks.0.0.bn1": "no module of torch's normalises; scale and shift depend on the class"},
)
def biggan() -> tuple[nn.Module, Inputs]:
    return BigganGenerator(), (torch.randn(3, 7), torch.randn(3, 5))


class MimicryBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.activation = nn.ReLU(True)
        self.c1 = nn.Conv2d(in_channels, out_channels, 3, 1, padding=1)
        self.c2 = nn.Conv2d(out_channels, out_channels, 3, 1, padding=1)
        self.b1, self.b2 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
        self.c_sc = nn.Conv2d(in_channels, out_channels, 1, 1, padding=0)

    def _upsample_conv(self, x: Tensor, conv: nn.Module) -> Tensor:
        return conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))

    def _residual(self, x: Tensor) -> Tensor:
        h = x
        h = self.b1(h)
        h = self.activation(h)
        h = self._upsample_conv(h, self.c1)
        h = self.b2(h)
        h = self.activation(h)
        return self.c2(h)

    def _shortcut(self, x: Tensor) -> Tensor:
        return self._upsample_conv(x, self.c_sc)

    def forward(self, x: Tensor) -> Tensor:
        return self._residual(x) + self._shortcut(x)


@network(
    "kwotsin/mimicry SNGAN: the convolution handed to a method, one in-place activation after both norms",
    ["0.b1 0.activation", "0.c1 0.b2 0.activation", "1 2"],
    {"0.c2": "a sum follows"},
)
def mimicry() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(MimicryBlock(3, 4), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 3, 3, 1, 1)), (images(6),)


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, growth, kernel_size=1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(growth, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        bottleneck = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(bottleneck)))


class DenseBlock(nn.ModuleDict):
    def __init__(self) -> None:
        super().__init__()
        for i in range(2):
            self.add_module(f"denselayer{i + 1}", DenseLayer(3 + i * 4, 4))

    def forward(self, init_features: Tensor) -> Tensor:
        features = [init_features]
        for _, layer in self.items():
            features.append(layer(features))
        return torch.cat(features, 1)


@network(
    "torchvision DenseNet: a ModuleDict with a forward, norm and activation of a concatenation",
    [
        f"{layer}.{chain}"
        for layer in ("denselayer1", "denselayer2")
        for chain in (f"norm1 {layer}.relu1", f"conv1 {layer}.norm2 {layer}.relu2")
    ],
)
def dense_block() -> tuple[nn.Module, Inputs]:
    return DenseBlock(), (images(6),)


class NormWrapper(nn.Module):
    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        if kind == "batch":
            self.norm: nn.Module = nn.BatchNorm2d(channels)
        elif kind == "instance":
            self.norm = nn.InstanceNorm2d(channels, affine=True)
        else:
            self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@network(
    "a module of one's own around the norm, in a Sequential",
    ["0 1.norm 2", "3 4.norm 5"],
    {"7.norm": "an Identity: a convolution and an activation are left"},
)
def norm_wrapper() -> tuple[nn.Module, Inputs]:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        NormWrapper("batch", 4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1, bias=False),
        NormWrapper("instance", 5),
        nn.LeakyReLU(0.2),
        nn.Conv2d(5, 4, 3, padding=1),
        NormWrapper("none", 4),
        nn.ReLU(),
    )
    return model, (images(6),)


class Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@network(
    "norm_layer = lambda x: Identity(), nn.Identity: no norm at all, or one behind an Identity",
    ["6 8 9"],
    {"1": "not a norm", "7": "between a convolution and its norm, of a class of its own"},
)
def identity_norm() -> tuple[nn.Module, Inputs]:
    def norm_layer(_: int) -> nn.Module:
        return Identity()

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        norm_layer(4),
        nn.ReLU(True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Identity(),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(4, 4, 3, padding=1),
        Identity(),
        nn.BatchNorm2d(4),
        nn.ReLU(True),
    )
    return model, (images(6),)


class SrganBlock(nn.Module):
    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_features, in_features, 3, 1, 1),
            nn.BatchNorm2d(in_features, 0.8),
            nn.PReLU(),
            nn.Conv2d(in_features, in_features, 3, 1, 1),
            nn.BatchNorm2d(in_features, 0.8),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


@network(
    "eriklindernoren/PyTorch-GAN srgan: PReLU, and a pixel shuffle between norm and activation",
    ["2.conv_block.0 2.conv_block.1", "2.conv_block.3 2.conv_block.4", "3 4"],
    {"2.conv_block.2": "a slope that learns", "6": "a pixel shuffle stands before it"},
)
def srgan() -> tuple[nn.Module, Inputs]:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 9, 1, 4),
        nn.PReLU(),
        SrganBlock(4),
        nn.Conv2d(4, 16, 3, 1, 1),
        nn.BatchNorm2d(16),
        nn.PixelShuffle(2),
        nn.ReLU(),
        nn.Conv2d(4, 3, 9, 1, 4),
        nn.Tanh(),
    )
    return model, (images(6),)


class HifiganBlock(nn.Module):
    def __init__(self, channels: int, dilation: tuple[int, ...] = (1, 3)) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList([weight_norm(nn.Conv1d(channels, channels, 3, 1, d, d)) for d in dilation])
        self.convs2 = nn.ModuleList([weight_norm(nn.Conv1d(channels, channels, 3, 1, 1)) for _ in dilation])

    def forward(self, x: Tensor) -> Tensor:
        for c1, c2 in zip(self.convs1, self.convs2, strict=True):
            xt = c1(F.leaky_relu(x, 0.1))
            xt = c2(F.leaky_relu(xt, 0.1))
            x = xt + x
        return x


@network(
    "jik876/hifi-gan: weight norm, no norm of activations, activation before the convolution",
    [],
    {"0.convs1.0": "its weight is made anew by a hook before each call", "0.convs2.0": "no norm follows"},
)
def hifigan() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(HifiganBlock(4)), (torch.randn(2, 4, 20),)


class EqualConv2d(nn.Module):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        conv = nn.Conv2d(*arguments, **options)
        conv.weight.data.normal_()
        conv.bias.data.zero_()
        self.conv = _equal_lr(conv)

    def forward(self, input: Tensor) -> Tensor:
        return self.conv(input)


def _equal_lr(module: nn.Module) -> nn.Module:
    """The parameter becomes weight_orig; a hook makes weight from it before each call."""
    weight = module.weight
    del module._parameters["weight"]
    module.register_parameter("weight_orig", nn.Parameter(weight.data))
    module.register_forward_pre_hook(_scale_weight)
    return module


def _scale_weight(module: nn.Module, _: Any) -> None:
    weight = module.weight_orig
    module.weight = weight * math.sqrt(2 / (weight.size(1) * weight[0][0].numel()))


class PixelNorm(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return input / torch.sqrt(torch.mean(input**2, dim=1, keepdim=True) + 1e-8)


@network(
    "rosinality/progressive-gan-pytorch: equalised learning rate by a hook, pixel norm",
    ["3.conv 4 5"],
    {"0.conv": "its weight is made by a hook; pixel norm is no norm of torch's", "1": "of a class of its own"},
)
def progressive() -> tuple[nn.Module, Inputs]:
    model = nn.Sequential(
        EqualConv2d(3, 4, 3, padding=1),
        PixelNorm(),
        nn.LeakyReLU(0.2),
        EqualConv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
    )
    return model, (images(6),)

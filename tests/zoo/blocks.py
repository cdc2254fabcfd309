"""Custom blocks whose layers are chosen by arguments; custom normalisations and weights."""

from __future__ import annotations

import math
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
    "elvisyjlin/AttGAN-PyTorch: a block class that builds a Sequential; encode and decode; a mode argument",
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
    "NVlabs/MUNIT Conv2dBlock: pad, conv, norm, activation as attributes that may be None; AdaIN is set from outside",
    [
        "content.0.conv content.0.norm content.0.activation",
        "content.1.conv content.1.norm content.1.activation",
        "content.2.conv content.2.norm",
        "tail.1.conv tail.1.norm",
    ],
    {
        "adain.norm": "not a norm of PyTorch; its weight is set before each call",
        "tail.0.norm": "a layer norm",
        "tail.1.activation": "a PReLU has a learnt slope",
    },
)
def munit() -> tuple[nn.Module, Inputs]:
    return MunitGenerator(), (images(6), torch.randn(3, 5))


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
    "a custom module around the norm, in a Sequential",
    ["0 1.norm 2", "3 4.norm 5"],
    {"7.norm": "an Identity: only the convolution and the activation remain"},
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
    "norm_layer = lambda x: Identity(), nn.Identity: no norm at all, or one after an Identity",
    ["6 8 9"],
    {"1": "not a norm", "7": "between a convolution and its norm, of a custom class"},
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
    "jik876/hifi-gan: weight norm, no normalisation of activations, activation before the convolution",
    [],
    {"0.convs1.0": "a hook computes its weight before each call", "0.convs2.0": "no norm follows"},
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
    """Renames the parameter to weight_orig; a hook computes weight from it before each call."""
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
    {"0.conv": "a hook computes its weight; pixel norm is not a norm of PyTorch", "1": "of a custom class"},
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

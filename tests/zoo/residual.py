"""Residual, pre-activation and densely connected blocks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.network import Inputs, images, network


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
    "clovaai/stargan-v2: norm before the convolution, one activation module in all blocks, AdaIN",
    [
        "encode.0.norm1 encode.0.actv",
        "encode.0.norm2 encode.0.actv",
        "encode.1.norm1 encode.1.actv",
        "encode.1.conv1 encode.1.norm2 encode.1.actv",
        "adain.norm",
        "conv to_rgb.0 to_rgb.1",
    ],
    {
        "encode.0.norm1": "its input is also the shortcut's, so nothing before it can be fused with it",
        "encode.0.conv1": "pooling comes between it and norm2 in this block, but not in the next",
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
    {"blocks.0.0.bn1": "no module of PyTorch normalises; scale and shift depend on the class"},
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
    "kwotsin/mimicry SNGAN: the convolution is passed to a method; one in-place activation after both norms",
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
    {"2.conv_block.2": "a learnt slope", "6": "a pixel shuffle comes before it"},
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

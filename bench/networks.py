"""Well-known networks of others in plain PyTorch, at their authors' sizes, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

__all__ = ["NETWORKS", "Network"]


class Network(NamedTuple):
    """One network.

    Attributes:
        build: makes the network.
        shape: of its input, without the batch.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


class BasicBlock(nn.Module):
    """He et al. 2016, "Deep residual learning for image recognition", Sec. 4.1, arXiv 1512.03385."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))  # type: ignore[no-any-return]


def resnet18() -> nn.Module:
    """ResNet-18 for ImageNet (He et al. 2016, Table 1)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    c_in = 64
    for c_out in (64, 128, 256, 512):
        layers += [BasicBlock(c_in, c_out, 1 if c_out == 64 else 2), BasicBlock(c_out, c_out, 1)]
        c_in = c_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", arXiv 1801.04381, Table 1."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        layers = [] if expansion == 1 else _conv_bn_relu6(c_in, hidden, 1)
        layers += _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden)
        self.layers = nn.Sequential(*layers, nn.Conv2d(hidden, c_out, 1, bias=False), nn.BatchNorm2d(c_out))
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _conv_bn_relu6(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True)]


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 for ImageNet (Sandler et al. 2018, Table 2)."""
    layers, c_in = _conv_bn_relu6(3, 32, 3, 2), 32
    for expansion, c_out, count, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(count):
            layers.append(InvertedResidual(c_in, c_out, first_stride if index == 0 else 1, expansion))
            c_in = c_out
    layers += [*_conv_bn_relu6(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers)


class EdgeConnectBlock(nn.Module):
    """The residual block of Nazeri et al. 2019, "EdgeConnect", arXiv 1901.00212, Sec. 3: dilation 2, instance norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(2),
            nn.Conv2d(channels, channels, 3, dilation=2),
            nn.InstanceNorm2d(channels),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


def edge_connect() -> nn.Module:
    """EdgeConnect's image completion network (Nazeri et al. 2019, Sec. 3.2)."""

    def unit(conv: nn.Module, channels: int) -> list[nn.Module]:
        return [conv, nn.InstanceNorm2d(channels), nn.ReLU(True)]

    return nn.Sequential(
        nn.ReflectionPad2d(3),
        *unit(nn.Conv2d(4, 64, 7), 64),
        *unit(nn.Conv2d(64, 128, 4, 2, 1), 128),
        *unit(nn.Conv2d(128, 256, 4, 2, 1), 256),
        *(EdgeConnectBlock(256) for _ in range(8)),
        *unit(nn.ConvTranspose2d(256, 128, 4, 2, 1), 128),
        *unit(nn.ConvTranspose2d(128, 64, 4, 2, 1), 64),
        nn.ReflectionPad2d(3),
        nn.Conv2d(64, 3, 7),
        nn.Tanh(),
    )


class DenseBlock(nn.Module):
    """The residual dense block of Wang et al. 2018, "ESRGAN", arXiv 1809.00219, Sec. 3.1."""

    def __init__(self, channels: int = 64, growth: int = 32) -> None:
        super().__init__()
        widths = (*[growth] * 4, channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels + i * growth, width, 3, padding=1) for i, width in enumerate(widths)
        )
        self.act = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for conv in self.convs[:-1]:
            features.append(self.act(conv(torch.cat(features, 1))))
        return x + 0.2 * self.convs[-1](torch.cat(features, 1))  # type: ignore[no-any-return]


class RRDB(nn.Module):
    """Three dense blocks in a residual one (Wang et al. 2018, Fig. 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(DenseBlock(), DenseBlock(), DenseBlock())

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.blocks(x)  # type: ignore[no-any-return]


class ESRGAN(nn.Module):
    """ESRGAN's generator, four times as large images (Wang et al. 2018), with ``blocks`` of its 23 RRDBs."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.body = nn.Sequential(*(RRDB() for _ in range(blocks)), nn.Conv2d(64, 64, 3, padding=1))
        self.ups = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))
        self.last = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(64, 3, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.body(x)
        for up in self.ups:
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2.0)), 0.2, inplace=True)
        return self.last(x)  # type: ignore[no-any-return]


class SoundBlock(nn.Module):
    """The residual block of Kong et al. 2020, "HiFi-GAN", arXiv 2010.05646, Appendix A."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            return weight_norm(nn.Conv1d(channels, channels, kernel, 1, dilation * (kernel - 1) // 2, dilation))

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in (1, 3, 5))
        self.convs2 = nn.ModuleList(conv(1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, 0.1)), 0.1))
        return x


class HiFiGAN(nn.Module):
    """HiFi-GAN's generator V1 (Kong et al. 2020, Table 5)."""

    def __init__(self) -> None:
        super().__init__()
        width = 512
        self.first = weight_norm(nn.Conv1d(80, width, 7, padding=3))
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for rate in (8, 8, 2, 2):
            self.ups.append(weight_norm(nn.ConvTranspose1d(width, width // 2, 2 * rate, rate, rate // 2)))
            width //= 2
            self.blocks.append(nn.ModuleList(SoundBlock(width, kernel) for kernel in (3, 7, 11)))
        self.last = weight_norm(nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for up, blocks in zip(self.ups, self.blocks, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(block(x) for block in blocks) / len(blocks)  # type: ignore[arg-type]
        return torch.tanh(self.last(F.leaky_relu(x)))


def scale_discriminator() -> nn.Module:
    """One of HiFi-GAN's discriminators of several scales (Kong et al. 2020, Section 2.3, after MelGAN's)."""
    sizes = (
        *((1, 128, 15, 1, 1), (128, 128, 41, 2, 4), (128, 256, 41, 2, 16), (256, 512, 41, 4, 16)),
        *((512, 1024, 41, 4, 16), (1024, 1024, 41, 1, 16), (1024, 1024, 5, 1, 1)),
    )
    layers: list[nn.Module] = []
    for c_in, c_out, kernel, stride, groups in sizes:
        layers += [weight_norm(nn.Conv1d(c_in, c_out, kernel, stride, kernel // 2, groups=groups)), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, weight_norm(nn.Conv1d(1024, 1, 3, padding=1)))


class SpectralBlock(nn.Module):
    """A residual block of SNGAN's discriminator (Miyato et al. 2018, arXiv 1802.05957, Appendix B)."""

    def __init__(self, c_in: int, c_out: int, down: bool) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(c_in, c_out, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(c_in, c_out, 1))
        self.pool: nn.Module = nn.AvgPool2d(2) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(F.relu(x))))
        return self.pool(y) + self.pool(self.shortcut(x))  # type: ignore[no-any-return]


def sngan() -> nn.Module:
    """The residual blocks of SNGAN's discriminator for 32 × 32 images (Miyato et al. 2018, Table 4)."""
    blocks = [SpectralBlock(128 if i else 3, 128, i < 2) for i in range(4)]
    return nn.Sequential(*blocks, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), spectral_norm(nn.Linear(128, 1)))


class SPADE(nn.Module):
    """Park et al. 2019, "Semantic image synthesis with spatially-adaptive normalization", arXiv 1903.07291, Fig. 3."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Sequential(nn.Conv2d(labels, 128, 3, padding=1), nn.ReLU())
        self.gamma, self.beta = (nn.Conv2d(128, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, label_map: Tensor) -> Tensor:
        shared = self.shared(label_map)
        return self.norm(x) * (1 + self.gamma(shared)) + self.beta(shared)  # type: ignore[no-any-return]


class SPADEBlock(nn.Module):
    """SPADE's residual block (Park et al. 2019, Fig. 4 left), from ``channels`` to as many, at one resolution.

    Its input holds the feature map and the label map, one after the other.
    """

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.channels = channels
        self.norms = nn.ModuleList(SPADE(channels, labels) for _ in range(2))
        self.convs = nn.ModuleList(spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2))

    def forward(self, both: Tensor) -> Tensor:
        x, label_map = both[:, : self.channels], both[:, self.channels :]
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.leaky_relu(norm(y, label_map), 0.2))
        return x + y


#: By name; a name says where the network is smaller than its authors'.
NETWORKS = {
    "ResNet-18": Network(resnet18, (3, 224, 224)),
    "MobileNetV2": Network(mobilenet_v2, (3, 224, 224)),
    "EdgeConnect's generator": Network(edge_connect, (4, 256, 256)),
    "ESRGAN's generator, 2 of 23 blocks": Network(lambda: ESRGAN(2), (3, 32, 32)),
    "HiFi-GAN's generator": Network(HiFiGAN, (80, 32)),
    "HiFi-GAN's scale discriminator": Network(scale_discriminator, (1, 8192)),
    "SNGAN's discriminator": Network(sngan, (3, 32, 32)),
    "SPADE's block": Network(lambda: SPADEBlock(128, 36), (128 + 36, 64, 64)),
}

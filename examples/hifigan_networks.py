"""HiFi-GAN's networks (Kong et al., 2020), after github.com/jik876/hifi-gan; ``hifigan.py`` trains them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sound import MELS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.1


class ResBlock(nn.Module):
    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int] = (1, 3, 5)) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            padding = dilation * (kernel_size - 1) // 2
            return weight_norm(nn.Conv1d(channels, channels, kernel_size, 1, padding, dilation))

        self.convs1 = nn.ModuleList([conv(dilation) for dilation in dilations])
        self.convs2 = nn.ModuleList([conv(1) for _ in dilations])

    def forward(self, x: Tensor) -> Tensor:
        for c1, c2 in zip(self.convs1, self.convs2, strict=True):
            xt = c1(F.leaky_relu(x, SLOPE))
            xt = c2(F.leaky_relu(xt, SLOPE))
            x = xt + x
        return x


class Generator(nn.Module):
    """(N, MELS, T) → (N, 1, T · HOP)."""

    def __init__(self, width: int, rates: Sequence[int] = (8, 4, 2), kernels: Sequence[int] = (3, 7)) -> None:
        super().__init__()
        self.kernels = len(kernels)
        self.conv_pre = weight_norm(nn.Conv1d(MELS, width, 7, padding=3))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate in rates:
            self.ups.append(weight_norm(nn.ConvTranspose1d(width, width // 2, 2 * rate, rate, padding=rate // 2)))
            width //= 2
            self.resblocks.extend(ResBlock(width, kernel) for kernel in kernels)
        self.conv_post = weight_norm(nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            blocks = self.resblocks[i * self.kernels : (i + 1) * self.kernels]
            x = sum(block(x) for block in blocks) / self.kernels
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


class _Discriminator(nn.Module):
    convs: nn.ModuleList
    conv_post: nn.Module

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.convs:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        x = self.conv_post(x)
        return torch.flatten(x, 1), [*features, x]


class PeriodDiscriminator(_Discriminator):
    """Its input is the sound as a matrix with ``period`` samples in each row."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        sizes = [1, width, width * 4, width * 16, width * 32]
        convs = [weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0))) for a, b in itertools.pairwise(sizes)]
        self.convs = nn.ModuleList([*convs, weight_norm(nn.Conv2d(sizes[-1], sizes[-1], (5, 1), 1, (2, 0)))])
        self.conv_post = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.pad(x, (0, -x.shape[2] % self.period), "reflect")
        return super().forward(x.view(len(x), 1, -1, self.period))


class ScaleDiscriminator(_Discriminator):
    """Its input is the sound averaged over ``pool`` samples."""

    def __init__(self, pool: int, width: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool1d(2 * pool, pool, padding=pool) if pool > 1 else nn.Identity()
        w = width
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(a, b, kernel, stride, kernel // 2, groups=groups))
            for a, b, kernel, stride, groups in (
                (1, 4 * w, 15, 1, 1),
                (4 * w, 4 * w, 41, 2, 4),
                (4 * w, 8 * w, 41, 2, 4),
                (8 * w, 16 * w, 41, 4, 4),
                (16 * w, 16 * w, 5, 1, 1),
            )
        )
        self.conv_post = weight_norm(nn.Conv1d(16 * w, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return super().forward(self.pool(x))

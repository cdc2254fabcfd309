"""Usual chains of layers with settings that are easily overlooked."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from zoo.network import Inputs, images, network


def _of(*layers: nn.Module, given: Tensor | None = None) -> tuple[nn.Module, Inputs]:
    return nn.Sequential(*layers), (images(10) if given is None else given,)


def _threes(count: int) -> list[str]:
    return [f"{3 * i} {3 * i + 1} {3 * i + 2}" for i in range(count)]


@network("convolutions with every setting: bias, padding mode, dilation, groups, tuples, padding by name", _threes(10))
def conv_settings() -> tuple[nn.Module, Inputs]:
    convs = [
        nn.Conv2d(3, 4, 3, bias=True),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(6, 6, (3, 5), stride=(1, 2), padding=(1, 2), bias=False),
        nn.Conv2d(6, 4, (4, 3), padding="same"),
        nn.Conv2d(4, 4, (3, 5), padding="same", dilation=(2, 1), bias=False),
        nn.Conv2d(4, 4, (3, 5), padding="same", padding_mode="replicate"),
        nn.Conv2d(4, 4, 3, padding="valid", bias=False),
        nn.Conv2d(4, 4, 3, padding=(2, 1), padding_mode="circular", bias=False),
    ]
    return _of(*(layer for conv in convs for layer in (conv, nn.BatchNorm2d(conv.out_channels), nn.LeakyReLU(0.2))))


@network("transposed convolutions with every setting", _threes(4))
def transposed_settings() -> tuple[nn.Module, Inputs]:
    convs = [
        nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2, bias=False),
        nn.ConvTranspose2d(6, 4, (3, 2), stride=(1, 2), output_padding=(0, 1), bias=False),
        nn.ConvTranspose2d(4, 4, 3, dilation=2, bias=False),
    ]
    layers = [layer for conv in convs for layer in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())]
    return _of(*layers, given=images(4))


@network("batch norms with every setting", _threes(6), {"9": "cumulative average: the momentum changes at each call"})
def norm_settings() -> tuple[nn.Module, Inputs]:
    norms = [
        nn.BatchNorm2d(3, eps=0.3),
        nn.BatchNorm2d(3, momentum=0.7),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3, affine=False, track_running_stats=False),
    ]
    return _of(*(layer for norm in norms for layer in (nn.Conv2d(3, 3, 3, padding=1, bias=False), norm, nn.ReLU())))


@network("instance norms with every setting", _threes(5))
def instance_norm_settings() -> tuple[nn.Module, Inputs]:
    norms = [
        nn.InstanceNorm2d(3),
        nn.InstanceNorm2d(3, affine=True, eps=0.1),
        nn.InstanceNorm2d(3, track_running_stats=True, momentum=0.4),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        nn.InstanceNorm2d(3, track_running_stats=True, momentum=0.0),
    ]
    return _of(*(layer for norm in norms for layer in (nn.Conv2d(3, 3, 3, padding=1), norm, nn.LeakyReLU(0.2))))


@network(
    "activations after the norm, of all kinds",
    [
        *(f"{3 * i} {3 * i + 1} {3 * i + 2}" for i in range(4)),
        *(f"{3 * i} {3 * i + 1}" for i in range(4, 13)),
    ],
    {f"{3 * i + 2}": "neither a ReLU nor a LeakyReLU" for i in range(4, 13)},
)
def activations() -> tuple[nn.Module, Inputs]:
    acts = [
        nn.ReLU(),
        nn.LeakyReLU(),
        nn.LeakyReLU(0.0),
        nn.LeakyReLU(1.5),
        nn.PReLU(),
        nn.ELU(),
        nn.Tanh(),
        nn.GELU(),
        nn.SiLU(),
        nn.ReLU6(),
        nn.Hardtanh(),
        nn.Softplus(),
        nn.Identity(),
    ]
    return _of(*(layer for act in acts for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), act)))


@network(
    "norms of other kinds after a convolution",
    [],
    {str(i): "neither a batch nor an instance norm" for i in (1, 4, 7, 10)},
)
def other_norms() -> tuple[nn.Module, Inputs]:
    norms = [nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6]), nn.LocalResponseNorm(2), nn.GroupNorm(4, 4)]
    return _of(
        *(layer for norm in norms for layer in (nn.Conv2d(4, 4, 3, padding=1), norm, nn.ReLU())), given=images(6, 4)
    )


@network(
    "spectral and weight norm, the older ones and by parametrisation, before a batch norm",
    _threes(5),
    {
        str(i): "its weight is computed at each call, which in training mode also updates the power iteration once"
        for i in (0, 3, 6, 9, 12)
    },
)
def reparametrised() -> tuple[nn.Module, Inputs]:
    convs = [
        spectral_norm(nn.Conv2d(3, 3, 3, padding=1)),
        weight_norm(nn.Conv2d(3, 3, 3, padding=1, bias=False)),
        parametrizations.spectral_norm(nn.Conv2d(3, 3, 3, padding=1, bias=False)),
        parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1)),
        spectral_norm(nn.ConvTranspose2d(3, 3, 4, 2, 1, bias=False)),
    ]
    return _of(*(layer for conv in convs for layer in (conv, nn.BatchNorm2d(3), nn.LeakyReLU(0.2))))


class ScaledConv2d(nn.Conv2d):
    """Equalised learning rate, as a subclass."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight * 0.5, self.bias, self.stride, self.padding)


class StandardisedConv2d(nn.Conv2d):
    """Weight standardisation."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        return super()._conv_forward(input, weight, bias)


class ClampedBatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).clamp(-1, 1)


class DoubledReLU(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class PlainSubclass(nn.Conv2d):
    """A subclass with another constructor and the same computation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)


@network(
    "subclasses of PyTorch's layers, with and without their own forward",
    ["1 2", "4 5", "6", "9 10", "12 13 14"],
    {
        "0": "it has its own forward, which computes something else than Conv2d",
        "3": "it overrides what Conv2d's forward calls",
        "7": "it has its own forward",
        "11": "it has its own forward",
    },
)
def subclasses() -> tuple[nn.Module, Inputs]:
    return _of(
        ScaledConv2d(3, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        StandardisedConv2d(3, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, padding=1),
        ClampedBatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        DoubledReLU(),
        PlainSubclass(3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
    )


class FrozenNorms(nn.Module):
    """Batch norms that stay in eval mode, their parameters fixed, whatever the network's mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        )
        for part in self.net:
            if isinstance(part, nn.BatchNorm2d):
                part.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> FrozenNorms:
        super().train(mode)
        self.net[1].eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@network(
    "frozen batch norm: train() keeps a norm in eval mode",
    ["net.0 net.1 net.2", "net.3 net.4"],
    {"net.1": "in eval mode while the network and its convolution are in training mode: the norm's own flag counts"},
)
def frozen_norm() -> tuple[nn.Module, Inputs]:
    return FrozenNorms(), (images(8),)


@network(
    "a frozen convolution with a trained norm, and the reverse",
    ["0 1 2", "3 4 5"],
    {"0": "does not require a gradient: it must not get one", "4": "likewise"},
)
def frozen_parameters() -> tuple[nn.Module, Inputs]:
    model, inputs = _of(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    )
    model[0].requires_grad_(False)
    model[4].requires_grad_(False)
    return model, inputs


@network(
    "Linear → BatchNorm1d over a sequence (N, L, F), where dimension 1 is normalised, which is L and not the features",
    ["1 2"],
    {"0": "BatchNorm1d's channels are the second dimension, the Linear's features the last"},
)
def linear_over_sequence() -> tuple[nn.Module, Inputs]:
    return _of(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), given=torch.randn(4, 5, 6))


@network("BatchNorm1d on (N, C) and on (N, C, L)", ["0 1 2", "4 5"])
def batch_norm_1d() -> tuple[nn.Module, Inputs]:
    return _of(
        nn.Linear(6, 4),
        nn.BatchNorm1d(4),
        nn.LeakyReLU(0.2),
        nn.Unflatten(1, (2, 2)),
        nn.BatchNorm1d(2),
        nn.ReLU(),
        nn.Conv1d(2, 3, 1),
        given=torch.randn(5, 6),
    )


class Unbatched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), self.net(x[0])


@network("an image without a batch dimension, which convolution and instance norm accept", ["net.0 net.1 net.2"])
def unbatched() -> tuple[nn.Module, Inputs]:
    return Unbatched(), (images(8),)


class OutputSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x, output_size=(x.shape[2] * 2, x.shape[3] * 2))))


@network("a transposed convolution that gets its output's size at the call", ["conv norm act"])
def output_size() -> tuple[nn.Module, Inputs]:
    return OutputSize(), (images(5),)


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x.contiguous(memory_format=torch.channels_last)))


@network("conversion to channels_last between layers", ["net.0 net.1 net.2"])
def channels_last() -> tuple[nn.Module, Inputs]:
    return ChannelsLast(), (images(6),)


@network("lazy layers, made at the first call", ["0 1 2"])
def lazy() -> tuple[nn.Module, Inputs]:
    model, inputs = _of(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    model(*inputs)
    return model, inputs

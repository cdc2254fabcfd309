"""Usual layers, used in ways that forbid fusing some of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.network import Inputs, images, network


class ConvTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(self.norm(y)) + y


@network(
    "the convolution's output is used twice: a skip connection around norm and activation",
    ["norm act"],
    {"conv": "its own output is needed too"},
)
def conv_output_used_twice() -> tuple[nn.Module, Inputs]:
    return ConvTwice(), (images(6),)


class NormTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.norm2, self.act2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        x = self.act(y) + y
        y = self.norm2(self.conv2(x))
        return self.act2(y) + y  # in-place: now y is activated


@network(
    "the norm's output is used twice, once after an in-place activation",
    ["conv norm", "conv2 norm2 act2"],
    {
        "act": "the values before it are needed too",
        "act2": "both terms of the sum are its output",
    },
)
def norm_output_used_twice() -> tuple[nn.Module, Inputs]:
    return NormTwice(), (images(6),)


class SharedParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm1, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.conv_a, self.conv_b, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv(x)))
        x = F.relu(self.norm2(self.conv(x)))  # the convolution again, another norm
        x = F.relu(self.norm(self.conv_a(x)))
        x = F.leaky_relu(self.norm(self.conv_b(x)), 0.2)  # the norm again, another convolution
        return self.block(self.block(x))


@network(
    "a convolution with two norms, a norm with two convolutions and two activations, a block called twice",
    ["norm1 F.relu", "norm2 F.relu", "norm F.relu", "norm F.leaky_relu(0.2)", "block.0 block.1 block.2"],
    {
        "conv": "another norm follows each time",
        "norm": "each time another convolution comes before it and another activation after it; its running "
        "statistics are updated twice",
    },
)
def shared_parts() -> tuple[nn.Module, Inputs]:
    return SharedParts(), (images(6),)


@network(
    "one module at several places of a Sequential",
    ["0 1 2", "3 4 5"],
    {"0": "also at 3, and so on: state_dict has both names"},
)
def repeated_objects() -> tuple[nn.Module, Inputs]:
    conv, norm, act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
    return nn.Sequential(conv, norm, act, conv, norm, act), (images(6),)


@network(
    "one weight in two convolutions, one scale in two norms",
    ["0 1 2", "3 4 5"],
    {"3": "it shares the weight of 0, and must go on sharing it: the gradient is the sum of both"},
)
def tied_weights() -> tuple[nn.Module, Inputs]:
    layers = [layer for _ in range(2) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())]
    layers[3].weight = layers[0].weight
    layers[4].weight = layers[1].weight
    return nn.Sequential(*layers), (images(6),)


@network(
    "another layer between the usual three",
    ["0 1", "3", "7 8", "10", "12 13 14"],
    {
        "2": "a dropout: what follows it is not in the chain",
        "5": "pooling between a convolution and a norm",
        "11": "an activation before the norm, not after it",
    },
)
def in_between() -> tuple[nn.Module, Inputs]:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Dropout(0.3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AvgPool2d(2),
        nn.Upsample(scale_factor=2),
        nn.InstanceNorm2d(4),
        nn.ReLU(),
        nn.Flatten(0, 0),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        nn.LeakyReLU(0.5),
    )
    return model, (images(6),)


class CollectsByType(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for _, layer in self.features.named_children():
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found


@network(
    "VGG features: isinstance(layer, nn.ReLU) decides what is kept",
    ["features.0 features.1 features.2", "features.3 features.4 features.5"],
    {"features.2": "found by its class: it has to stay an nn.ReLU", "features.5": "the same"},
)
def collects_by_type() -> tuple[nn.Module, Inputs]:
    return CollectsByType(), (images(8),)


class LooksInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
        self.apply(_init)

    def penalty(self) -> Tensor:
        return sum((m.weight**2).sum() for m in self.modules() if isinstance(m, nn.Conv2d))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.main[:3](x)
        y = self.main[-1](h)
        mean = self.main[1].running_mean.detach().clone()
        return y, self.main[0].weight.norm() * len(self.main) + self.main[0].out_channels, mean


def _init(m: nn.Module) -> None:
    classname = m.__class__.__name__
    if classname.find("Conv") != -1:
        m.weight.data.normal_(0.0, 0.2)
    elif classname.find("BatchNorm") != -1:
        m.weight.data.normal_(1.0, 0.02)
        m.bias.data.fill_(0)


@network(
    "reads its own modules: slices, indices, weights, statistics, isinstance over modules()",
    ["main.0 main.1 main.2"],
    {"main.0": "penalty() looks for Conv2d", "main.1": "its running_mean is read"},
    {"penalty": lambda module, inputs: module.penalty(), "a slice": lambda module, inputs: module.main[:1](*inputs)},
)
def looks_inside() -> tuple[nn.Module, Inputs]:
    return LooksInside(), (images(8),)


class Hooked(nn.Module):
    """Features collected by hooks, as perceptual losses and pruning tools do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.seen: dict[str, Tensor] = {}
        self.first[1].register_forward_hook(self.keep)
        self.second[1].register_forward_pre_hook(self.doubled)
        self.third.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen[type(module).__name__] = output

    @staticmethod
    def doubled(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return 2 * inputs[0] + 1

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.third(self.second(self.first(x)))
        return y, self.seen["BatchNorm2d"], self.seen["Sequential"]


@network(
    "forward hooks: one reads the norm's output, one changes the norm's input, one is on a whole block",
    ["first.0 first.1", "second.1 second.2", "third.0 third.1 third.2"],
    {
        "first.1": "a hook reads its output",
        "second.0": "a hook changes its output before the norm",
    },
)
def hooked() -> tuple[nn.Module, Inputs]:
    return Hooked(), (images(8),)


@network("nn.DataParallel around it", ["module.0 module.1 module.2"])
def data_parallel() -> tuple[nn.Module, Inputs]:
    return nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())), (images(8),)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.alias = self.encoder  # the same block under a second name
        self.conv = self.encoder[0]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.encoder(a) - self.alias(b) + self.conv(a)


@network(
    "a block with two names; its convolution has a third, by which it is called alone",
    ["encoder.0 encoder.1 encoder.2"],
    {"encoder.0": "called alone as conv: then it must return the convolution's output"},
)
def siamese() -> tuple[nn.Module, Inputs]:
    return Siamese(), (images(8), images(8))


class Reordered(nn.Module):
    """Its layers are registered in another order than called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.bn2(x)
        return self.bn1(self.conv2(x).permute(0, 1, 3, 2))


@network(
    "called in another order than registered",
    [],
    {
        "conv1": "an activation follows, despite the names",
        "bn1": "a transposition comes between conv2 and it",
        "bn2": "an activation comes before it",
    },
)
def reordered() -> tuple[nn.Module, Inputs]:
    return Reordered(), (images(6),)


class Wgan(nn.Module):
    """A critic with a penalty of its input gradient, which needs second derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 1, 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)

    def penalty(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        out = self(x)
        (grad,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)
        return ((grad.flatten(1).norm(dim=1) - 1) ** 2).mean()


@network(
    "WGAN-GP: second derivatives",
    ["main.0 main.1 main.2"],
    {},
    {"gradient penalty": lambda module, inputs: module.penalty(*inputs)},
)
def gradient_penalty() -> tuple[nn.Module, Inputs]:
    return Wgan(), (images(12),)


class InPlaceInput(nn.Module):
    """Its first activation changes the caller's tensor in place."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1
        out = self.norm(self.conv(self.relu(y)))
        out += y
        return self.relu(out)


@network(
    "an in-place activation before the convolution, and an in-place sum into the norm's output",
    ["conv norm"],
    {"relu": "changes y, which is added afterwards"},
)
def in_place_skip() -> tuple[nn.Module, Inputs]:
    return InPlaceInput(), (images(6),)

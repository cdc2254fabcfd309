"""Layers as attributes, called one by one in ``forward``; activations often as functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.network import Inputs, images, network


class NamedGenerator(nn.Module):
    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.deconv1 = nn.ConvTranspose2d(8, d * 4, 4, 1, 0)
        self.deconv1_bn = nn.BatchNorm2d(d * 4)
        self.deconv2 = nn.ConvTranspose2d(d * 4, d * 2, 4, 2, 1)
        self.deconv2_bn = nn.BatchNorm2d(d * 2)
        self.deconv3 = nn.ConvTranspose2d(d * 2, 1, 4, 2, 1)

    def weight_init(self, mean: float, std: float) -> None:
        for m in self._modules:
            layer = self._modules[m]
            if isinstance(layer, nn.ConvTranspose2d | nn.Conv2d):
                layer.weight.data.normal_(mean, std)

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.deconv1_bn(self.deconv1(input)))
        x = F.relu(self.deconv2_bn(self.deconv2(x)))
        return torch.tanh(self.deconv3(x))


@network(
    "znxlwm/pytorch-MNIST-CelebA-GAN-DCGAN generator: F.relu(self.bn(self.conv(x)))",
    ["deconv1 deconv1_bn F.relu", "deconv2 deconv2_bn F.relu"],
)
def named_generator() -> tuple[nn.Module, Inputs]:
    model = NamedGenerator()
    model.weight_init(mean=0.0, std=0.1)
    return model, (torch.randn(4, 8, 1, 1),)


class NamedDiscriminator(nn.Module):
    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, d, 4, 2, 1)
        self.conv2 = nn.Conv2d(d, d * 2, 4, 2, 1)
        self.conv2_bn = nn.BatchNorm2d(d * 2)
        self.conv3 = nn.Conv2d(d * 2, 1, 4, 1, 0)

    def forward(self, input: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(input), 0.2)
        x = F.leaky_relu(self.conv2_bn(self.conv2(x)), 0.2)
        return torch.sigmoid(self.conv3(x))


@network("znxlwm/pytorch-MNIST-CelebA-GAN-DCGAN discriminator", ["conv2 conv2_bn F.leaky_relu(0.2)"])
def named_discriminator() -> tuple[nn.Module, Inputs]:
    return NamedDiscriminator(), (images(16),)


class ManyReluSpellings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(7)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(3) for _ in range(7)])

    def forward(self, x: Tensor) -> Tensor:
        c, n = self.convs, self.norms
        x = torch.relu(n[0](c[0](x)))
        x = n[1](c[1](x)).relu()
        x = F.relu_(n[2](c[2](x)))
        x = F.relu(n[3](c[3](x)), inplace=True)
        x = n[4](c[4](x)).clamp(min=0)
        x = F.leaky_relu(input=n[5](c[5](x)), negative_slope=0.1, inplace=True)
        y = n[6](c[6](x))
        return torch.max(y, 0.3 * y)


@network(
    "every way of writing the activation",
    [
        "convs.0 norms.0 torch.relu",
        "convs.1 norms.1 Tensor.relu",
        "convs.2 norms.2 F.relu_",
        "convs.3 norms.3 F.relu",
        "convs.4 norms.4",
        "convs.5 norms.5 F.leaky_relu(0.1)",
        "convs.6 norms.6",
    ],
)
def relu_spellings() -> tuple[nn.Module, Inputs]:
    return ManyReluSpellings(), (images(6),)


class BasicBlock(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inplanes = 4
        self.conv1 = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(4, 1)
        self.layer2 = self._make_layer(8, 2, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, 5)

    def _make_layer(self, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        downsample = None
        if stride != 1 or self.inplanes != planes:
            conv1x1 = nn.Conv2d(self.inplanes, planes, kernel_size=1, stride=stride, bias=False)
            downsample = nn.Sequential(conv1x1, nn.BatchNorm2d(planes))
        layers = [BasicBlock(self.inplanes, planes, stride, downsample)]
        self.inplanes = planes
        for _ in range(1, blocks):
            layers.append(BasicBlock(planes, planes))
        return nn.Sequential(*layers)

    def features(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer2(self.layer1(self.maxpool(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        x = torch.flatten(x, 1)
        return self.fc(x)


@network(
    "torchvision ResNet: one self.relu called at two places, out += identity",
    [
        "conv1 bn1 relu",
        *(f"layer{b}.conv1 layer{b}.bn1 layer{b}.relu" for b in ("1.0", "2.0", "2.1")),
        *(f"layer{b}.conv2 layer{b}.bn2" for b in ("1.0", "2.0", "2.1")),
        "layer2.0.downsample.0 layer2.0.downsample.1",
    ],
    {
        "layer1.0.relu": "also called after the sum, where it must still work",
        "layer1.0.bn2": "a sum stands between it and the activation; += writes into its output",
    },
    {"a method besides forward": lambda module, inputs: module.features(*inputs)},
)
def resnet() -> tuple[nn.Module, Inputs]:
    return ResNet(), (images(32),)


class DoubleConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc = DoubleConv(3, 4)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(4, 8))
        self.up = nn.ConvTranspose2d(8, 4, kernel_size=2, stride=2)
        self.conv = DoubleConv(8, 4)
        self.outc = nn.Conv2d(4, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.up(self.down1(x1))
        diff_y = x1.size()[2] - x2.size()[2]
        diff_x = x1.size()[3] - x2.size()[3]
        x2 = F.pad(x2, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
        return self.outc(self.conv(torch.cat([x1, x2], dim=1)))


@network(
    "milesial/Pytorch-UNet: code that depends on sizes; a block's output is used twice",
    [
        f"{block}.double_conv.{i} {block}.double_conv.{i + 1} {block}.double_conv.{i + 2}"
        for block in ("inc", "down1.1", "conv")
        for i in (0, 3)
    ],
)
def unet() -> tuple[nn.Module, Inputs]:
    return UNet(), (images(11),)


class ModuleLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.bns = nn.ModuleList()
        for i in range(3):
            self.convs.append(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1))
            self.bns.append(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        for conv, bn in zip(self.convs, self.bns, strict=True):
            x = F.leaky_relu(bn(conv(x)), 0.2)
        return x


@network("ModuleLists of convolutions and of norms", [f"convs.{i} bns.{i} F.leaky_relu(0.2)" for i in range(3)])
def module_lists() -> tuple[nn.Module, Inputs]:
    return ModuleLists(), (images(6),)


class LayerLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU()]
        )
        self.index_of_skip = 3

    def forward(self, x: Tensor) -> list[Tensor]:
        kept = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index == self.index_of_skip:
                kept.append(x)
        return [*kept, x]


@network(
    "a ModuleList called in sequence; one layer's output is kept",
    ["layers.0 layers.1 layers.2", "layers.4 layers.5"],
    {"layers.3": "its output is an output of the network"},
)
def layer_loop() -> tuple[nn.Module, Inputs]:
    return LayerLoop(), (images(9),)


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for i in range(2):
            self.layers[f"conv{i}"] = nn.Conv2d(3, 3, 3, padding=1, bias=False)
            self.layers[f"norm{i}"] = nn.InstanceNorm2d(3, affine=True)
        self.act = {"relu": F.relu, "lrelu": lambda x: F.leaky_relu(x, 0.1)}

    def forward(self, x: Tensor) -> Tensor:
        for i, kind in enumerate(("lrelu", "relu")):
            x = self.layers[f"conv{i}"](x)
            x = self.layers[f"norm{i}"](x)
            x = self.act[kind](x)
        return x


@network(
    "a ModuleDict by f-string, activations from a dictionary of functions",
    ["layers.conv0 layers.norm0 F.leaky_relu(0.1)", "layers.conv1 layers.norm1 F.relu"],
)
def module_dict() -> tuple[nn.Module, Inputs]:
    return ByName(), (images(6),)


class ControlFlow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.small = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.training:
            x = x * 1.5
        if x.shape[2] > 6:
            x = F.avg_pool2d(x, 2)
            x = F.relu(self.bn2(self.conv2(x)))
        else:
            x = self.small(x)
        return x if skip else x + x.mean()


@network(
    "control flow by training mode, by size and by argument",
    ["conv1 bn1 F.relu", "conv2 bn2 F.relu", "small.0 small.1 small.2"],
    {},
    {
        "the other size": lambda module, inputs: module(inputs[0][..., :5, :5]),
        "another argument": lambda module, inputs: module(inputs[0], skip=True),
    },
)
def control_flow() -> tuple[nn.Module, Inputs]:
    return ControlFlow(), (images(10),)


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2))
        self.to_mean, self.to_logvar = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.dec_conv = nn.ConvTranspose2d(2, 4, 4, 2, 1)
        self.dec_norm = nn.BatchNorm2d(4)
        self.out = nn.Conv2d(4, 3, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.enc(x)
        return self.to_mean(h), self.to_logvar(h)

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(self.out(F.relu(self.dec_norm(self.dec_conv(z)))))

    def forward(self, x: Tensor, mode: str = "both") -> dict[str, Tensor] | Tensor:
        if mode == "encode":
            return self.encode(x)[0]
        mean, logvar = self.encode(x)
        return {"mean": mean, "logvar": logvar, "rebuilt": self.decode(mean)}


@network(
    "VAE-GAN, AttGAN: encode and decode beside forward, forward(x, mode=…), a dictionary of outputs",
    ["enc.0 enc.1 enc.2", "dec_conv dec_norm F.relu"],
    {},
    {
        "encode": lambda module, inputs: module.encode(*inputs),
        "decode": lambda module, inputs: module.decode(inputs[0][:, :2]),
        "mode": lambda module, inputs: module(*inputs, mode="encode"),
    },
)
def encoder_decoder() -> tuple[nn.Module, Inputs]:
    return EncoderDecoder(), (images(8),)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, x, use_reentrant=False))


@network("activation checkpointing: the block runs again in the backward pass", ["block.0 block.1 block.2"])
def checkpointed() -> tuple[nn.Module, Inputs]:
    return Checkpointed(), (images(6),)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.image_norm = nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4)
        self.label, self.label_norm = nn.Embedding(5, 4), nn.BatchNorm1d(4)
        self.fc1, self.fc1_norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.relu(self.image_norm(self.image(x))).mean((2, 3))
        e = self.relu(self.label_norm(self.label(y)))
        return self.relu(self.fc1_norm(self.fc1(h + e))), e


@network(
    "an image and a label as inputs; a norm after an embedding; Linear → BatchNorm1d",
    ["image image_norm relu", "label_norm relu", "fc1 fc1_norm relu"],
)
def two_inputs() -> tuple[nn.Module, Inputs]:
    return TwoInputs(), (images(6, batch=4), torch.tensor([0, 2, 4, 2]))

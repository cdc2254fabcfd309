"""Image-to-image networks: lists extended with ``+=``, recursion, features from inner layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.network import Inputs, images, network

INSTANCE = functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
BATCH = functools.partial(nn.BatchNorm2d, affine=True, track_running_stats=True)
NormLayer = Callable[[int], nn.Module]


class ResnetBlock(nn.Module):
    def __init__(
        self, dim: int, padding_type: str, norm_layer: NormLayer, activation: nn.Module, use_dropout: bool = False
    ) -> None:
        super().__init__()
        self.conv_block = self.build_conv_block(dim, padding_type, norm_layer, activation, use_dropout)

    def build_conv_block(
        self, dim: int, padding_type: str, norm_layer: NormLayer, activation: nn.Module, use_dropout: bool
    ) -> nn.Sequential:
        conv_block: list[nn.Module] = []
        p = 0
        if padding_type == "reflect":
            conv_block += [nn.ReflectionPad2d(1)]
        elif padding_type == "replicate":
            conv_block += [nn.ReplicationPad2d(1)]
        else:
            p = 1
        conv_block += [nn.Conv2d(dim, dim, kernel_size=3, padding=p), norm_layer(dim), activation]
        if use_dropout:
            conv_block += [nn.Dropout(0.5)]
        conv_block += [nn.Conv2d(dim, dim, kernel_size=3, padding=1), norm_layer(dim)]
        return nn.Sequential(*conv_block)

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.conv_block(x)
        return out


class ResnetGenerator(nn.Module):
    def __init__(self, norm_layer: NormLayer, ngf: int = 4, n_blocks: int = 2, use_dropout: bool = False) -> None:
        super().__init__()
        if type(norm_layer) is functools.partial:
            use_bias = norm_layer.func == nn.InstanceNorm2d
        else:
            use_bias = norm_layer == nn.InstanceNorm2d
        model = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, ngf, kernel_size=7, padding=0, bias=use_bias),
            norm_layer(ngf),
            nn.ReLU(True),
        ]
        model += [
            nn.Conv2d(ngf, ngf * 2, kernel_size=3, stride=2, padding=1, bias=use_bias),
            norm_layer(ngf * 2),
            nn.ReLU(True),
        ]
        for _ in range(n_blocks):
            model += [ResnetBlock(ngf * 2, "reflect", norm_layer, nn.ReLU(True), use_dropout)]
        model += [
            nn.ConvTranspose2d(ngf * 2, ngf, kernel_size=3, stride=2, padding=1, output_padding=1, bias=use_bias),
            norm_layer(ngf),
            nn.ReLU(True),
        ]
        model += [nn.ReflectionPad2d(3)]
        model += [nn.Conv2d(ngf, 3, kernel_size=7, padding=0)]
        model += [nn.Tanh()]
        self.model = nn.Sequential(*model)

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)


@network(
    "junyanz/pytorch-CycleGAN-and-pix2pix ResnetGenerator: instance norm without parameters, biased convolutions",
    [
        "model.1 model.2 model.3",
        "model.4 model.5 model.6",
        *(f"model.{b}.conv_block.1 model.{b}.conv_block.2 model.{b}.conv_block.3" for b in (7, 8)),
        *(f"model.{b}.conv_block.4 model.{b}.conv_block.5" for b in (7, 8)),
        "model.9 model.10 model.11",
    ],
)
def resnet_generator() -> tuple[nn.Module, Inputs]:
    return ResnetGenerator(INSTANCE), (images(),)


@network(
    "the same with batch norm and dropout",
    [
        "model.1 model.2 model.3",
        "model.4 model.5 model.6",
        "model.7.conv_block.1 model.7.conv_block.2 model.7.conv_block.3",
        "model.7.conv_block.5 model.7.conv_block.6",
        "model.8 model.9 model.10",
    ],
)
def resnet_generator_batch_norm() -> tuple[nn.Module, Inputs]:
    return ResnetGenerator(BATCH, n_blocks=1, use_dropout=True), (images(),)


class UnetSkipConnectionBlock(nn.Module):
    def __init__(
        self,
        outer_nc: int,
        inner_nc: int,
        input_nc: int | None = None,
        submodule: nn.Module | None = None,
        outermost: bool = False,
        innermost: bool = False,
        norm_layer: NormLayer = BATCH,
        use_dropout: bool = False,
    ) -> None:
        super().__init__()
        self.outermost = outermost
        if input_nc is None:
            input_nc = outer_nc
        downconv = nn.Conv2d(input_nc, inner_nc, kernel_size=4, stride=2, padding=1, bias=False)
        downrelu = nn.LeakyReLU(0.2, True)
        downnorm = norm_layer(inner_nc)
        uprelu = nn.ReLU(True)
        upnorm = norm_layer(outer_nc)
        wide = inner_nc if innermost else inner_nc * 2
        upconv = nn.ConvTranspose2d(wide, outer_nc, kernel_size=4, stride=2, padding=1, bias=outermost)
        if outermost:
            down, up = [downconv], [uprelu, upconv, nn.Tanh()]
            model = [*down, submodule, *up]
        elif innermost:
            down, up = [downrelu, downconv], [uprelu, upconv, upnorm]
            model = down + up
        else:
            down, up = [downrelu, downconv, downnorm], [uprelu, upconv, upnorm]
            model = [*down, submodule, *up, nn.Dropout(0.5)] if use_dropout else [*down, submodule, *up]
        self.model = nn.Sequential(*model)

    def forward(self, x: Tensor) -> Tensor:
        if self.outermost:
            return self.model(x)
        return torch.cat([x, self.model(x)], 1)


class UnetGenerator(nn.Module):
    def __init__(self, norm_layer: NormLayer, ngf: int = 4) -> None:
        super().__init__()
        block = UnetSkipConnectionBlock(ngf * 2, ngf * 2, innermost=True, norm_layer=norm_layer)
        block = UnetSkipConnectionBlock(ngf * 2, ngf * 2, submodule=block, norm_layer=norm_layer, use_dropout=True)
        block = UnetSkipConnectionBlock(ngf, ngf * 2, submodule=block, norm_layer=norm_layer)
        self.model = UnetSkipConnectionBlock(3, ngf, input_nc=3, submodule=block, outermost=True, norm_layer=norm_layer)

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)


_L1, _L2 = "model.model.1.model", "model.model.1.model.3.model"


@network(
    "junyanz/pytorch-CycleGAN-and-pix2pix UnetGenerator: blocks within blocks",
    [
        f"{_L1}.1 {_L1}.2",
        f"{_L1}.5 {_L1}.6",
        f"{_L2}.1 {_L2}.2",
        f"{_L2}.5 {_L2}.6",
        f"{_L2}.3.model.3 {_L2}.3.model.4",
    ],
    {
        f"{_L1}.0": "in-place on the block's input, so that the skip connection concatenates the activated one",
        f"{_L2}.0": "in-place on the output of the norm before it, which the skip connection concatenates afterwards",
    },
)
def unet_generator() -> tuple[nn.Module, Inputs]:
    return UnetGenerator(BATCH), (images(16),)


@network(
    "the same with instance norm",
    [
        f"{_L1}.1 {_L1}.2",
        f"{_L1}.5 {_L1}.6",
        f"{_L2}.1 {_L2}.2",
        f"{_L2}.5 {_L2}.6",
        f"{_L2}.3.model.3 {_L2}.3.model.4",
    ],
    {f"{_L1}.0": "see unet_generator", f"{_L2}.0": "see unet_generator"},
)
def unet_generator_instance_norm() -> tuple[nn.Module, Inputs]:
    return UnetGenerator(INSTANCE), (images(32),)


@network("junyanz/pytorch-CycleGAN-and-pix2pix NLayerDiscriminator", ["2 3 4", "5 6 7"])
def patch_discriminator() -> tuple[nn.Module, Inputs]:
    sequence: list[nn.Module] = [nn.Conv2d(3, 4, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
    sequence += [
        nn.Conv2d(4, 8, kernel_size=4, stride=2, padding=1, bias=False),
        BATCH(8),
        nn.LeakyReLU(0.2, True),
    ]
    sequence += [
        nn.Conv2d(8, 6, kernel_size=4, stride=1, padding=1, bias=False),
        BATCH(6),
        nn.LeakyReLU(0.2, True),
    ]
    sequence += [nn.Conv2d(6, 1, kernel_size=4, stride=1, padding=1)]
    return nn.Sequential(*sequence), (images(20),)


class CutGenerator(nn.Module):
    def __init__(self, ngf: int = 4, norm_layer: NormLayer = INSTANCE) -> None:
        super().__init__()
        model = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, kernel_size=7, padding=0), norm_layer(ngf), nn.ReLU(True)]
        model += [nn.Conv2d(ngf, ngf * 2, kernel_size=3, padding=1), norm_layer(ngf * 2), nn.ReLU(True), Blur(ngf * 2)]
        model += [ResnetBlock(ngf * 2, "reflect", norm_layer, nn.ReLU(True))]
        model += [nn.ReflectionPad2d(3), nn.Conv2d(ngf * 2, 3, kernel_size=7, padding=0), nn.Tanh()]
        self.model = nn.Sequential(*model)

    def forward(self, input: Tensor, layers: Any = (), encode_only: bool = False) -> Any:
        if len(layers) > 0:
            feat = input
            feats = []
            for layer_id, layer in enumerate(self.model):
                feat = layer(feat)
                if layer_id in layers:
                    feats.append(feat)
                if layer_id == layers[-1] and encode_only:
                    return feats
            return feat, feats
        return self.model(input)


class Blur(nn.Module):
    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        one = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(one, one)[None, None].repeat(channels, 1, 1, 1))
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, inp: Tensor) -> Tensor:
        return F.conv2d(self.pad(inp), self.filt, stride=2, groups=inp.shape[1])


@network(
    "taesungp/contrastive-unpaired-translation: enumerate(self.model) collects features and stops early",
    [
        "model.1 model.2 model.3",
        "model.4 model.5 model.6",
        "model.8.conv_block.1 model.8.conv_block.2 model.8.conv_block.3",
        "model.8.conv_block.4 model.8.conv_block.5",
    ],
    {"model.1": "its output, and that of model.2, may be asked for by index; then it cannot be fused"},
    {
        "after convolutions": lambda module, inputs: module(inputs[0], layers=[0, 4, 8], encode_only=True),
        "before in-place activations, which change what was collected": lambda module, inputs: module(
            inputs[0], layers=[1, 2, 5, 6]
        ),
    },
)
def cut_generator() -> tuple[nn.Module, Inputs]:
    return CutGenerator(), (images(16),)


class StarganBlock(nn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(dim_in, dim_out, kernel_size=3, stride=1, padding=1, bias=False),
            nn.InstanceNorm2d(dim_out, affine=True, track_running_stats=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim_out, dim_out, kernel_size=3, stride=1, padding=1, bias=False),
            nn.InstanceNorm2d(dim_out, affine=True, track_running_stats=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


class StarganGenerator(nn.Module):
    def __init__(self, dim: int = 4, c_dim: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        layers.append(nn.Conv2d(3 + c_dim, dim, kernel_size=7, stride=1, padding=3, bias=False))
        layers.append(nn.InstanceNorm2d(dim, affine=True, track_running_stats=True))
        layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(dim, dim * 2, kernel_size=4, stride=2, padding=1, bias=False))
        layers.append(nn.InstanceNorm2d(dim * 2, affine=True, track_running_stats=True))
        layers.append(nn.ReLU(inplace=True))
        layers.append(StarganBlock(dim_in=dim * 2, dim_out=dim * 2))
        layers.append(nn.ConvTranspose2d(dim * 2, dim, kernel_size=4, stride=2, padding=1, bias=False))
        layers.append(nn.InstanceNorm2d(dim, affine=True, track_running_stats=True))
        layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(dim, 3, kernel_size=7, stride=1, padding=3, bias=False))
        layers.append(nn.Tanh())
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        c = c.view(c.size(0), c.size(1), 1, 1)
        c = c.repeat(1, 1, x.size(2), x.size(3))
        x = torch.cat([x, c], dim=1)
        return self.main(x)


@network(
    "yunjey/stargan: instance norm with running statistics, which eval mode uses",
    [
        "main.0 main.1 main.2",
        "main.3 main.4 main.5",
        "main.6.main.0 main.6.main.1 main.6.main.2",
        "main.6.main.3 main.6.main.4",
        "main.7 main.8 main.9",
    ],
)
def stargan_generator() -> tuple[nn.Module, Inputs]:
    return StarganGenerator(), (images(16), torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))

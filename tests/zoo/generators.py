"""Image-to-image networks: lists grown with ``+=``, recursion, several scales, features on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

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
        f"{_L1}.0": "works in place on the block's input, which the skip joins afterwards: activated, that is",
        f"{_L2}.0": "works in place on the output of the norm before it, which the skip connection joins afterwards",
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


class GlobalGenerator(nn.Module):
    def __init__(self, ngf: int = 4, norm_layer: NormLayer = INSTANCE) -> None:
        super().__init__()
        activation = nn.ReLU(True)
        model = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, kernel_size=7, padding=0), norm_layer(ngf), activation]
        for i in range(2):
            mult = 2**i
            model += [
                nn.Conv2d(ngf * mult, ngf * mult * 2, kernel_size=3, stride=2, padding=1),
                norm_layer(ngf * mult * 2),
                activation,
            ]
        model += [ResnetBlock(ngf * 4, "replicate", norm_layer, activation)]
        for i in range(2):
            mult = 2 ** (2 - i)
            model += [
                nn.ConvTranspose2d(ngf * mult, ngf * mult // 2, kernel_size=3, stride=2, padding=1, output_padding=1),
                norm_layer(ngf * mult // 2),
                activation,
            ]
        model += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, kernel_size=7, padding=0), nn.Tanh()]
        self.model = nn.Sequential(*model)

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)


@network(
    "NVIDIA/pix2pixHD GlobalGenerator: one activation object at every place",
    [
        "model.1 model.2 model.3",
        "model.4 model.5 model.6",
        "model.7 model.8 model.9",
        "model.10.conv_block.1 model.10.conv_block.2 model.10.conv_block.3",
        "model.10.conv_block.4 model.10.conv_block.5",
        "model.11 model.12 model.13",
        "model.14 model.15 model.16",
    ],
    {"model.3": "the same object as model.6, model.9 …: a change of one must not change the others"},
)
def shared_activation() -> tuple[nn.Module, Inputs]:
    return GlobalGenerator(), (images(),)


class LocalEnhancer(nn.Module):
    def __init__(self, ngf: int = 4, norm_layer: NormLayer = INSTANCE) -> None:
        super().__init__()
        model_global = GlobalGenerator(ngf * 2, norm_layer).model
        self.model = nn.Sequential(*[model_global[i] for i in range(len(model_global) - 3)])
        down = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, kernel_size=7, padding=0), norm_layer(ngf), nn.ReLU(True)]
        down += [nn.Conv2d(ngf, ngf * 2, kernel_size=3, stride=2, padding=1), norm_layer(ngf * 2), nn.ReLU(True)]
        up: list[nn.Module] = [ResnetBlock(ngf * 2, "reflect", norm_layer, nn.ReLU(True))]
        up += [nn.ConvTranspose2d(ngf * 2, ngf, kernel_size=3, stride=2, padding=1, output_padding=1)]
        up += [norm_layer(ngf), nn.ReLU(True)]
        up += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, kernel_size=7, padding=0), nn.Tanh()]
        setattr(self, "model" + str(1) + "_1", nn.Sequential(*down))
        setattr(self, "model" + str(1) + "_2", nn.Sequential(*up))
        self.downsample = nn.AvgPool2d(3, stride=2, padding=[1, 1], count_include_pad=False)

    def forward(self, input: Tensor) -> Tensor:
        output_prev = self.model(self.downsample(input))
        for n in range(1, 2):
            model_downsample = getattr(self, "model" + str(n) + "_1")
            model_upsample = getattr(self, "model" + str(n) + "_2")
            output_prev = model_upsample(model_downsample(input) + output_prev)
        return output_prev


@network(
    "NVIDIA/pix2pixHD LocalEnhancer: another network's layers in a Sequential, setattr and getattr by number",
    [
        "model.1 model.2 model.3",
        "model.4 model.5 model.6",
        "model.7 model.8 model.9",
        "model.10.conv_block.1 model.10.conv_block.2 model.10.conv_block.3",
        "model.10.conv_block.4 model.10.conv_block.5",
        "model.11 model.12 model.13",
        "model.14 model.15 model.16",
        "model1_1.1 model1_1.2 model1_1.3",
        "model1_1.4 model1_1.5 model1_1.6",
        "model1_2.0.conv_block.1 model1_2.0.conv_block.2 model1_2.0.conv_block.3",
        "model1_2.0.conv_block.4 model1_2.0.conv_block.5",
        "model1_2.1 model1_2.2 model1_2.3",
    ],
)
def local_enhancer() -> tuple[nn.Module, Inputs]:
    return LocalEnhancer(), (images(16),)


def _scales(prefix: str) -> list[str]:
    return [f"scale{i}_layer{j}.0 scale{i}_layer{j}.1 scale{i}_layer{j}.2" for i in range(2) for j in (1, 2)]


class MultiscaleDiscriminator(nn.Module):
    def __init__(self, num_D: int = 2, ndf: int = 4, norm_layer: NormLayer = INSTANCE) -> None:
        super().__init__()
        self.num_D, self.n_layers = num_D, 2
        for i in range(num_D):
            sequence = [[nn.Conv2d(3, ndf, kernel_size=4, stride=2, padding=2), nn.LeakyReLU(0.2, True)]]
            sequence += [
                [nn.Conv2d(ndf, ndf * 2, 4, stride=2, padding=2), norm_layer(ndf * 2), nn.LeakyReLU(0.2, True)]
            ]
            sequence += [[nn.Conv2d(ndf * 2, 6, 4, stride=1, padding=2), norm_layer(6), nn.LeakyReLU(0.2, True)]]
            sequence += [[nn.Conv2d(6, 1, kernel_size=4, stride=1, padding=2)]]
            for j in range(len(sequence)):
                setattr(self, "scale" + str(i) + "_layer" + str(j), nn.Sequential(*sequence[j]))
        self.downsample = nn.AvgPool2d(3, stride=2, padding=[1, 1], count_include_pad=False)

    def singleD_forward(self, model: list[nn.Module], input: Tensor) -> list[Tensor]:
        result = [input]
        for i in range(len(model)):
            result.append(model[i](result[-1]))
        return result[1:]

    def forward(self, input: Tensor) -> list[list[Tensor]]:
        result = []
        input_downsampled = input
        for i in range(self.num_D):
            model = [getattr(self, f"scale{self.num_D - 1 - i}_layer{j}") for j in range(self.n_layers + 2)]
            result.append(self.singleD_forward(model, input_downsampled))
            if i != self.num_D - 1:
                input_downsampled = self.downsample(input_downsampled)
        return result


@network("NVIDIA/pix2pixHD MultiscaleDiscriminator: getattr loops, a list of lists of features", _scales("scale"))
def multiscale_discriminator() -> tuple[nn.Module, Inputs]:
    return MultiscaleDiscriminator(), (images(24),)


class SpadeDiscriminator(nn.Module):
    def __init__(self, ndf: int = 4) -> None:
        super().__init__()

        def norm_layer(layer: nn.Module) -> nn.Module:
            layer = spectral_norm(layer)
            if getattr(layer, "bias", None) is not None:
                delattr(layer, "bias")
                layer.register_parameter("bias", None)
            return nn.Sequential(layer, nn.InstanceNorm2d(layer.out_channels, affine=False))

        sequence: list[list[nn.Module]] = [[nn.Conv2d(3, ndf, 4, stride=2, padding=2), nn.LeakyReLU(0.2, False)]]
        sequence += [[norm_layer(nn.Conv2d(ndf, ndf * 2, 4, stride=2, padding=2)), nn.LeakyReLU(0.2, False)]]
        sequence += [[nn.Conv2d(ndf * 2, 1, 4, stride=1, padding=2)]]
        for n in range(len(sequence)):
            self.add_module("model" + str(n), nn.Sequential(*sequence[n]))

    def forward(self, input: Tensor) -> list[Tensor]:
        results = [input]
        for submodel in self.children():
            results.append(submodel(results[-1]))
        return results[1:]


@network(
    "NVlabs/SPADE NLayerDiscriminator: children() loop, a Sequential in a Sequential, spectral norm, bias taken away",
    ["model1.0.0 model1.0.1 model1.1"],
    {"model1.0.0": "its weight is made anew by a hook before each call, from weight_orig: call it, or leave it"},
)
def spade_discriminator() -> tuple[nn.Module, Inputs]:
    return SpadeDiscriminator(), (images(16),)


class Spade(nn.Module):
    def __init__(self, norm_nc: int, label_nc: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(norm_nc, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(label_nc, 8, kernel_size=3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(8, norm_nc, kernel_size=3, padding=1)
        self.mlp_beta = nn.Conv2d(8, norm_nc, kernel_size=3, padding=1)

    def forward(self, x: Tensor, segmap: Tensor) -> Tensor:
        normalized = self.param_free_norm(x)
        segmap = F.interpolate(segmap, size=x.size()[2:], mode="nearest")
        actv = self.mlp_shared(segmap)
        return normalized * (1 + self.mlp_gamma(actv)) + self.mlp_beta(actv)


class SpadeResnetBlock(nn.Module):
    def __init__(self, fin: int = 4, fout: int = 6, label_nc: int = 3) -> None:
        super().__init__()
        self.conv_0 = spectral_norm(nn.Conv2d(fin, fin, kernel_size=3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(fin, fout, kernel_size=3, padding=1))
        self.conv_s = spectral_norm(nn.Conv2d(fin, fout, kernel_size=1, bias=False))
        self.norm_0, self.norm_1, self.norm_s = Spade(fin, label_nc), Spade(fin, label_nc), Spade(fin, label_nc)

    def forward(self, x: Tensor, seg: Tensor) -> Tensor:
        x_s = self.shortcut(x, seg)
        dx = self.conv_0(self.actvn(self.norm_0(x, seg)))
        dx = self.conv_1(self.actvn(self.norm_1(dx, seg)))
        return x_s + dx

    def shortcut(self, x: Tensor, seg: Tensor) -> Tensor:
        return self.conv_s(self.norm_s(x, seg))

    def actvn(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 2e-1)


@network(
    "NVlabs/SPADE SPADEResnetBlock: scale and shift come from another input, after the norm",
    ["norm_0.param_free_norm", "norm_1.param_free_norm", "norm_s.param_free_norm"],
    {"norm_0.param_free_norm": "scaled and shifted before the activation"},
)
def spade_block() -> tuple[nn.Module, Inputs]:
    return SpadeResnetBlock(), (images(8, 4), images(16, 3))


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
    {"model.1": "what it returns may be asked for by number, as may that of model.2; then it cannot be joined"},
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

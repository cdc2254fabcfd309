"""pix2pixHD's and SPADE's networks: one shared activation module, several scales, modules by index."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from zoo.generators import INSTANCE, NormLayer, ResnetBlock
from zoo.network import Inputs, images, network


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
    "NVIDIA/pix2pixHD GlobalGenerator: one activation module at every place",
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
    "NVIDIA/pix2pixHD LocalEnhancer: another network's layers in a Sequential, setattr and getattr by index",
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
    {"model1.0.0": "a hook computes its weight from weight_orig before each call, so it has to be called"},
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

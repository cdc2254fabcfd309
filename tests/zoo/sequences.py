"""Networks that consist of one ``nn.Sequential`` or a few."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from zoo.network import Inputs, images, network


class DcganGenerator(nn.Module):
    def __init__(self, ngpu: int, nz: int = 8, ngf: int = 4) -> None:
        super().__init__()
        self.ngpu = ngpu
        self.main = nn.Sequential(
            # Z into a convolution
            nn.ConvTranspose2d(nz, ngf * 4, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 4),
            nn.ReLU(True),
            # (ngf*4) x 4 x 4
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            # (ngf*2) x 8 x 8
            nn.ConvTranspose2d(ngf * 2, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cuda and self.ngpu > 1:
            output = nn.parallel.data_parallel(self.main, input, range(self.ngpu))
        else:
            output = self.main(input)
        return output


@network("pytorch/examples dcgan", ["main.0 main.1 main.2", "main.3 main.4 main.5"])
def dcgan_generator() -> tuple[nn.Module, Inputs]:
    return DcganGenerator(ngpu=1), (torch.randn(3, 8, 1, 1),)


class DcganDiscriminator(nn.Module):
    def __init__(self, ngpu: int, ndf: int = 4) -> None:
        super().__init__()
        self.ngpu = ngpu
        self.main = nn.Sequential(
            nn.Conv2d(3, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cuda and self.ngpu > 1:
            output = nn.parallel.data_parallel(self.main, input, range(self.ngpu))
        else:
            output = self.main(input)
        return output.view(-1, 1).squeeze(1)


@network("pytorch/examples dcgan", ["main.2 main.3 main.4"])
def dcgan_discriminator() -> tuple[nn.Module, Inputs]:
    return DcganDiscriminator(ngpu=1), (images(),)


@network(
    "martinarjovsky/WassersteinGAN: add_module with names that are not identifiers",
    [
        "initial:8-16:convt initial:16:batchnorm initial:16:relu",
        "pyramid:16-8:convt pyramid:8:batchnorm pyramid:8:relu",
    ],
)
def wgan_generator() -> tuple[nn.Module, Inputs]:
    main = nn.Sequential()
    main.add_module("initial:8-16:convt", nn.ConvTranspose2d(8, 16, 4, 1, 0, bias=False))
    main.add_module("initial:16:batchnorm", nn.BatchNorm2d(16))
    main.add_module("initial:16:relu", nn.ReLU(True))
    main.add_module("pyramid:16-8:convt", nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False))
    main.add_module("pyramid:8:batchnorm", nn.BatchNorm2d(8))
    main.add_module("pyramid:8:relu", nn.ReLU(True))
    main.add_module("final:8-3:convt", nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False))
    main.add_module("final:3:tanh", nn.Tanh())
    return main, (torch.randn(3, 8, 1, 1),)


@network("OrderedDict, the module itself a Sequential", ["conv norm act"])
def ordered_dict() -> tuple[nn.Module, Inputs]:
    layers = OrderedDict(conv=nn.Conv2d(3, 6, 5, 2, 2), norm=nn.BatchNorm2d(6), act=nn.LeakyReLU(0.2))
    return nn.Sequential(layers), (images(9),)


class MlpGenerator(nn.Module):
    def __init__(self, latent_dim: int = 10, shape: tuple[int, ...] = (1, 4, 4)) -> None:
        super().__init__()
        self.shape = shape

        def block(in_feat: int, out_feat: int, normalize: bool = True) -> list[nn.Module]:
            layers: list[nn.Module] = [nn.Linear(in_feat, out_feat)]
            if normalize:
                layers.append(nn.BatchNorm1d(out_feat, 0.8))  # eps: the original meant momentum
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            return layers

        self.model = nn.Sequential(
            *block(latent_dim, 12, normalize=False), *block(12, 24), *block(24, 20), nn.Linear(20, 16), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        img = self.model(z)
        return img.view(img.size(0), *self.shape)


@network(
    "eriklindernoren/PyTorch-GAN gan: blocks unpacked into Sequential, eps 0.8",
    ["model.2 model.3 model.4", "model.5 model.6 model.7"],
)
def mlp_generator() -> tuple[nn.Module, Inputs]:
    return MlpGenerator(), (torch.randn(5, 10),)


class UpsamplingGenerator(nn.Module):
    def __init__(self, img_size: int = 16, latent_dim: int = 10) -> None:
        super().__init__()
        self.init_size = img_size // 4
        self.l1 = nn.Sequential(nn.Linear(latent_dim, 8 * self.init_size**2))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(8),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 8, 3, stride=1, padding=1),
            nn.BatchNorm2d(8, 0.8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 4, 3, stride=1, padding=1),
            nn.BatchNorm2d(4, 0.8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4, 3, 3, stride=1, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        out = self.l1(z)
        out = out.view(out.shape[0], 8, self.init_size, self.init_size)
        return self.conv_blocks(out)


@network(
    "eriklindernoren/PyTorch-GAN dcgan generator",
    ["conv_blocks.0", "conv_blocks.2 conv_blocks.3 conv_blocks.4", "conv_blocks.6 conv_blocks.7 conv_blocks.8"],
    {"conv_blocks.0": "its input is a reshaped Linear: must not be fused with l1.0"},
)
def upsampling_generator() -> tuple[nn.Module, Inputs]:
    return UpsamplingGenerator(), (torch.randn(3, 10),)


class ActBeforeNormDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def discriminator_block(in_filters: int, out_filters: int, bn: bool = True) -> list[nn.Module]:
            block = [nn.Conv2d(in_filters, out_filters, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(0.25)]
            if bn:
                block.append(nn.BatchNorm2d(out_filters, 0.8))
            return block

        self.model = nn.Sequential(*discriminator_block(3, 4, bn=False), *discriminator_block(4, 8))
        self.adv_layer = nn.Sequential(nn.Linear(8 * 4**2, 1), nn.Sigmoid())

    def forward(self, img: Tensor) -> Tensor:
        out = self.model(img)
        return self.adv_layer(out.view(out.shape[0], -1))


@network(
    "eriklindernoren/PyTorch-GAN dcgan discriminator: activation and dropout before the norm",
    ["model.6"],
    {"model.3": "an activation and a dropout come between it and model.6"},
)
def act_before_norm() -> tuple[nn.Module, Inputs]:
    return ActBeforeNormDiscriminator(), (images(),)


@network(
    "Linear → BatchNorm1d → ReLU → Unflatten, then transposed convolutions",
    ["0 1 2", "4 5 6"],
    {"3": "changes no number, only which dimension is the channel"},
)
def linear_unflatten() -> tuple[nn.Module, Inputs]:
    model = nn.Sequential(
        nn.Linear(10, 6 * 4 * 4, bias=False),
        nn.BatchNorm1d(6 * 4 * 4),
        nn.ReLU(),
        nn.Unflatten(1, (6, 4, 4)),
        nn.ConvTranspose2d(6, 5, 5, 2, 2, output_padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.ConvTranspose2d(5, 3, 5, 2, 2, output_padding=1),
        nn.Tanh(),
    )
    return model, (torch.randn(4, 10),)


@network(
    "WaveGAN and speech enhancement: one spatial dimension",
    ["0 1 2", "3 4 5", "6 7 8"],
)
def audio() -> tuple[nn.Module, Inputs]:
    model = nn.Sequential(
        nn.Conv1d(1, 4, 25, 4, 12),
        nn.BatchNorm1d(4),
        nn.LeakyReLU(0.2),
        nn.Conv1d(4, 8, 9, 2, 4),
        nn.InstanceNorm1d(8, affine=True),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose1d(8, 4, 8, 4, 2),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.ConvTranspose1d(4, 1, 4, 2, 1),
        nn.Tanh(),
    )
    return model, (torch.randn(3, 1, 64),)


@network("3D-GAN: three spatial dimensions", ["0 1 2", "3 4"])
def volumes() -> tuple[nn.Module, Inputs]:
    model = nn.Sequential(
        nn.ConvTranspose3d(5, 4, 4, 2, 1, bias=False),
        nn.BatchNorm3d(4),
        nn.ReLU(True),
        nn.Conv3d(4, 3, 3, 1, 1),
        nn.InstanceNorm3d(3),
        nn.Sigmoid(),
    )
    return model, (torch.randn(2, 5, 3, 3, 3),)

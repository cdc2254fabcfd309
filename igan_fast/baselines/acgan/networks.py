"""The networks of AC-GAN."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from igan_fast.baselines.convolutional import LEAK, Generator, NoiseNetworks, initialise

__all__ = ["ACGAN", "ACGANDiscriminator", "ACGANOutput"]


class ACGANOutput(NamedTuple):
    """D's output for N images."""

    source: Tensor
    """(N,): logits of the probability that the image is a real photo."""
    label_logits: Tensor
    """(N, A): their sigmoid is the probability of each attribute."""


class ACGANDiscriminator(nn.Module):
    """AC-GAN's D: image → source logit and attribute logits. Six 3×3 convolutions of strides 2, 1, 2, 1, 2, 1.

    Each convolution is followed by batch normalisation (but not the first), LeakyReLU and dropout (probability 0.5).
    The last feature map, S/8×S/8, goes into two Linear layers.

    Args:
        image_size, attributes: as of ``BaselineNetworks``.
        width: the feature maps have w/4, w/2, w, 2w, 4w and 8w channels (rounded down, at least 1).
    """

    def __init__(self, image_size: int, attributes: int, width: int) -> None:
        super().__init__()
        channels = (3, max(width // 4, 1), max(width // 2, 1), width, 2 * width, 4 * width, 8 * width)
        self.down = nn.ModuleList()
        for index, (below, above) in enumerate(itertools.pairwise(channels)):
            conv = nn.Conv2d(below, above, 3, stride=1 if index % 2 else 2, padding=1, bias=index == 0)
            norm = [nn.BatchNorm2d(above)] if index else []
            self.down.append(nn.Sequential(conv, *norm, nn.LeakyReLU(LEAK)))
        flat = 8 * width * (image_size // 8) ** 2
        self.source = nn.Linear(flat, 1)
        self.labels = nn.Linear(flat, attributes)
        initialise(self)

    def forward(self, x: Tensor, random: torch.Generator | None = None) -> ACGANOutput:
        """Judge images (N, 3, S, S) in [−1, 1].

        Args:
            random: a generator on the CPU, from which dropout is drawn in training mode. Not used in eval mode.

        Raises:
            ValueError: ``random`` is omitted in training mode.
        """
        if self.training and random is None:
            raise ValueError("random is None; expected a generator, which dropout needs in training mode")
        for block in self.down:
            x = block(x)
            if self.training and random is not None:
                x = _dropout(x, random)
        flat = x.flatten(1)
        return ACGANOutput(self.source(flat).squeeze(1), self.labels(flat))


class ACGAN(NoiseNetworks):
    """AC-GAN (Odena, Olah, Shlens: Conditional Image Synthesis with Auxiliary Classifier GANs, ICML 2017), for
    attributes instead of classes.

    G generates an image of given attributes. D tells photos from generated images, and recognises the attributes of
    both.

    The networks are those of the paper's Appendix A for ImageNet at 128², where w = 64: G has maps of 12w, 6w, 4w, 3w
    channels, D is ``ACGANDiscriminator``. The authors published no code, and we read the appendix thus:

    - G's Linear layer gives S/16×S/16 pixels of 12w channels. The table has only the 768 channels, but no other size
      becomes 128² in four layers of stride 2.
    - D has one sigmoid per attribute, where the paper has a softmax over the classes.
    - D gets no noise on its activations: of the standard deviations that the paper tries (0, 0.1, 0.2), 0.
    - A bias before a normalisation, which would cancel it, is left out.
    - z is uniform, as in DCGAN; the paper does not say what it is.

    Args:
        image_size, attributes: as of ``NoiseNetworks``.
        width: w, the authors' is 64.

    Raises:
        ValueError, TypeError: as ``NoiseNetworks``.
    """

    discriminator: ACGANDiscriminator

    def __init__(self, image_size: int, attributes: int, *, width: int = 64) -> None:
        super().__init__(image_size, attributes, width=width)
        channels = (12 * width, 6 * width, 4 * width, 3 * width)
        self.generator = Generator(
            image_size, channels, latent=self.latent, attributes=attributes, normalise_first=False, bias=True
        )
        self.discriminator = ACGANDiscriminator(image_size, attributes, width)


def _dropout(x: Tensor, random: torch.Generator) -> Tensor:
    """Set each element to 0 with probability 0.5, and double the others.

    ``nn.Dropout`` draws from PyTorch's global generator. Here each random byte decides about eight elements: on a CPU,
    single random numbers would take a large part of the iteration.
    """
    count = x.numel()
    draws = torch.randint(256, (-(-count // 8),), dtype=torch.uint8, generator=random).to(x.device)
    bits = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=x.device)
    keep = (draws[:, None] & bits).ne(0).flatten()[:count].view(x.shape)
    return x * (2 * keep.to(x.dtype))

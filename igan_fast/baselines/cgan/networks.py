"""The networks of the conditional GAN."""

from __future__ import annotations

from igan_fast.baselines.convolutional import Discriminator, Generator, NoiseNetworks

__all__ = ["CGAN"]


class CGAN(NoiseNetworks):
    """The conditional GAN (Mirza, Osindero: Conditional Generative Adversarial Nets, arXiv 1411.1784, 2014) as a DCGAN.

    G generates an image of given attributes. D is given an image and attributes, and tells photos with their attributes
    from generated images with theirs.

    The paper's networks are perceptrons for MNIST: c enters G beside z, and D beside the image, each through a layer of
    its own. For photos, c enters as in the conditional DCGAN that DCGAN's authors made for MNIST
    (github.com/Newmu/dcgan_code, ``mnist/train_cond_dcgan.py``): beside the input of every layer of both networks. A
    Linear layer gets c as A more numbers. A convolution gets it as A more feature maps, each with the value of its
    attribute everywhere. All else is as in ``DCGAN``. The classes of MNIST are one-hot; of the A attributes, any number
    may be 1.

    Args:
        image_size, attributes, width: as of ``NoiseNetworks``.

    Raises:
        ValueError, TypeError: as ``NoiseNetworks``.
    """

    discriminator: Discriminator

    def __init__(self, image_size: int, attributes: int, *, width: int = 64) -> None:
        super().__init__(image_size, attributes, width=width)
        channels = (8 * width, 4 * width, 2 * width, width)
        self.generator = Generator(image_size, channels, latent=self.latent, attributes=attributes, repeat_labels=True)
        self.discriminator = Discriminator(image_size, width, attributes=attributes)

"""The networks of DCGAN."""

from __future__ import annotations

from igan_fast.baselines.convolutional import Discriminator, Generator, NoiseNetworks

__all__ = ["DCGAN"]


class DCGAN(NoiseNetworks):
    """DCGAN (Radford, Metz, Chintala: Unsupervised Representation Learning with Deep Convolutional Generative
    Adversarial Networks, ICLR 2016).

    G generates images from noise alone. D tells photos from generated images.

    The paper (Sec. 3 and 4, Fig. 1) leaves some settings open. Two programs are by its authors:
    github.com/Newmu/dcgan_code (the folder ``faces``) and github.com/soumith/dcgan.torch. We follow:

    ===================  =============================================================================================
    Kernels              5×5 as in dcgan_code; dcgan.torch has 4×4
    Noise                100 numbers, uniform on [−1, 1], as in the paper and dcgan_code; dcgan.torch: normal
    Channels             8w, 4w, 2w, w in G and w, 2w, 4w, 8w in D; w is 64 as in dcgan.torch; elsewhere 128
    First map of G       S/16×S/16, normalised per channel as in dcgan.torch; in dcgan_code per channel and pixel
    Batch normalisation  everywhere but in G's last and D's first layer, as in the paper
    Biases               only those of the normalisations, as in dcgan_code and dcgan.torch
    ===================  =============================================================================================

    ``discriminator.features(x)`` gives the activations of D's convolutions. A linear SVM on them recognises attributes
    (the paper's Sec. 5; Sec. 5.3 and Fig. 4 of the iterative GAN's paper).

    Args:
        image_size, attributes, width: as of ``NoiseNetworks``. The attributes enter neither network.

    Raises:
        ValueError, TypeError: as ``NoiseNetworks``.
    """

    discriminator: Discriminator

    def __init__(self, image_size: int, attributes: int, *, width: int = 64) -> None:
        super().__init__(image_size, attributes, width=width)
        self.generator = Generator(image_size, (8 * width, 4 * width, 2 * width, width), latent=self.latent)
        self.discriminator = Discriminator(image_size, width)

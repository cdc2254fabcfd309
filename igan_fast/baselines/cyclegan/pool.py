"""A pool of edited photos from earlier iterations, which the discriminator is trained on too (Shrivastava et al. 2017,
CycleGAN's Sec. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ImagePool"]


class ImagePool:
    """Replaces some images of each batch by earlier ones, as in the authors' code.

    Until the pool is full, it keeps each image and returns it. Then, with a probability of one half each, an image is
    returned and not kept, or it takes the place of a random image of the pool, which is returned.

    Args:
        capacity: the largest number of images, at least 1.
        image_size: side S of the images.
        like: a tensor with their dtype and device.

    Attributes:
        images: (capacity, 3, S, S). Those from ``count`` up are 0.
        count: the number of images kept.
    """

    def __init__(self, capacity: int, image_size: int, like: Tensor) -> None:
        self.images = torch.zeros(capacity, 3, image_size, image_size, dtype=like.dtype, device=like.device)
        self.count = 0

    def query(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Return a batch of the shape of ``images`` (N, 3, S, S), without gradients.

        Args:
            random: draws two numbers for each image if the pool is full: whether it is replaced, and by which one.
        """
        capacity = len(self.images)
        returned: list[Tensor] = []
        for image in images.detach():
            if self.count < capacity:
                self.images[self.count] = image
                self.count += 1
                returned.append(image)
                continue
            replaced = bool(torch.rand((), generator=random) > 0.5)
            index = int(torch.randint(capacity, (), generator=random))
            if replaced:
                returned.append(self.images[index].to(image.dtype, copy=True))
                self.images[index] = image
            else:
                returned.append(image)
        return torch.stack(returned)

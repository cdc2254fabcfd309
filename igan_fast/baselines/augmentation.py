"""Light random changes of training photos, which a network that recognises attributes should not depend on."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.data.loader import to_float
from igan_fast.metrics import box_blur

__all__ = ["augmented"]

#: The largest shift, as a share of the side.
SHIFT = 1 / 32
#: The range of the factor for contrast.
CONTRAST = (0.85, 1.18)
#: The largest change of brightness, of pixels in [−1, 1].
BRIGHTNESS = 0.1
#: The share of the images that are blurred.
BLURRED = 0.1
#: The standard deviation of the noise, of pixels in [−1, 1].
NOISE = 0.02


def augmented(images: Tensor) -> Tensor:
    """Change each image at random, by PyTorch's global random generators.

    In this order: a shift by at most a 32nd of the side, at least by a pixel (what comes in repeats the edge); contrast
    and brightness; for one image in ten a blur; and noise.

    Args:
        images: (N, S, S, 3) uint8.

    Returns:
        (N, 3, S, S) float32, channels_last, in [−1, 1] but for the noise.
    """
    count, size = images.shape[:2]
    device = images.device
    most = max(1, round(size * SHIFT))
    shifts = torch.randint(-most, most + 1, (2, count, 1), device=device)
    rows, columns = (torch.arange(size, device=device) + shifts).clamp_(0, size - 1)
    x = to_float(images[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]])
    each = (count, 1, 1, 1)
    contrast = torch.empty(each, device=device).uniform_(*CONTRAST)
    brightness = torch.empty(each, device=device).uniform_(-BRIGHTNESS, BRIGHTNESS)
    x.mul_(contrast).add_(brightness).clamp_(-1, 1)
    blurred = (torch.rand(count, device=device) < BLURRED).nonzero().squeeze(1)
    x[blurred] = box_blur(x[blurred])
    return x.add_(torch.randn_like(x), alpha=NOISE)

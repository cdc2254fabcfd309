"""Scores of images: how similar they are to others, and how grainy."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

__all__ = ["ImageQuality", "box_blur", "grain", "image_quality"]


class ImageQuality(NamedTuple):
    """How similar N images are to N others. Each score is (N,) float32."""

    l1: Tensor
    """mean|a − b| of images in [−1, 1]: the paper's pixel loss (Sec. 3.3.1)."""
    psnr: Tensor
    """Peak signal-to-noise ratio in dB."""
    ssim: Tensor
    """Structural similarity (Wang et al. 2004): Gaussian window 11×11 with σ = 1.5, edges mirrored."""


def image_quality(images: Tensor, targets: Tensor) -> ImageQuality:
    """Return L1, PSNR and SSIM of each image (N, 3, S, S) in [−1, 1]. Their means are the usual summary."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    # SSIM compares means, so it needs intensities from 0 up.
    ours, theirs = (images.float() + 1) / 2, (targets.float() + 1) / 2
    each = (1, 2, 3)
    psnr = peak_signal_noise_ratio(ours, theirs, data_range=1.0, reduction="none", dim=each)
    ssim = structural_similarity_index_measure(ours, theirs, data_range=1.0, reduction="none")
    assert isinstance(ssim, Tensor)  # it is a tuple only if other results are requested
    return ImageQuality(2 * (ours - theirs).abs().mean(each), psnr, ssim.reshape(len(ours)))


def grain(images: Tensor) -> Tensor:
    """Return how much each image (N, 3, S, S) in [−1, 1] differs from its blur: mean|x − ``box_blur``(x)|, (N,).

    It is 0 where an image is constant. Noise and checkerboard patterns raise it. The mean over drawn images, divided by
    that over photos, is 1 if they are as grainy as the photos.
    """
    return (images - box_blur(images)).abs().mean(dim=(1, 2, 3))


def box_blur(images: Tensor) -> Tensor:
    """Return the mean of each pixel's 3×3 neighbourhood in images (N, C, H, W). Outside, the edge repeats."""
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)

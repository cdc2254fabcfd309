"""The losses in plain PyTorch: the paper's (``paper.py``), and two that other GANs use.

Each L1 distance is a mean over elements. The sizes of images and layers therefore do not change the balance of the
terms.
"""

from igan_fast.reference.losses.feature_matching import FeatureMatchingLoss
from igan_fast.reference.losses.paper import (
    IntegratedLoss,
    IntegratedTerms,
    adversarial_loss,
    integrated_loss,
    label_loss,
    latent_loss,
    perceptual_loss,
    pixel_loss,
)
from igan_fast.reference.losses.perceptual import PerceptualL1Loss

__all__ = [
    "FeatureMatchingLoss",
    "IntegratedLoss",
    "IntegratedTerms",
    "PerceptualL1Loss",
    "adversarial_loss",
    "integrated_loss",
    "label_loss",
    "latent_loss",
    "perceptual_loss",
    "pixel_loss",
]

"""AC-GAN (Odena et al., ICML 2017) for attributes, in the paper's Fig. 9b."""

from igan_fast.baselines.acgan.networks import ACGAN
from igan_fast.baselines.acgan.step import ACGANStep

__all__ = ["ACGAN", "ACGANStep"]

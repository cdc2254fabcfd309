"""StarGAN: one generator that edits any of several attributes of a photo (Choi et al., CVPR 2018)."""

from igan_fast.baselines.stargan.networks import StarGANNetworks
from igan_fast.baselines.stargan.step import StarGANStep

__all__ = ["StarGANNetworks", "StarGANStep"]

"""CycleGAN: two generators that add one attribute to photos, or remove it (Zhu et al., ICCV 2017)."""

from igan_fast.baselines.cyclegan.networks import CycleGANNetworks
from igan_fast.baselines.cyclegan.step import CycleGANStep

__all__ = ["CycleGANNetworks", "CycleGANStep"]

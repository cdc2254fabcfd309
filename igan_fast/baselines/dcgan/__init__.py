"""DCGAN (Radford et al., ICLR 2016), in the paper's Fig. 4: its discriminator's features recognise attributes."""

from igan_fast.baselines.dcgan.networks import DCGAN
from igan_fast.baselines.dcgan.step import DCGANStep

__all__ = ["DCGAN", "DCGANStep"]

"""The conditional GAN (Mirza and Osindero, 2014) with DCGAN's networks, in the paper's Fig. 9b."""

from igan_fast.baselines.cgan.networks import CGAN
from igan_fast.baselines.cgan.step import CGANStep

__all__ = ["CGAN", "CGANStep"]

"""The paper in plain PyTorch, to be read beside it. Each docstring names its section; nothing is optimised for speed.

``igan_fast`` has the same names, arguments, outputs and ``state_dict`` keys on fused operators, and is tested for
equality with what is here.
"""

from igan_fast.reference.models import Classifier, Codes, Discriminator, DiscriminatorOutput, Generator, IterativeGAN
from igan_fast.reference.step import StepConfig, StepLosses, TrainStep

__all__ = [
    "Classifier",
    "Codes",
    "Discriminator",
    "DiscriminatorOutput",
    "Generator",
    "IterativeGAN",
    "StepConfig",
    "StepLosses",
    "TrainStep",
]

"""The paper in plain PyTorch, written to be read beside it and not to be fast. Each equation names its section.

The fused modules (``igan_fast.layers``, ``losses``, ``models``, ``step``) have the same names, arguments, outputs and
``state_dict`` keys. Tests compare their results with those of the modules here.
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

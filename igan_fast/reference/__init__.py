"""The paper in plain PyTorch, written to be read beside the paper. The code follows its equations, not speed.

The fused modules (``igan_fast.ops``, ``layers``, ``models``, ``losses`` and ``step``) have the same names, arguments,
outputs and ``state_dict`` keys. Tests check that their results are equal to those of this package.
"""

from igan_fast.reference.editing import Companions
from igan_fast.reference.models import Classifier, Codes, Discriminator, DiscriminatorOutput, Generator, IterativeGAN
from igan_fast.reference.step import StepConfig, StepLosses, TrainStep

__all__ = [
    "Classifier",
    "Codes",
    "Companions",
    "Discriminator",
    "DiscriminatorOutput",
    "Generator",
    "IterativeGAN",
    "StepConfig",
    "StepLosses",
    "TrainStep",
]

"""The paper in plain PyTorch, written to be read beside the paper. The code follows its equations, not speed.

The fused modules (``igan_fast.ops``, ``layers``, ``models``, ``losses`` and ``step``) have the same names, arguments,
outputs and ``state_dict`` keys. Tests check that their results are equal to those of this package.
"""

from igan_fast.reference.beyond import TrainStep
from igan_fast.reference.edited_rebuilds import draw_flips
from igan_fast.reference.editing import Companions
from igan_fast.reference.models import Classifier, Codes, Discriminator, DiscriminatorOutput, Generator, IterativeGAN
from igan_fast.reference.step import PaperStep, StepConfig, StepLosses

__all__ = [
    "Classifier",
    "Codes",
    "Companions",
    "Discriminator",
    "DiscriminatorOutput",
    "Generator",
    "IterativeGAN",
    "PaperStep",
    "StepConfig",
    "StepLosses",
    "TrainStep",
    "draw_flips",
]

"""The paper in plain PyTorch, to be read beside it: every equation has its place, and nothing here is fast on purpose.

The fused wing mirrors these names, arguments, outputs and ``state_dict`` keys, and is tested for equality with them.
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

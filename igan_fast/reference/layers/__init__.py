"""The blocks that G and D are made of, as modules that hold the parameters of the operators in ``ops``.

They take the arguments of torch's own modules, and have their ``state_dict``. ``groups`` are parts of the *batch* that
are normalised apart (of channels: ``conv_groups``).
"""

from igan_fast.reference.layers.conv import ConvNormAct2d, ConvTransposeNormAct2d
from igan_fast.reference.layers.norm import NormAct2d

__all__ = ["ConvNormAct2d", "ConvTransposeNormAct2d", "NormAct2d"]

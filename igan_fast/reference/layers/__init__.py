"""The layers of G and D as modules: each holds the parameters of an operator of ``igan_fast.reference.ops``.

Arguments and ``state_dict`` keys are those of PyTorch's modules. ``groups`` is the number of parts of the *batch* that
are normalised separately; the groups of channels of a convolution are ``conv_groups``.
"""

from igan_fast.reference.layers.conv import ConvNormAct2d, ConvTransposeNormAct2d
from igan_fast.reference.layers.norm import NormAct2d

__all__ = ["ConvNormAct2d", "ConvTransposeNormAct2d", "NormAct2d"]

"""The layers of G and D as modules: each holds the parameters of an operator of ``igan_fast.reference.ops``.

Most arguments are those of PyTorch's modules, and so are the ``state_dict`` keys of each convolution (``conv``) and
normalisation (``norm``). Two names differ from PyTorch's: ``groups`` is the number of parts of the *batch* that are
normalised separately; ``conv_groups`` is the number of groups of channels of a convolution.
"""

from torch.nn import Linear

from igan_fast.reference.layers.conv import ConvNormAct2d, ConvTransposeNormAct2d
from igan_fast.reference.layers.norm import NormAct2d, normalised_apart, set_process_group

__all__ = ["ConvNormAct2d", "ConvTransposeNormAct2d", "Linear", "NormAct2d", "normalised_apart", "set_process_group"]

"""Networks of blocks as one autograd node, in Triton: each block's activation is computed where it is read.

A block is a convolution, a normalisation by the batch's statistics and a LeakyReLU. Of each block one tensor is
written, the convolution's output (its raw map). The statistics are computed in the same launch. The next convolution
reads the raw map, and normalises and activates what it reads; so do the weight's gradient and the L1 distance of two
maps. In the backward pass one tensor is written for each block too, the gradient of the LeakyReLU's input
(``igan_fast.ops.triton.convolution_gradient``).

``IGAN_FAST_CONVOLUTION=blocks`` asks for it, and the training step uses it then. With ``measure`` it uses it for each
network of which blocks are faster than its layers one by one.

- ``description``: blocks and their maps
- ``network``: the functions that compute a network of blocks
- ``node``: its autograd node
- ``backward``: the node's backward pass
- ``layerwise``: the same networks layer by layer
- ``measured``: the choice between the two by measurement
"""

from igan_fast.ops.blocks.description import Block, Features, Norm, RawMap
from igan_fast.ops.blocks.network import are_blocks_asked_for, block_features, block_image, can_run_blocks

__all__ = [
    "Block",
    "Features",
    "Norm",
    "RawMap",
    "are_blocks_asked_for",
    "block_features",
    "block_image",
    "can_run_blocks",
]

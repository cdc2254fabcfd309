"""The parts of an iteration, and which of them an operator call belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from bench.counting import BIAS

#: A convolution with fewer channels than this on one side is one from or to an image: as blocks it has 16.
FEW = 17

CONVOLUTIONS = "5×5 convolutions"
IMAGE_CONVOLUTIONS = "Convolutions from and to images"
NORM_ACT = "norm_act"
FEATURE_L1 = "Perceptual and pixel loss"
LINEAR = "Linear layers"
ADAM = "Adam"
CASTS = "Casts"
COPIES = "Copies and fills"
SUMS = "Sums of gradients"
ACTIVATIONS = "LeakyReLU, tanh and biases alone"
REST = "All others"

#: The parts of an iteration, in the order of the table.
PARTS = (
    CONVOLUTIONS,
    IMAGE_CONVOLUTIONS,
    NORM_ACT,
    FEATURE_L1,
    LINEAR,
    ADAM,
    CASTS,
    COPIES,
    SUMS,
    ACTIVATIONS,
    REST,
)

#: The parts of the operators whose shapes do not matter.
PART_OF = {
    **dict.fromkeys(
        (f"norm_act{part}" for part in ("", "_backward", "_update", "_statistics", "_inference", "_sums", "_gradient")),
        NORM_ACT,
    ),
    **dict.fromkeys(("convolution_affine", "convolution_norm_gradient"), NORM_ACT),
    **dict.fromkeys(
        (
            "convolution_from_image",
            "convolution_to_image",
            "convolution_image_weight_gradient",
            "convolution_image_block_gradient",
        ),
        IMAGE_CONVOLUTIONS,
    ),
    **dict.fromkeys(("feature_l1", "feature_l1_backward", "feature_l1_raw"), FEATURE_L1),
    **dict.fromkeys(("mm", "addmm"), LINEAR),
    **dict.fromkeys(("_fused_adam_", "_foreach_add_"), ADAM),
    "_to_copy": CASTS,
    **dict.fromkeys(("clone", "cat", "constant_pad_nd", "slice_backward", "zeros", "copy_", "fill_", "zero_"), COPIES),
    **dict.fromkeys(("add", "add_"), SUMS),
    **dict.fromkeys(("leaky_relu", "leaky_relu_", "leaky_relu_backward", "tanh", "tanh_backward", BIAS), ACTIVATIONS),
}

#: The arguments of a convolution that tell its channels, by position: the weight, or the two sides of its gradient.
CHANNELS_AT = {
    "convolution": (1,),
    "convolution_backward": (2,),
    "convolution_statistics": (1,),
    "convolution_block_gradient": (1,),
    "convolution_weight_gradient": (0, 1),
}


def part_of(operator: str, shapes: Sequence[Sequence[int]]) -> str:
    """The part of the iteration that a call belongs to, from its operator and the shapes of its arguments."""
    if operator in CHANNELS_AT:
        found = [shapes[at] for at in CHANNELS_AT[operator]]
        few = min(*found[0][:2]) if len(found) == 1 else min(shape[1] for shape in found)
        return IMAGE_CONVOLUTIONS if few < FEW else CONVOLUTIONS
    if operator == "sum" and shapes and len(shapes[0]) == 4:  # the gradient of a convolution's bias
        return ACTIVATIONS
    return PART_OF.get(operator, REST)

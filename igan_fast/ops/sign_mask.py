"""The sign mask: the signs of the differences fake − real, in 2 bits per element.

It is all that feature_l1's backward needs of the inputs.

64 consecutive elements share 16 bytes. A bit of the first 8 bytes is set where the difference is positive, a bit of the
other 8 bytes where it is negative. Both bits are 0 where the two sides are equal or one is NaN. Element k of the 64 has
bit k % 8 (0 is the lowest) of byte k // 8 of each half. This is the order of the CPU and Triton kernels; the native
CUDA kernels order the 16 bytes in another way (csrc/ops/feature_l1/pair.h).

One pair of three elements, for example:

    fake         [5, 1, 2]
    real         [3, 4, 2]
    difference   [2, −3, 0]
    positive     element 0: bit 0 of byte 0, so byte 0 is 0b001 = 1
    negative     element 1: bit 1 of byte 8, so byte 8 is 0b010 = 2
    sign mask    [1, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0]

The backward computes positive bit − negative bit for each element: 1, −1, 0. The product with upstream gradient ·
weight / 3 is the gradient of fake; the gradient of real is its negative. The mask of a large feature map takes a
sixteenth of the memory of the differences in float32. Neither the differences nor the inputs are saved.

The elements of a pair are numbered in the order of fake's memory if fake is dense, else in row-major order. The masks
of several pairs follow one another in one tensor.
"""

from __future__ import annotations

__all__ = ["sign_mask_bytes"]


def sign_mask_bytes(numel: int) -> int:
    """The bytes of the sign mask of one pair of ``numel`` elements."""
    return (numel + 63) // 64 * 16

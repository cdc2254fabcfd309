"""The sign mask: the signs of the differences fake − real in 2 bits per element, all that feature_l1's backward needs.

64 consecutive elements share 16 bytes. The first 8 bytes have a bit set where the difference is positive, the other 8
bytes where it is negative; both bits are 0 where the two sides are equal or one is NaN. Element k of the 64 has bit
k % 8 (0 is the lowest) of byte k // 8 of either half.

One pair of three elements, for example:

    fake         [5, 1, 2]
    real         [3, 4, 2]
    difference   [2, −3, 0]
    positive     element 0: bit 0 of byte 0, so byte 0 is 0b001 = 1
    negative     element 1: bit 1 of byte 8, so byte 8 is 0b010 = 2
    sign mask    [1, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0]

For element k the backward computes positive bit − negative bit: 1, −1, 0. Times upstream gradient · weight / 3 this is
the gradient of fake, and its negative that of real. A large feature map's mask takes a sixteenth of the memory of its
differences in float32, and neither these nor the inputs are kept.

The elements are numbered in the order in which a pair is walked: that of fake's memory where it is dense, else row by
row. The masks of several pairs follow one another in one tensor.
"""

from __future__ import annotations

__all__ = ["sign_mask_bytes"]


def sign_mask_bytes(numel: int) -> int:
    """The bytes of the sign mask of one pair of ``numel`` elements."""
    return (numel + 63) // 64 * 16

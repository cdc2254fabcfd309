"""feature_l1 in Triton.

A launch takes up to 16 pairs. In the forward, one launch sums the blocks of the pairs and writes the sign mask, and
another adds up these sums. In the backward, one launch writes up to 16 gradients. ``igan_fast.ops.sign_mask`` explains
the mask.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.sign_mask import sign_mask_bytes
from igan_fast.ops.triton.common import grid, on_device, operator, program, sum_of, triton_dtype, two_floats
from igan_fast.reference.ops import accumulation_dtype

BLOCK_ELEMENTS = 4096  # elements of one program, a multiple of 64
_MAX_PAIRS = 16  # of one launch; the kernel is compiled for each number of pairs
_MAX_DIMS = 6  # of a pair whose sides differ in layout, after dimensions that are contiguous in both are merged


@triton.jit
def forward(
    fakes,
    reals,
    numels,
    starts,
    mask_starts,
    shapes,
    partial,
    masks,
    SAVE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Σ|fake − real| of one block per program, and its part of the sign mask where SAVE.

    Pair i has the programs from starts[i] to starts[i + 1] − 1; its mask begins at byte mask_starts[i].
    """
    block = program()
    for i in tl.static_range(len(fakes)):
        if (block >= starts[i]) & (block < starts[i + 1]):
            first = (block - starts[i]) * BLOCK
            k = first + tl.arange(0, BLOCK)
            exists = k < numels[i]
            at_fake, at_real = offsets_of(k, shapes[i])
            fake = tl.load(fakes[i] + at_fake, mask=exists, other=0.0).to(ACC)
            real = tl.load(reals[i] + at_real, mask=exists, other=0.0).to(ACC)
            difference = fake - real
            tl.store(partial + block, tl.sum(tl.abs(difference), axis=0))
            if SAVE:
                byte = first // 8 + tl.arange(0, BLOCK // 8)
                kept = byte < tl.cdiv(numels[i], 64) * 8
                at = masks + mask_starts[i] + byte // 8 * 16 + byte % 8
                tl.store(at, packed(difference > 0, BLOCK), mask=kept)
                tl.store(at + 8, packed(difference < 0, BLOCK), mask=kept)


@triton.jit
def offsets_of(k, shape):
    """Offsets of element k of a pair in fake and in real.

    shape: (sizes, fake's strides, real's strides) of the dimensions, outermost first. All three are () if both tensors
    have the elements in memory in the order of k.
    """
    sizes, fake_strides, real_strides = shape
    at_fake = k
    at_real = k
    if len(sizes) > 0:
        at_fake = tl.zeros_like(k)
        at_real = tl.zeros_like(k)
        rest = k
        for d in tl.static_range(len(sizes)):
            index = rest % sizes[len(sizes) - 1 - d]
            rest = rest // sizes[len(sizes) - 1 - d]
            at_fake += index * fake_strides[len(sizes) - 1 - d]
            at_real += index * real_strides[len(sizes) - 1 - d]
    return at_fake, at_real


@triton.jit
def packed(bits, BLOCK: tl.constexpr):
    """(BLOCK,) booleans as (BLOCK / 8,) bytes, the first element in the lowest bit."""
    weighted = tl.reshape(bits.to(tl.int32), (BLOCK // 8, 8)) << tl.arange(0, 8)[None, :]
    return tl.sum(weighted, axis=1).to(tl.uint8)


@triton.jit
def add_up(partial, loss, starts, scales, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """loss += Σ scaleᵢ · (the partial sums of pair i), in a fixed order, by one program."""
    total = tl.zeros((), dtype=tl.float64)
    for i in tl.static_range(len(scales)):
        sums = tl.zeros((BLOCK,), dtype=tl.float64)
        for first in range(starts[i], starts[i + 1], BLOCK):
            at = first + tl.arange(0, BLOCK)
            sums += tl.load(partial + at, mask=at < starts[i + 1], other=0.0).to(tl.float64)
        total += tl.sum(sums, axis=0) * sum_of(scales[i], tl.float64)
    tl.store(loss, tl.load(loss) + total.to(ACC))


@triton.jit
def backward(outs, numels, starts, mask_starts, scales, grad, masks, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """out = sign · grad · scale of one block per program. Output i has the programs that pair i has in ``forward``."""
    block = program()
    for i in tl.static_range(len(outs)):
        if (block >= starts[i]) & (block < starts[i + 1]):
            k = (block - starts[i]) * BLOCK + tl.arange(0, BLOCK)
            exists = k < numels[i]
            byte = masks + mask_starts[i] + k // 64 * 16 + k // 8 % 8
            bit = (k % 8).to(tl.int32)
            positive = (tl.load(byte, mask=exists, other=0).to(tl.int32) >> bit) & 1
            negative = (tl.load(byte + 8, mask=exists, other=0).to(tl.int32) >> bit) & 1
            scale = tl.load(grad).to(ACC) * sum_of(scales[i], ACC)
            signed = (positive - negative).to(ACC) * scale
            tl.store(outs[i] + k, signed.to(outs[i].dtype.element_ty), mask=exists)


def _layout(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor, tuple[Any, Any, Any]]:
    """Both tensors (copies if they have too many dimensions), and the argument ``shape`` of ``offsets_of``.

    The elements are numbered in the order of fake's memory if fake is dense, else in row-major order.
    """
    dims = [d for d in range(fake.dim()) if fake.shape[d] != 1]
    strides = fake.stride()
    by_memory = sorted(dims, key=lambda d: -strides[d])
    expected, dense = 1, True
    for d in reversed(by_memory):
        dense = dense and fake.stride(d) == expected
        expected *= fake.shape[d]
    merged: list[list[int]] = []
    for d in by_memory if dense else dims:
        size, fake_stride, real_stride = fake.shape[d], fake.stride(d), real.stride(d)
        if merged and merged[-1][1] == size * fake_stride and merged[-1][2] == size * real_stride:
            merged[-1] = [merged[-1][0] * size, fake_stride, real_stride]
        else:
            merged.append([size, fake_stride, real_stride])
    if not merged or (len(merged) == 1 and merged[0][1:] == [1, 1]):
        return fake, real, ((), (), ())
    if len(merged) > _MAX_DIMS:
        order = by_memory if dense else dims
        rest = [d for d in range(fake.dim()) if d not in order]
        fake, real = (side.permute(*order, *rest).contiguous() for side in (fake, real))
        return fake, real, ((), (), ())
    sizes, fake_strides, real_strides = zip(*merged, strict=True)
    return fake, real, (sizes, fake_strides, real_strides)


def program_starts(numels: list[int]) -> tuple[int, ...]:
    """The first program of each pair, and at the end the number of programs."""
    starts = [0]
    for numel in numels:
        starts.append(starts[-1] + triton.cdiv(numel, BLOCK_ELEMENTS))
    return tuple(starts)


def sign_mask_starts(numels: list[int]) -> tuple[int, ...]:
    """The first byte of each pair's sign mask, and at the end the number of bytes."""
    return tuple(itertools.accumulate(map(sign_mask_bytes, numels), initial=0))


@operator("feature_l1(Tensor[] fake, Tensor[] real, float[] weights, bool save_signs) -> (Tensor loss, Tensor signs)")
def feature_l1(fake: list[Tensor], real: list[Tensor], weights: list[float], save_signs: bool) -> tuple[Tensor, Tensor]:
    """See ``igan_fast.ops.feature_l1``."""
    wide = accumulation_dtype(*fake, *real)
    loss = fake[0].new_zeros((), dtype=torch.float64)
    mask_starts = sign_mask_starts([f.numel() if save_signs else 0 for f in fake])
    signs = fake[0].new_empty((mask_starts[-1],), dtype=torch.uint8)
    with on_device(loss):
        for begin in range(0, len(fake), _MAX_PAIRS):
            chunk = slice(begin, begin + _MAX_PAIRS)
            pairs = [_layout(f, r) for f, r in zip(fake[chunk], real[chunk], strict=True)]
            numels = [f.numel() for f, _, _ in pairs]
            starts = program_starts(numels)
            partial = loss.new_empty((starts[-1],), dtype=wide)
            if starts[-1]:
                forward[grid(starts[-1])](
                    tuple(f for f, _, _ in pairs),
                    tuple(r for _, r, _ in pairs),
                    tuple(numels),
                    starts,
                    mask_starts[chunk],
                    tuple(shape for _, _, shape in pairs),
                    partial,
                    signs,
                    SAVE=save_signs,
                    ACC=triton_dtype(wide),
                    BLOCK=BLOCK_ELEMENTS,
                    num_warps=8,
                )
            scales = [w / n if n else float("nan") for w, n in zip(weights[chunk], numels, strict=True)]
            add_up[grid(1)](
                partial, loss, starts, tuple(map(two_floats, scales)), ACC=tl.float64, BLOCK=1024, num_warps=4
            )
    return loss.to(wide), signs


@operator(
    "feature_l1_backward(Tensor grad, Tensor signs, SymInt[] numels, SymInt[] offsets, float[] scales, "
    "ScalarType dtype) -> Tensor[]"
)
def feature_l1_backward(
    grad: Tensor, signs: Tensor, numels: list[int], offsets: list[int], scales: list[float], dtype: torch.dtype
) -> list[Tensor]:
    """See ``igan_fast.ops.feature_l1``."""
    outputs = [signs.new_empty((numel,), dtype=dtype) for numel in numels]
    with on_device(signs):
        for begin in range(0, len(outputs), _MAX_PAIRS):
            chunk = slice(begin, begin + _MAX_PAIRS)
            starts = program_starts(numels[chunk])
            if starts[-1]:
                backward[grid(starts[-1])](
                    tuple(outputs[chunk]),
                    tuple(numels[chunk]),
                    starts,
                    tuple(offsets[chunk]),
                    tuple(map(two_floats, scales[chunk])),
                    grad,
                    signs,
                    ACC=triton_dtype(dtype),
                    BLOCK=BLOCK_ELEMENTS,
                    num_warps=8,
                )
    return outputs

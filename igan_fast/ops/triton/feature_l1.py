"""feature_l1 in Triton: every pair in one launch forward, then one that adds up; every gradient in one launch backward.

64 elements own 16 bytes of codes: 8 bytes with a bit where the difference is positive, then 8 where it is negative.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from igan_fast.ops.triton.common import define, join, launchable, on_device, program, split, triton_dtype

_BLOCK = 4096  # elements of one program, a multiple of 64
_MAX_PAIRS = 16  # in one launch: each is compiled into the kernel
_MAX_DIMS = 6  # of a pair whose sides differ in layout, once those that need not be told apart are one


@triton.jit
def _forward(
    fakes,
    reals,
    numels,
    starts,
    code_starts,
    shapes,
    partial,
    codes,
    SAVE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program p sums block p − starts[i] of the pair i that owns it."""
    block = program()
    for i in tl.static_range(len(fakes)):
        if (block >= starts[i]) & (block < starts[i + 1]):
            first = (block - starts[i]) * BLOCK
            k = first + tl.arange(0, BLOCK)
            inside = k < numels[i]
            at_fake, at_real = _places(k, shapes[i])
            fake = tl.load(fakes[i] + at_fake, mask=inside, other=0.0).to(ACC)
            real = tl.load(reals[i] + at_real, mask=inside, other=0.0).to(ACC)
            difference = fake - real
            tl.store(partial + block, tl.sum(tl.abs(difference), axis=0))
            if SAVE:
                positive = _pack(difference > 0, BLOCK)
                negative = _pack(difference < 0, BLOCK)
                byte = first // 8 + tl.arange(0, BLOCK // 8)
                kept = byte < tl.cdiv(numels[i], 64) * 8
                place = codes + code_starts[i] + byte // 8 * 16 + byte % 8
                tl.store(place, positive, mask=kept)
                tl.store(place + 8, negative, mask=kept)


@triton.jit
def _places(k, shape):
    """Where the k-th element of the iteration order stands on either side. shape: sizes, fake strides, real strides of
    the dims, outermost first; nothing where the order is that of memory on both."""
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
def _pack(bits, BLOCK: tl.constexpr):
    """(BLOCK,) booleans → (BLOCK / 8,) bytes, the first element in the lowest bit."""
    weighted = tl.reshape(bits.to(tl.int32), (BLOCK // 8, 8)) << tl.arange(0, 8)[None, :]
    return tl.sum(weighted, axis=1).to(tl.uint8)


@triton.jit
def _add_up(partial, loss, starts, highs, lows, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """Σ scaleᵢ · (the sum of pair i's partial sums), in a fixed order, by one program."""
    total = tl.zeros((), dtype=tl.float64)
    for i in tl.static_range(len(highs)):
        sums = tl.zeros((BLOCK,), dtype=tl.float64)
        for first in range(starts[i], starts[i + 1], BLOCK):
            at = first + tl.arange(0, BLOCK)
            sums += tl.load(partial + at, mask=at < starts[i + 1], other=0.0).to(tl.float64)
        total += tl.sum(sums, axis=0) * join(highs[i], lows[i], tl.float64)
    tl.store(loss, tl.load(loss) + total.to(ACC))


@triton.jit
def _backward(outs, numels, starts, code_starts, highs, lows, grad, codes, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """Program p fills block p − starts[i] of the output i that owns it."""
    block = program()
    for i in tl.static_range(len(outs)):
        if (block >= starts[i]) & (block < starts[i + 1]):
            k = (block - starts[i]) * BLOCK + tl.arange(0, BLOCK)
            inside = k < numels[i]
            byte = codes + code_starts[i] + k // 64 * 16 + k // 8 % 8
            bit = (k % 8).to(tl.int32)
            positive = (tl.load(byte, mask=inside, other=0).to(tl.int32) >> bit) & 1
            negative = (tl.load(byte + 8, mask=inside, other=0).to(tl.int32) >> bit) & 1
            scale = tl.load(grad).to(ACC) * join(highs[i], lows[i], ACC)
            signed = (positive - negative).to(ACC) * scale
            tl.store(outs[i] + k, signed.to(outs[i].dtype.element_ty), mask=inside)


def _code_bytes(numel: int) -> int:
    return (numel + 63) // 64 * 16


def _layout(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor, tuple[Any, Any, Any]]:
    """Both sides and the dims of their iteration order: none where both stand in memory in that order."""
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


def _starts(numels: list[int]) -> tuple[int, ...]:
    starts = [0]
    for numel in numels:
        starts.append(starts[-1] + triton.cdiv(numel, _BLOCK))
    return tuple(starts)


def feature_l1(fake: list[Tensor], real: list[Tensor], weights: list[float], save_signs: bool) -> tuple[Tensor, Tensor]:
    """See ``igan_fast.ops.feature_l1``."""
    wide = torch.float64 if any(t.dtype == torch.float64 for t in (*fake, *real)) else torch.float32
    loss = fake[0].new_zeros((), dtype=torch.float64)
    code_starts = [0]
    for tensor in fake:
        code_starts.append(code_starts[-1] + (_code_bytes(tensor.numel()) if save_signs else 0))
    signs = fake[0].new_empty((code_starts[-1],), dtype=torch.uint8)
    with on_device(loss):
        for begin in range(0, len(fake), _MAX_PAIRS):
            chunk = slice(begin, begin + _MAX_PAIRS)
            pairs = [_layout(f, r) for f, r in zip(fake[chunk], real[chunk], strict=True)]
            numels = [f.numel() for f, _, _ in pairs]
            starts = _starts(numels)
            partial = loss.new_empty((starts[-1],), dtype=wide)
            if starts[-1]:
                _forward[(launchable(starts[-1]),)](
                    tuple(f for f, _, _ in pairs),
                    tuple(r for _, r, _ in pairs),
                    tuple(numels),
                    starts,
                    tuple(code_starts[chunk]),
                    tuple(shape for _, _, shape in pairs),
                    partial,
                    signs,
                    SAVE=save_signs,
                    ACC=triton_dtype(wide),
                    BLOCK=_BLOCK,
                    num_warps=8,
                )
            scales = [split(w / n if n else float("nan")) for w, n in zip(weights[chunk], numels, strict=True)]
            highs, lows = zip(*scales, strict=True)
            _add_up[(1,)](partial, loss, starts, highs, lows, ACC=tl.float64, BLOCK=1024, num_warps=4)
    return loss.to(wide), signs


def feature_l1_backward(
    grad: Tensor, signs: Tensor, numels: list[int], offsets: list[int], scales: list[float], dtype: torch.dtype
) -> list[Tensor]:
    """See ``igan_fast.ops.feature_l1``."""
    outputs = [signs.new_empty((numel,), dtype=dtype) for numel in numels]
    with on_device(signs):
        for begin in range(0, len(outputs), _MAX_PAIRS):
            chunk = slice(begin, begin + _MAX_PAIRS)
            starts = _starts(numels[chunk])
            highs, lows = zip(*(split(scale) for scale in scales[chunk]), strict=True)
            if starts[-1]:
                _backward[(launchable(starts[-1]),)](
                    tuple(outputs[chunk]),
                    tuple(numels[chunk]),
                    starts,
                    tuple(offsets[chunk]),
                    highs,
                    lows,
                    grad,
                    signs,
                    ACC=triton_dtype(dtype),
                    BLOCK=_BLOCK,
                    num_warps=8,
                )
    return outputs


define(
    "feature_l1(Tensor[] fake, Tensor[] real, float[] weights, bool save_signs) -> (Tensor loss, Tensor signs)",
    feature_l1,
)
define(
    "feature_l1_backward(Tensor grad, Tensor signs, SymInt[] numels, SymInt[] offsets, float[] scales, "
    "ScalarType dtype) -> Tensor[]",
    feature_l1_backward,
)

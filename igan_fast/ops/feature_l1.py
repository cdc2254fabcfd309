"""The multi-layer L1 distance. The forward reads both sides once; the backward writes each gradient once.

For the backward, the forward saves the sign mask (``sign_mask``) of 2 bits per element, instead of the inputs or their
difference.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.eager import apply_function, below_autograd, call_in_backward
from igan_fast.ops.sign_mask import sign_mask_bytes
from igan_fast.ops.transforms import batched, overridable
from igan_fast.reference import ops as reference
from igan_fast.reference.ops import Features, accumulation_dtype

__all__ = ["feature_l1"]

_MAX_DIMS = 8  # of the native kernels; tensors with more dimensions are flattened first


@overridable
def feature_l1(
    fake: Features,
    real: Features,
    weights: Sequence[float] | None = None,
    *,
    impl: str = "auto",
) -> Tensor:
    """Multi-layer L1 distance Σᵢ wᵢ · mean|fakeᵢ − realᵢ| (Sec. 3.3.2, the perceptual loss).

    Args:
        fake, real: tensors, or sequences of them nested to any depth, of one structure and pairwise equal shapes;
            float16, bfloat16, float32 or float64, on one device, in any memory layout (the two of a pair may differ).
            Either side may require a gradient, which is 0 where fakeᵢ = realᵢ.
        weights: one number per pair, in the order of the flattened sequences; 1 each where omitted.
        impl: "auto", "native", "triton" or "reference".

    Returns:
        A scalar, float64 where an input is float64, else float32. A pair of empty tensors contributes NaN, the mean of
        an empty tensor in PyTorch. Differences and sums are computed in float32 or float64. The order of the sums is
        fixed: the same input gives the same bits.

    Raises:
        ValueError: there is no pair; the sequences do not match in structure, shapes, devices or number of weights;
            ``impl`` is unknown.
        TypeError: something that is neither a tensor nor a sequence.
        RuntimeError: ``impl`` names an implementation that cannot run these tensors; the message says why.
    """
    pairs, weights = reference.weighted_pairs(fake, real, weights)
    weights = [float(weight) for weight in weights]
    fakes, reals = [f for f, _ in pairs], [r for _, r in pairs]
    device = fakes[0].device
    for name, side in (("fake", fakes), ("real", reals)):
        for tensor in side:
            if tensor.device != device:
                raise ValueError(f"{name} has a tensor on {tensor.device}; expected {device}, as the first")

    tensors = (*fakes, *reals)
    namespace = backend.namespace(impl, device, {t.dtype for t in tensors}, tensors)
    if namespace is None:
        return reference.feature_l1(fakes, reals, weights)
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if any(t.dim() > _MAX_DIMS for t in fakes):
        fakes, reals = [f.reshape(-1) for f in fakes], [r.reshape(-1) for r in reals]
    loss: Tensor
    if torch.compiler.is_compiling():
        loss, _ = getattr(torch.ops, namespace).feature_l1(fakes, reals, weights, differentiable)
    elif differentiable:
        loss = apply_function(_Node, namespace, weights, *fakes, *reals)
    else:
        loss, _ = below_autograd(_operators_of(namespace)[0], fakes, reals, weights, False)
    return loss


@functools.cache
def _operators_of(namespace: str) -> tuple[Any, Any]:
    """The forward and the backward operator of a namespace, as overloads, so that no call has to select one."""
    operators = getattr(torch.ops, namespace)
    return operators.feature_l1.default, operators.feature_l1_backward.default


class _Node(torch.autograd.Function):
    """The autograd node in eager mode (see ``ops.eager``)."""

    @staticmethod
    def forward(ctx: Any, namespace: str, weights: list[float], *tensors: Tensor) -> Tensor:
        pairs = len(tensors) // 2
        inputs = list(tensors[:pairs]), list(tensors[pairs:]), weights, True
        loss, signs = below_autograd(_operators_of(namespace)[0], *inputs)
        ctx.set_materialize_grads(False)
        ctx.namespace = namespace
        _save_for_backward(ctx, inputs, signs)
        return loss  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        (signs,) = ctx.saved_tensors
        fakes, reals = _gradients_of_sides(ctx.namespace, grad, signs, ctx)
        return None, None, *fakes, *reals


def register(namespace: str) -> None:
    """Register the fake implementations and the gradients of the operators of one of the dispatcher's namespaces."""
    library = f"{namespace}::feature_l1"
    torch.library.register_fake(library)(_fake_forward)
    torch.library.register_fake(f"{library}_backward")(_fake_backward)

    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, Any, None, None]:
        if ctx.sides is None:
            raise RuntimeError(f"{library} has no gradient: it was called with save_signs=False")
        (signs,) = ctx.saved_tensors
        fakes, reals = _gradients_of_sides(namespace, grad, signs, ctx)
        return fakes, reals, None, None

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _save_for_backward(ctx, inputs, output[1])

    torch.library.register_autograd(library, backward, setup_context=setup_context)
    torch.library.register_autograd(
        f"{library}_backward", _second_backward(namespace), setup_context=_save_for_second_backward
    )


def _fake_forward(
    fake: list[Tensor], real: list[Tensor], weights: list[float], save_signs: bool
) -> tuple[Tensor, Tensor]:
    loss = fake[0].new_empty((), dtype=accumulation_dtype(*fake, *real))
    size = sum(sign_mask_bytes(t.numel()) for t in fake) if save_signs else 0
    return loss, fake[0].new_empty((size,), dtype=torch.uint8)


def _fake_backward(
    grad: Tensor, signs: Tensor, numels: list[int], offsets: list[int], scales: list[float], dtype: torch.dtype
) -> list[Tensor]:
    return [signs.new_empty((numel,), dtype=dtype) for numel in numels]


class _Gradient(NamedTuple):
    """The values that are needed to compute the gradient of one tensor from the sign mask."""

    pair: int  #: the number of the pair
    dtype: torch.dtype
    numel: int
    offset: int  #: the first byte of the pair's mask
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Side:
    """The properties of one side's tensors that the backward needs. The tensors themselves are not kept."""

    def __init__(self, tensors: Sequence[Tensor], fake: Sequence[Tensor]) -> None:
        """tensors: of this side; fake: of the side whose memory sets the order of the mask."""
        self.count = len(tensors)
        self.gradients: list[_Gradient] = []
        offset = 0
        for index, (t, ordered) in enumerate(zip(tensors, fake, strict=True)):
            if t.requires_grad:
                strides = _mask_strides(ordered)
                self.gradients.append(_Gradient(index, t.dtype, t.numel(), offset, tuple(t.shape), strides))
            offset += sign_mask_bytes(t.numel())


def _mask_strides(fake: Tensor) -> tuple[int, ...]:
    """The strides of a dense tensor whose memory has the order of the pair's mask: those of fake if it is dense, else
    those of a contiguous tensor."""
    if fake.is_contiguous():
        return fake.stride()
    expected = 1
    for stride, size in sorted(zip(fake.stride(), fake.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return tuple(torch.empty(fake.shape, device="meta").stride())
        expected *= size
    return fake.stride()


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], signs: Tensor) -> None:
    fake, real, ctx.weights, save_signs = inputs
    ctx.sides = None
    if save_signs:
        ctx.save_for_backward(signs)
        ctx.sides = _Side(fake, fake), _Side(real, fake)


def _gradients_of_sides(namespace: str, grad: Tensor, signs: Tensor, ctx: Any) -> Iterator[list[Tensor | None]]:
    """The gradients of fake and of real, from what ``_save_for_backward`` has saved."""
    for side, sign in zip(ctx.sides, (1.0, -1.0), strict=True):
        yield _gradients(namespace, side, grad, signs, ctx.weights, sign)


def _gradients(
    namespace: str, side: _Side, grad: Tensor, signs: Tensor, weights: Sequence[float], sign: float
) -> list[Tensor | None]:
    """The gradients of one side's tensors, None where none is needed; sign: 1 for fake, −1 for real."""
    gradients: list[Tensor | None] = [None] * side.count
    several = grad if batched(grad) else None
    if several is not None:  # the operator takes one number: let it compute the gradients for 1, and multiply
        grad = torch.ones((), dtype=grad.dtype, device=grad.device)
    for dtype in {g.dtype for g in side.gradients}:
        chosen = [g for g in side.gradients if g.dtype == dtype]
        flat = call_in_backward(
            _operators_of(namespace)[1],
            grad,
            signs,
            [g.numel for g in chosen],
            [g.offset for g in chosen],
            [sign * weights[g.pair] / max(g.numel, 1) for g in chosen],
            dtype if several is None else several.dtype,
        )
        for g, values in zip(chosen, flat, strict=True):
            values = values.as_strided(g.shape, g.strides)
            gradients[g.pair] = values if several is None else (values * several).to(dtype)
    return gradients


def _save_for_second_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, signs, *ctx.rest = inputs
    ctx.save_for_backward(grad, signs)


def _second_backward(namespace: str) -> Any:
    """The backward of ``feature_l1_backward``, which is linear in ``grad``. It has no derivative with respect to the
    inputs, because the derivative of a sign is 0."""

    def backward(ctx: Any, upstream: list[Tensor | None]) -> tuple[Tensor, None, None, None, None, None]:
        grad, signs = ctx.saved_tensors
        per_unit = getattr(torch.ops, namespace).feature_l1_backward(torch.ones_like(grad), signs, *ctx.rest)
        total = torch.zeros_like(grad)
        for unit, up in zip(per_unit, upstream, strict=True):
            if up is not None:
                total = total + (unit.to(grad.dtype) * up.to(grad.dtype)).sum()
        return total, None, None, None, None, None

    return backward


backend.on_load(register)

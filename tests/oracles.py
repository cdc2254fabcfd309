"""What the operators' tests compare with, and by which rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALF)


def error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value; NaN and Inf must stand in the same places."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    assert torch.equal(actual.isnan(), expected.isnan()), "NaN in other places"
    infinite = expected.isinf()
    assert torch.equal(actual.isinf(), infinite), "Inf in other places"
    assert torch.equal(actual[infinite], expected[infinite]), "Inf of another sign"
    finite = expected.isfinite()
    if not finite.any():
        return 0.0
    largest = expected[finite].abs().max().item()
    return (actual[finite] - expected[finite]).abs().max().item() / (largest or 1.0)


def assert_as_good(
    actual: Sequence[Tensor], plain: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype
) -> None:
    """The rule of equality: float64 within 1e-10, float32 within 1e-5; half types at most twice as far from the float64
    result as plain PyTorch in that half type is, or one rounding to that type away.

    Args:
        actual, plain: what an operator and plain PyTorch give in ``dtype``.
        exact: what plain PyTorch gives in float64 for the same inputs.
    """
    for index, (a, p, e) in enumerate(zip(actual, plain, exact, strict=True)):
        assert a.dtype == p.dtype, f"result {index} is {a.dtype}; expected {p.dtype}"
        if dtype in HALF:
            allowed = max(2 * error(p, e), torch.finfo(dtype).eps)
            assert error(a, e) <= allowed, f"result {index}: {error(a, e)} from float64, plain PyTorch {error(p, e)}"
        else:
            allowed = 1e-10 if dtype == torch.float64 else 1e-5
            # Sums of many terms: where plain PyTorch itself is further from the truth, that distance is granted.
            assert error(a, e) <= max(allowed, error(p, e)), f"result {index}: {error(a, e)}"


def in_float64(function: Callable[..., Sequence[Tensor]], *tensors: Tensor | None) -> Sequence[Tensor]:
    """function of the same values in float64, each a leaf where the given one requires a gradient."""
    return function(*(None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in tensors))


def assert_near_apart_from_kinks(error_with: Callable[[int], float], limit: float = 1e-4) -> None:
    """An error of gradients in float32 is below the limit with one of several inputs.

    Rounding moves a value near the kink of a ReLU or of an L1 distance to its other side. In a small network, such a
    value can be several percent of a gradient, with plain PyTorch's float32 too. So an input is looked for with which
    it does not happen; wrong kernels are wrong with all.

    Args:
        error_with: takes the number of an input.
    """
    errors: list[float] = []
    for number in range(10, 18):
        errors.append(error_with(number))
        if errors[-1] < limit:
            return
    raise AssertionError(f"gradients are far from those in float64 with all inputs: {errors}")


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x.contiguous(),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": lambda x: torch.stack([x, x], -1)[..., 0],
    "offset": lambda x: torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape),
}

#: Two of them as parameters. A float32 tensor in channels_last may be turned by a native operator, whichever
#: implementation computes: its tests run with and without the native extension (tests/builds.py).
TWO_LAYOUTS = ["contiguous", pytest.param("channels_last", marks=pytest.mark.every_build)]


class NoGradient(torch.autograd.Function):
    """A function whose backward returns no gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None

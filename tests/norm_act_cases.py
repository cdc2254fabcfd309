"""Arguments of norm_act, and its comparison with the reference and with float64."""

from __future__ import annotations

import pytest
import torch
from oracles import HALF, LAYOUTS, assert_as_good, in_float64
from torch import Tensor

from igan_fast import ops
from igan_fast.reference import ops as reference

TURNED = ("channels_last", torch.float32)
#: As oracles.TWO_LAYOUTS: what a native operator may turn runs with and without the native extension.
LAYOUTS_AND_DTYPES = [
    pytest.param(layout, dtype, marks=[pytest.mark.every_build] if (layout, dtype) == TURNED else [])
    for layout in LAYOUTS
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
]


def arguments(shape, dtype, place, layout="contiguous"):
    """x, weight, bias and an upstream gradient; parameters of a half type's x are float32, as in mixed precision."""
    x = torch.randn(shape, dtype=torch.float64) * 2 + 0.5
    parameter_dtype = torch.float32 if dtype in HALF else dtype
    weight, bias = torch.randn(2, shape[1], dtype=torch.float64)
    x = LAYOUTS[layout](x.to(place.device, dtype)).requires_grad_()
    weight, bias = (t.to(place.device, parameter_dtype).requires_grad_() for t in (weight, bias))
    return x, weight, bias, torch.randn(shape, dtype=torch.float64).to(place.device, dtype)


def film_for(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """γ and β of each image of x, as columns of a wider matrix. ``dtype``: x's, or float32 if that is a half type."""
    wide = torch.randn(x.shape[0], 2 * x.shape[1] + 3, dtype=torch.float64)
    wide = wide.to(x.device, dtype or (torch.float32 if x.dtype in HALF else x.dtype))
    return wide[:, 2:-1].requires_grad_()


def running(x: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if x.dtype in HALF else x.dtype
    mean, var = torch.rand(2, x.shape[1], dtype=torch.float64, generator=generator)
    return mean.to(x.device, dtype), (var + 0.5).to(x.device, dtype)


def run(function, x, weight, bias, grad, film=None, statistics=False, **options):
    """The output, its gradients, and the running statistics."""
    kept = running(x) if statistics else (None, None)
    y = function(x, weight, bias, *kept, film=film, **options)
    leaves = [t for t in (x, weight, bias, film) if t is not None and t.requires_grad]
    return [y, *torch.autograd.grad(y, leaves, grad.to(y.dtype)), *(t for t in kept if t is not None)]


def check(place, x, weight, bias, grad, dtype, film=None, **options):
    actual = run(ops.norm_act, x, weight, bias, grad, film, impl=place.impl, **options)
    plain = run(reference.norm_act, x, weight, bias, grad, film, **options)
    exact = in_float64(lambda *t: run(reference.norm_act, *t, **options), x, weight, bias, grad, film)
    assert_as_good(actual, plain, exact, dtype)

"""Pairs for feature_l1, and its comparison with the reference and with float64."""

from __future__ import annotations

import torch
from oracles import LAYOUTS, assert_as_good, in_float64

from igan_fast import ops
from igan_fast.reference import ops as reference


def pair(shape, dtype, place, layout="contiguous", other_layout=None):
    sides = []
    for arrange in (layout, other_layout or layout):
        side = torch.randn(shape, dtype=torch.float64).to(place.device, dtype)
        sides.append(LAYOUTS[arrange](side).requires_grad_())
    return sides


def run(function, fakes, reals, weights=None, **options):
    """The loss and the gradient of every side."""
    loss = function(fakes, reals, weights, **options)
    return [loss, *torch.autograd.grad(loss * 3, [*fakes, *reals])]


def check(place, fakes, reals, weights, dtype):
    actual = run(ops.feature_l1, fakes, reals, weights, impl=place.impl)
    plain = run(reference.feature_l1, fakes, reals, weights)
    count = len(fakes)
    exact = in_float64(lambda *t: run(reference.feature_l1, t[:count], t[count:], weights), *fakes, *reals)
    assert_as_good(actual, plain, exact, dtype)

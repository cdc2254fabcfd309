"""The halves of norm_act, between which the statistics of several processes are combined: together they are the whole.

``norm_act`` and ``norm_act_backward`` are the oracle, whose own tests compare them with the reference.
"""

from __future__ import annotations

import pytest
import torch
from norm_act_cases import LAYOUTS, arguments, film_for
from oracles import DTYPES, HALF, error
from torch import Tensor

SHAPES = {
    "few values": ((4, 3, 2, 2), 2),
    "one image in a group": ((2, 5, 7, 3), 2),
    "odd sizes": ((6, 17, 5, 7), 3),
    "no spatial dimensions": ((12, 9), 2),
    "one channel": ((4, 1, 6, 5), 1),
}
LAYOUT = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def given(place, shape, dtype, layout, film) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """x, weight and bias; a gradient in the memory layout of x; film or None."""
    tensors = [t.detach() for t in arguments(shape, dtype, place, layout)]
    return tensors[:3], LAYOUTS[layout](tensors[3]), film_for(tensors[0]).detach() if film else None


@LAYOUT
@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SHAPES)
def test_the_halves_are_the_whole(place, case, dtype, film, layout):
    if place.interpreted and (dtype == torch.float16 or case == "odd sizes"):
        pytest.skip("slow")
    check(place, *SHAPES[case], dtype, film, layout)


@LAYOUT
@pytest.mark.parametrize("film", [False, True])
def test_large_tensors(native, film, layout):
    """Few channels, each of which several threads work on."""
    check(native, (2, 3, 210, 170), 1, torch.float32, film, layout)


def check(place, shape, groups, dtype, film, layout):
    (x, weight, bias), grad, film = given(place, shape, dtype, layout, film)
    settings = 1e-5, 0.2
    y, *statistics = place.ops.norm_act(x, weight, bias, *settings, groups, film)
    found = place.ops.norm_act_statistics(x, groups)
    assert all(torch.equal(a, b) for a, b in zip(found, statistics, strict=True))
    assert torch.equal(place.ops.norm_act_inference(x, weight, bias, *statistics, *settings, film), y)

    dx, dweight, dbias, dfilm = place.ops.norm_act_backward(grad, x, weight, bias, *statistics, *settings, True, film)
    sums, own_dfilm = place.ops.norm_act_sums(grad, x, weight, bias, *statistics, *settings, film)
    channels, values = shape[1], x.numel() // (groups * shape[1])
    assert sums.shape == (3, groups, channels)
    assert sums.dtype == torch.float64
    assert torch.equal(own_dfilm, dfilm)
    close = 1e-12 if dtype == torch.float64 else 1e-6
    assert error(sums[0].sum(0), dbias.double()) < close
    assert error((sums[1] * (statistics[1].double() + 1e-5).rsqrt()).sum(0), dweight.double()) < close
    assert sums[2].abs().max() <= 1e-5 * values * x.abs().max()  # Σ (x − mean) is 0 but for rounding
    own_dx = place.ops.norm_act_gradient(grad, x, weight, bias, *statistics, sums / values, *settings, film)
    assert own_dx.stride() == dx.stride()
    assert error(own_dx, dx) <= (2 * torch.finfo(dtype).eps if dtype in HALF else 10 * close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_running_statistics_by_an_unbiased_variance(place, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mean, var = torch.rand(2, 2, 5, device=place.device, dtype=wide)
    by_count, by_unbiased = (torch.linspace(0, 1, 10, device=place.device).view(2, 5).to(dtype) for _ in range(2))
    place.ops.norm_act_update(*by_count, mean, var, 7, 0.3)
    place.ops.norm_act_update(*by_unbiased, mean, var * (7 / 6), None, 0.3)
    assert error(by_unbiased, by_count) < (1e-12 if dtype == torch.float64 else 1e-6 if dtype == wide else 0.01)
    assert not torch.equal(by_count, torch.linspace(0, 1, 10, device=place.device).view(2, 5).to(dtype))


def test_a_part_of_the_sums_is_refused(native):
    (x, weight, bias), grad, _ = given(native, (4, 3, 2, 2), torch.float32, "contiguous", False)
    _, *statistics = native.ops.norm_act(x, weight, bias, 1e-5, 0.2, 2, None)
    for wrong in (torch.zeros(2, 2, 3), torch.zeros(3, 2, 3), torch.zeros(3, 3, 2, dtype=torch.float64).mT[:, :1]):
        with pytest.raises(RuntimeError, match=r"mean_sums: expected \(3, groups, C\), contiguous and float64"):
            native.ops.norm_act_gradient(grad, x, weight, bias, *statistics, wrong.to(x.device), 1e-5, 0.2)

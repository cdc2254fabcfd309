"""The operators of minimal filtering as they are called: their arguments, shapes and memory. What they compute is
tested with the implementation that calls them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from igan_fast import ops
from igan_fast.ops.convolution.winograd import FILTERS

pytestmark = pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])


def test_the_operators_name_the_wrong_argument():
    operators = torch.ops.igan_fast
    x, weight, small = torch.randn(2, 8, 8, 16), torch.randn(20, 16, 4, 4), torch.randn(2, 4, 4, 20)
    filter = operators.winograd_filter(weight, 2, False, 2)
    plain = {
        "x": x, "filter": filter, "size": [4, 4], "channels": 20, "kernel": 4, "stride": 2, "padding": 1,
        "bias": None, "negative_slope": 1.0, "transposed": False, "tile": 2,
    }  # fmt: skip
    gradient = {"large": x, "small": small, "kernel": 4, "stride": 2, "padding": 1, "tile": 2}
    made_of = r"filter: expected weights \({}\), or what winograd_filter makes of them for this stride, direction"
    unfit = made_of.format("20, 16, 4, 4")
    wrong = filter.clone()
    wrong[0] = 0
    for change, message in (
        ({"tile": 3}, "kernel/stride/tile is 4/2/3; expected one of 5/2/2 5/2/4 4/2/2"),
        ({"kernel": 7}, "kernel/stride/tile is 7/2/2"),
        ({"stride": 1}, "kernel/stride/tile is 4/1/2"),
        ({"padding": -1}, "padding is -1; expected 0 to 3"),
        ({"padding": 4}, "padding is 4; expected 0 to 3"),
        ({"padding": 2}, "4×4 with stride 2 and padding 2 does not take 8 by 8 to 4 by 4"),
        ({"size": [4, 5]}, "4×4 with stride 2 and padding 1 does not take 8 by 8 to 4 by 5"),
        ({"size": [0, 4]}, "size: expected height and width, at least 1"),
        ({"size": [4]}, "size: expected height and width, at least 1"),
        ({"transposed": True}, "does not take 4 by 4 to 8 by 8"),
        ({"channels": 0}, "channels is 0; expected at least 1"),
        ({"channels": 19}, made_of.format("19, 16, 4, 4")),  # of the same size in memory
        ({"x": x[..., :15].contiguous()}, made_of.format("20, 15, 4, 4")),
        ({"transposed": True, "size": [16, 16], "channels": 16, "x": torch.randn(2, 8, 8, 20)}, unfit),
        ({"tile": 4}, unfit),
        ({"kernel": 5, "padding": 2}, made_of.format("20, 16, 5, 5")),
        ({"filter": filter.double()}, unfit),
        ({"filter": filter[:-1]}, unfit),
        ({"filter": filter[:0]}, unfit),
        ({"filter": filter.repeat_interleave(2)[::2]}, unfit),
        ({"filter": torch.randn_like(filter)}, unfit),
        ({"filter": wrong}, unfit),
        ({"filter": weight.double()}, unfit),
        ({"filter": weight[:19]}, unfit),
        ({"filter": weight[:, :15]}, unfit),
        ({"filter": weight[..., :3]}, unfit),
        ({"filter": weight[:, :, :3]}, unfit),
        ({"filter": weight.reshape(1, *weight.shape)}, unfit),
        ({"x": x.double()}, "x: expected float32, bfloat16 or float16"),
        ({"x": x.transpose(1, 2)}, "x: expected .N, H, W, C., contiguous"),
        ({"x": x[:0]}, "x is empty"),
        ({"bias": torch.zeros(19)}, "bias: expected .20"),
        ({"bias": torch.zeros(20).double()}, "bias: expected .20"),
        ({"bias": torch.zeros(40)[::2]}, "bias: expected .20"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operators.winograd_conv(**plain | change)
    for change, message in (
        ({"small": x}, "does not take 8 by 8 to 8 by 8"),
        ({"small": small[:1]}, "large and small: expected one batch, found 2 and 1"),
        ({"small": small.double()}, "small: expected float32, bfloat16 or float16"),
        ({"small": small.half()}, "large and small: expected one dtype"),
        ({"large": x.transpose(1, 2)}, "large: expected .N, H, W, C., contiguous"),
        ({"tile": 3}, "kernel/stride/tile is 4/2/3"),
        ({"padding": 9}, "padding is 9; expected 0 to 3"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operators.winograd_conv_weight_gradient(**gradient | change)
    for arguments, message in (
        ((weight, 2, False, 3), "kernel/stride/tile is 4/2/3"),
        ((weight, 3, False, 2), "kernel/stride/tile is 4/3/2"),
        ((weight.double(), 2, False, 2), "weight: expected float32, bfloat16 or float16"),
        ((weight[..., :3], 2, False, 2), "weight: expected .small channels, large channels, kernel, kernel"),
        ((weight[:0], 2, False, 2), "weight: expected .small channels, large channels, kernel, kernel"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operators.winograd_filter(*arguments)
    assert operators.winograd_conv(**plain).shape == (2, 4, 4, 20)
    assert torch.equal(operators.winograd_conv(**plain), operators.winograd_conv(**plain | {"filter": filter.clone()}))


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(("kernel", "stride"), FILTERS)
def test_weights_take_the_place_of_their_transformed_filter(kernel: int, stride: int, tile: int):
    """In each layout, and with the same bits."""
    operators, padding = torch.ops.igan_fast, kernel // 2
    weight = torch.randn(35, 17, kernel, kernel)
    layouts = weight, weight.to(memory_format=torch.channels_last), weight.repeat_interleave(2, dim=3)[..., ::2]
    for transposed, channels in ((False, (17, 35)), (True, (35, 17))):
        given, result = (4, 3), (stride * 4, stride * 3)
        if not transposed:
            given, result = result, given
        settings = list(result), channels[1], kernel, stride, padding - (kernel == 4), None, 0.2, transposed, tile
        x = torch.randn(2, *given, channels[0])
        expected = operators.winograd_conv(x, operators.winograd_filter(weight, stride, transposed, tile), *settings)
        for each in layouts:
            assert torch.equal(operators.winograd_conv(x, each, *settings), expected)


def test_shapes_without_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, filter = torch.empty(2, 8, 6, 16), torch.empty(100)
        operators = torch.ops.igan_fast
        assert operators.winograd_conv(x, filter, [4, 3], 20, 4, 2, 1, None, 1.0, False, 2).shape == (2, 4, 3, 20)
        assert operators.winograd_conv(x, filter, [16, 12], 20, 4, 2, 1, None, 1.0, True, 2).shape == (2, 16, 12, 20)
        gradient = operators.winograd_conv_weight_gradient(x, x[:, ::2, ::2], 4, 2, 1, 2)
        assert gradient.shape == (16, 16, 4, 4)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is Linux's")
def test_a_call_that_runs_out_of_memory_does_not_disturb_the_next():
    """Each in the thread whose scratch memory the failed call tried to enlarge."""
    code = """
import resource
import torch
from igan_fast.ops.convolution import ConvSettings, winograd, winograd_costs
from igan_fast.ops.convolution.plan import Problem
torch.set_num_threads(1)
winograd_costs.MARGIN, winograd_costs.FEWEST = float("inf"), 0
settings = ConvSettings(2, stride=2, padding=2)
def solution(kind, x, w):
    problem = Problem(settings, True, x.shape, w.shape, x.dtype, w.dtype, "cpu", True, False, False, False)
    return getattr(winograd.Winograd(), kind)(problem)
x, w = torch.randn(2, 16, 8, 8), torch.randn(16, 16, 5, 5)
many, wide = torch.randn(16, 640, 16, 16), torch.randn(640, 640, 5, 5)
grad = torch.randn(16, 640, 8, 8)
small = solution("convolve", x, w)(x, w, None, 1.0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
for attempt in range(2):
    resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20), hard))  # the gradient takes 41 MB, the planes 40 MB
    try:
        solution("weight_gradient", many, wide)(grad, many)
    except (MemoryError, RuntimeError) as error:
        print("refused", attempt)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
assert torch.equal(solution("convolve", x, w)(x, w, None, 1.0), small)
found = solution("weight_gradient", many, wide)(grad, many)
expected = torch.nn.grad.conv2d_weight(many, wide.shape, grad, 2, 2)
assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
print("right")
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["refused", "0", "refused", "1", "right"]

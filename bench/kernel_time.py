"""Times of the GPU kernels alone, without their launches: ``python -m bench.kernel_time``.

Every call is recorded in a CUDA graph, and its replays are timed. Prints a Markdown table for each operator: norm_act
and feature_l1 in the native and in the Triton kernels, at the sizes of the iteration with 256 images of 128²; and the
convolutions from and to three channels, as dense ones and as cuDNN computes them.

``--quick`` only shows that the calls run. The tensors are tiny, and without a GPU the CPU computes them; with
TRITON_INTERPRET=1 Triton's kernels run too.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from bench.subjects import activations
from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.ops.convolution import ConvSettings, InputSpec, few_channels, pytorch
from igan_fast.ops.convolution.plan import Problem


class Sizes(NamedTuple):
    """What is timed, and where.

    Attributes:
        maps: (N, C, H, W) of feature maps of D and G.
        batch: of the images of 128².
    """

    device: torch.device
    maps: tuple[tuple[int, int, int, int], ...]
    batch: int


MAPS = ((256, 64, 64, 64), (256, 128, 32, 32), (512, 128, 32, 32), (256, 256, 16, 16), (256, 512, 8, 8))
QUICK_MAPS = ((4, 16, 8, 8), (2, 8, 3, 5))


def microseconds(call: Callable[[], Any], device: torch.device) -> float:
    """The median time of a recorded call; on a CPU the time of one call."""
    if device.type == "cpu":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e6
    from triton.testing import do_bench_cudagraph

    milliseconds: float = do_bench_cudagraph(call, rep=20, return_mode="median")
    return milliseconds * 1e3


def random(sizes: Sizes, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device=sizes.device).to(dtype=dtype, memory_format=torch.channels_last)


def namespaces(device: torch.device) -> list[str]:
    """Those of the kernels that this machine has."""
    found = ops.backends()
    names = {f"native-{device.type}": backend.NATIVE, "triton": backend.TRITON}
    return [namespace for name, namespace in names.items() if found[name] == backend.AVAILABLE]


def of_norm_act(sizes: Sizes, namespace: str, dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    """Forward and backward, each with its throughput for the fewest bytes: three and five times the tensor."""
    operators = getattr(torch.ops, namespace)
    x, grad = random(sizes, *shape, dtype=dtype), random(sizes, *shape, dtype=dtype)
    weight, bias = torch.ones(shape[1], device=sizes.device), torch.zeros(shape[1], device=sizes.device)
    given, settings = (x, weight, bias), (1e-5, 0.2)
    _, mean, var = operators.norm_act(*given, *settings, 1, None)
    forward = microseconds(lambda: operators.norm_act(*given, *settings, 1, None), sizes.device)
    backward = microseconds(
        lambda: operators.norm_act_backward(grad, *given, mean, var, *settings, True, None), sizes.device
    )
    size = x.numel() * x.element_size() / 1e6  # bytes per microsecond are megabytes per second
    return f"{forward:.0f} / {backward:.0f} µs, {3 * size / forward:.2f} / {5 * size / backward:.2f} TB/s"


def of_feature_l1(sizes: Sizes, namespace: str) -> str:
    """Forward, with the sign mask."""
    fake, real = (activations(sizes.batch, "channels_last", "bfloat16", sizes.device) for _ in range(2))
    operator = getattr(torch.ops, namespace).feature_l1
    duration = microseconds(lambda: operator(fake, real, [1.0] * 4, True), sizes.device)
    size = sum(2.125 * each.numel() * each.element_size() for each in fake) / 1e6
    return f"{duration:.0f} µs, {size / duration:.2f} TB/s"


def of_convolution(sizes: Sizes, transposed: bool) -> str:
    """D's first or G's last layer: as dense convolutions, and cuDNN's. Forward, input gradient, weight gradient."""
    settings = ConvSettings.cached(2, transposed=transposed, stride=2, padding=2, output_padding=int(transposed))
    x = random(sizes, sizes.batch, *((64, 64, 64) if transposed else (3, 128, 128)))
    weight = random(sizes, 64, 3, 5, 5)
    bias = torch.zeros(3 if transposed else 64, device=sizes.device, dtype=torch.bfloat16)
    spec = InputSpec.of(x)
    problem = Problem(
        settings, False, x.shape, weight.shape, x.dtype, weight.dtype, "cuda", True, True, False, differentiable=False
    )
    dense, grad = few_channels.FewChannels(), torch.randn_like(pytorch.convolve(settings, x, weight, bias))

    def times(*calls: Callable[[], Any]) -> str:
        return " / ".join(f"{microseconds(call, sizes.device):.0f}" for call in calls)

    with mock.patch.object(few_channels, "MIN_VALUES", 0):  # the few images of --quick too
        convolve, input_gradient, weight_gradient = (
            _present(method(problem)) for method in (dense.convolve, dense.input_gradient, dense.weight_gradient)
        )
    return " | ".join(
        (
            times(
                functools.partial(convolve, x, weight, bias, 1.0),
                functools.partial(input_gradient, grad, weight, spec),
                functools.partial(weight_gradient, grad, x),
            ),
            times(
                lambda: pytorch.convolve(settings, x, weight, bias),
                lambda: pytorch.gradients(grad, x, weight, settings, spec, True, False),
                lambda: pytorch.gradients(grad, x, weight, settings, spec, False, True),
            ),
        )
    )


def _present(function: Callable[..., Any] | None) -> Callable[..., Any]:
    if function is None:
        raise RuntimeError("the dense convolution does not take this problem")
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_time", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny tensors, without a GPU too: whether it runs")
    quick = parser.parse_args(arguments).quick
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not quick:
        print("bench.kernel_time: there is no CUDA device", file=sys.stderr)
        return 2
    device = torch.device("cuda" if on_gpu else "cpu")
    sizes = Sizes(device, QUICK_MAPS, 1) if quick else Sizes(device, MAPS, 256)
    print(f"{torch.cuda.get_device_name() if on_gpu else 'CPU'}, torch {torch.__version__}\n")
    print("| norm_act, forward / backward | " + " | ".join("×".join(map(str, shape)) for shape in sizes.maps) + " |")
    print("|---|" + "---|" * len(sizes.maps))
    for dtype in (torch.bfloat16, torch.float32):
        for namespace in namespaces(device):
            cells = " | ".join(of_norm_act(sizes, namespace, dtype, shape) for shape in sizes.maps)
            print(f"| {namespace}, {dtype} | {cells} |", flush=True)
    print(f"\n| feature_l1, four activations of {sizes.batch} images, bfloat16, forward | |\n|---|---|")
    for namespace in namespaces(device):
        print(f"| {namespace} | {of_feature_l1(sizes, namespace)} |", flush=True)
    print(
        "\n| Three channels, bfloat16; forward / input gradient / weight gradient, µs | Dense | cuDNN |\n|---|---|---|"
    )
    for name, transposed in (("D 1", False), ("G 4", True)):
        print(f"| {name} | {of_convolution(sizes, transposed)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

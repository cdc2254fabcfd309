"""Times of the GPU kernels alone, without their launches: ``python -m bench.kernel_time``.

Every call is recorded in a CUDA graph, and its replays are timed. Prints a Markdown table for each operator: norm_act
and feature_l1 in the native and in the Triton kernels, at the sizes of the iteration with 256 images of 128²; and the
convolutions from and to three channels, by Triton's kernels for images, as dense ones and as cuDNN computes them.

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
from igan_fast.ops.conv_act import before_activation
from igan_fast.ops.convolution import ConvSettings, InputSpec, few_channels, pytorch
from igan_fast.ops.convolution.plan import Problem
from igan_fast.ops.convolution.triton_images import TritonImages


class Sizes(NamedTuple):
    """What is timed, and where.

    Attributes:
        maps: (N, C, H, W) of feature maps of D and G.
        batch: of the images.
        side: of the images, in pixels.
    """

    device: torch.device
    maps: tuple[tuple[int, int, int, int], ...]
    batch: int
    side: int = 128


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


class Layer(NamedTuple):
    """Calls that compute a convolution and its gradients. The gradient of the output is given, or, for the last two,
    that of the output of a LeakyReLU after it."""

    forward: Callable[[], Any]
    input_gradient: Callable[[], Any]
    weight_gradient: Callable[[], Any]
    activated: Callable[[], Any] | None = None
    activated_input_gradient: Callable[[], Any] | None = None
    activated_other_gradients: Callable[[], Any] | None = None


def layers(sizes: Sizes, transposed: bool) -> dict[str, Layer]:
    """D's first or, transposed, G's last layer: by Triton's kernels for images, as dense convolutions, and cuDNN's."""
    settings = ConvSettings.cached(2, transposed=transposed, stride=2, padding=2, output_padding=int(transposed))
    side = sizes.side // 2 if transposed else sizes.side
    x = random(sizes, sizes.batch, 64 if transposed else 3, side, side)
    weight = random(sizes, 64, 3, 5, 5)
    bias = torch.zeros(3 if transposed else 64, device=sizes.device, dtype=torch.bfloat16)
    spec = InputSpec.of(x)
    y = pytorch.convolve(settings, x, weight, bias)
    grad = torch.randn_like(y)
    problem = Problem(
        settings, False, x.shape, weight.shape, x.dtype, weight.dtype, "cuda", True, True, False, differentiable=False
    )
    found: dict[str, Layer] = {}

    def cudnn(grad: Tensor, of_input: bool) -> Tensor | None:
        return pytorch.gradients(grad, x, weight, settings, spec, of_input, not of_input)[not of_input]

    with mock.patch.object(few_channels, "MIN_VALUES", 0):  # the few images of --quick too
        dense = few_channels.FewChannels()
        convolve, input_gradient, weight_gradient = (
            _present(method(problem)) for method in (dense.convolve, dense.input_gradient, dense.weight_gradient)
        )
    for name, forward, of_input, of_weight in (
        ("Dense", convolve, lambda grad: input_gradient(grad, weight, spec), lambda grad: weight_gradient(grad, x)),
        (
            "cuDNN",
            functools.partial(pytorch.convolve, settings),
            lambda grad: cudnn(grad, True),
            lambda grad: cudnn(grad, False),
        ),
    ):

        def others(of_weight: Callable[..., Any] = of_weight) -> tuple[Any, Tensor]:
            before = before_activation(grad, y, 0.2)
            return of_weight(before), before.sum((0, 2, 3))

        found[name] = Layer(
            functools.partial(forward, x, weight, bias, 1.0),
            functools.partial(of_input, grad),
            functools.partial(of_weight, grad),
            functools.partial(forward, x, weight, bias, 0.2),
            lambda of_input=of_input: of_input(before_activation(grad, y, 0.2)),
            others,
        )
    if backend.TRITON in namespaces(sizes.device):
        asked = problem._replace(device=sizes.device.type, triton=True)
        ours = TritonImages()
        layer = Layer(
            functools.partial(_present(ours.convolve(asked)), x, weight, bias, 1.0),
            functools.partial(_present(ours.input_gradient(asked)), grad, weight, spec),
            functools.partial(_present(ours.weight_gradient(asked)), grad, x),
        )
        if not transposed:
            fused = functools.partial(_present(ours.activation_gradients(asked)), grad, y, 0.2, x, weight, spec)
            layer = layer._replace(
                activated=functools.partial(_present(ours.convolve(asked)), x, weight, bias, 0.2),
                activated_input_gradient=functools.partial(fused, (True, False, False)),
                activated_other_gradients=functools.partial(fused, (False, True, True)),
            )
        found = {"Triton": layer} | found
    return found


def of_convolutions(sizes: Sizes) -> list[str]:
    """The lines of the table of convolutions of images."""
    d, g = layers(sizes, False), layers(sizes, True)

    def cell(layer: Layer, kind: slice) -> str:
        return " / ".join(f"{microseconds(call, sizes.device):.0f}" for call in layer[kind] if call is not None)

    rows = (("D 1", d, slice(3)), ("G 4", g, slice(3)), ("D 1 with LeakyReLU", d, slice(3, 6)))
    return [
        f"| Three channels, bfloat16: forward / input gradient / weight gradient, µs | {' | '.join(d)} |",
        f"|---|{'---|' * len(d)}",
        *(f"| {name} | {' | '.join(cell(layer, kind) for layer in found.values())} |" for name, found, kind in rows),
    ]


def _present(function: Callable[..., Any] | None) -> Callable[..., Any]:
    if function is None:
        raise RuntimeError("an implementation does not take this problem")
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
    sizes = Sizes(device, QUICK_MAPS, 1, 16) if quick else Sizes(device, MAPS, 256)
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
    print("\nWith LeakyReLU, the weight gradient includes the bias's.\n")
    print("\n".join(of_convolutions(sizes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

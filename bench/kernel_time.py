"""Times of the GPU kernels alone, without their launches: ``python -m bench.kernel_time``.

Every call is recorded in a CUDA graph, and its replays are timed. Prints a Markdown table for each operator: norm_act
and feature_l1 in the native and in the Triton kernels, at the sizes of the iteration with 256 images of 128²; and the
convolutions from and to three channels, as dense ones and as cuDNN computes them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.subjects import activations
from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.ops.convolution import ConvSettings, InputSpec, pytorch
from igan_fast.ops.convolution.few_channels import FewChannels
from igan_fast.ops.convolution.plan import Problem

#: (N, C, H, W) of the feature maps of D and G.
SHAPES = [(256, 64, 64, 64), (256, 128, 32, 32), (512, 128, 32, 32), (256, 256, 16, 16), (256, 512, 8, 8)]


def microseconds(call: Callable[[], Any]) -> float:
    """The median time of a recorded call."""
    from triton.testing import do_bench_cudagraph

    milliseconds: float = do_bench_cudagraph(call, rep=20, return_mode="median")
    return milliseconds * 1e3


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype=dtype, memory_format=torch.channels_last)


def namespaces() -> list[str]:
    """Those of the kernels that this machine has."""
    found = ops.backends()
    names = {"native-cuda": backend.NATIVE, "triton": backend.TRITON}
    return [namespace for name, namespace in names.items() if found[name] == backend.AVAILABLE]


def of_norm_act(namespace: str, dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    """Forward and backward, each with its throughput for the fewest bytes: three and five times the tensor."""
    operators = getattr(torch.ops, namespace)
    x, grad = random(*shape, dtype=dtype), random(*shape, dtype=dtype)
    weight, bias = torch.ones(shape[1], device="cuda"), torch.zeros(shape[1], device="cuda")
    given, settings = (x, weight, bias), (1e-5, 0.2)
    _, mean, var = operators.norm_act(*given, *settings, 1, None)
    forward = microseconds(lambda: operators.norm_act(*given, *settings, 1, None))
    backward = microseconds(lambda: operators.norm_act_backward(grad, *given, mean, var, *settings, True, None))
    size = x.numel() * x.element_size() / 1e6  # bytes per microsecond are megabytes per second
    return f"{forward:.0f} / {backward:.0f} µs, {3 * size / forward:.2f} / {5 * size / backward:.2f} TB/s"


def of_feature_l1(namespace: str) -> str:
    """Forward, with the sign mask."""
    fake, real = (activations(256, "channels_last", "bfloat16", torch.device("cuda")) for _ in range(2))
    operator = getattr(torch.ops, namespace).feature_l1
    time = microseconds(lambda: operator(fake, real, [1.0] * 4, True))
    size = sum(2.125 * each.numel() * each.element_size() for each in fake) / 1e6
    return f"{time:.0f} µs, {size / time:.2f} TB/s"


def of_convolution(transposed: bool) -> str:
    """D's first or G's last layer: as dense convolutions, and cuDNN's. Forward, input gradient, weight gradient."""
    settings = ConvSettings.cached(2, transposed=transposed, stride=2, padding=2, output_padding=int(transposed))
    x, weight = random(*((256, 64, 64, 64) if transposed else (256, 3, 128, 128))), random(64, 3, 5, 5)
    bias = torch.zeros(3 if transposed else 64, device="cuda", dtype=torch.bfloat16)
    spec = InputSpec.of(x)
    problem = Problem(
        settings, False, x.shape, weight.shape, x.dtype, weight.dtype, "cuda", True, True, False, differentiable=False
    )
    dense, grad = FewChannels(), torch.randn_like(pytorch.convolve(settings, x, weight, bias))

    def times(*calls: Callable[[], Any]) -> str:
        return " / ".join(f"{microseconds(call):.0f}" for call in calls)

    return " | ".join(
        (
            times(
                functools.partial(_present(dense.convolve(problem)), x, weight, bias, 1.0),
                functools.partial(_present(dense.input_gradient(problem)), grad, weight, spec),
                functools.partial(_present(dense.weight_gradient(problem)), grad, x),
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


def main() -> int:
    if not torch.cuda.is_available():
        print("bench.kernel_time: there is no CUDA device", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| norm_act, forward / backward | " + " | ".join("×".join(map(str, shape)) for shape in SHAPES) + " |")
    print("|---|" + "---|" * len(SHAPES))
    for dtype in (torch.bfloat16, torch.float32):
        for namespace in namespaces():
            cells = " | ".join(of_norm_act(namespace, dtype, shape) for shape in SHAPES)
            print(f"| {namespace}, {dtype} | {cells} |", flush=True)
    print("\n| feature_l1, four activations of 256 images, bfloat16, forward | |\n|---|---|")
    for namespace in namespaces():
        print(f"| {namespace} | {of_feature_l1(namespace)} |", flush=True)
    print(
        "\n| Three channels, bfloat16; forward / input gradient / weight gradient, µs | Dense | cuDNN |\n|---|---|---|"
    )
    for name, transposed in (("D 1", False), ("G 4", True)):
        print(f"| {name} | {of_convolution(transposed)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Times of the kernels of blocks alone, without their launches: ``python -m bench.block_time``.

A block is a convolution with the normalisations and activations before and after it (``IGAN_FAST_CONVOLUTION=blocks``).
Prints a Markdown table of D's and G's layers for 256 images of 128² in bfloat16: a block's three kernels; the same
products in Triton with nothing around them; cuDNN's products; and the two passes of norm_act that a block saves. Each
call is recorded in a CUDA graph, and its replays are timed. A call that fails is "–", and its error is printed below.

``--quick`` only shows that the calls run. The tensors are tiny, and without a GPU Triton's interpreter computes them
(TRITON_INTERPRET=1).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.kernel_time import microseconds, namespaces
from igan_fast.ops import backend
from igan_fast.ops.convolution import ConvSettings, InputSpec, pytorch

EPS = 1e-5


class Layer(NamedTuple):
    """A block of D, or of G with a transposed convolution, with 5×5 taps and stride 2.

    Attributes:
        name: in the table.
        ends: the channels of its input and of its output.
        side: of its input, in pixels.
        film: whether its input has a scale and a shift of each image and channel.
    """

    name: str
    ends: tuple[int, int]
    side: int
    transposed: bool = False
    film: bool = False

    def scaled(self, factor: int) -> Layer:
        """The layer with so many times fewer channels and pixels."""
        return self._replace(ends=(self.ends[0] // factor, self.ends[1] // factor), side=max(self.side // factor, 2))


#: In the order in which they are timed: the largest first, because the command may be cut when its time is over.
LAYERS = (
    Layer("D 2", (64, 128), 64),
    Layer("G 3", (128, 64), 32, transposed=True),
    Layer("G 3 with FiLM", (128, 64), 32, transposed=True, film=True),
    Layer("D 3", (128, 256), 32),
    Layer("D 4", (256, 512), 16),
    Layer("G 2", (256, 128), 16, transposed=True),
    Layer("G 1", (512, 256), 8, transposed=True),
    Layer("G 2 with FiLM", (256, 128), 16, transposed=True, film=True),
    Layer("G 1 with FiLM", (512, 256), 8, transposed=True, film=True),
)

Calls = tuple[Callable[[], Any], ...]


class Norm(NamedTuple):
    """A map before its normalisation, and what belongs to the normalisation."""

    y: Tensor
    affine: Tensor
    var: Tensor
    terms: Tensor
    weight: Tensor
    bias: Tensor


def _norm(images: int, channels: int, side: int, device: torch.device) -> Norm:
    y = torch.randn(images, channels, side, side, device=device)
    y = y.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    ones, zeros = (torch.full((channels,), value, device=device) for value in (1.0, 0.0))
    affine = torch.stack([zeros, ones, zeros])[None]
    return Norm(y, affine, ones[None], zeros.expand(2, 1, channels).contiguous(), ones, zeros)


def calls_of(layer: Layer, images: int, device: torch.device) -> dict[str, Calls]:
    """By column: forward, input gradient and weight gradient; of norm_act forward and backward."""
    settings = ConvSettings.cached(
        2, transposed=layer.transposed, stride=2, padding=2, output_padding=int(layer.transposed)
    )
    channels, out = layer.ends
    slope = 0.0 if layer.transposed else 0.2
    before = _norm(images, channels, layer.side, device)
    shape = (channels, out, 5, 5) if layer.transposed else (out, channels, 5, 5)
    weight = torch.randn(shape, device=device).to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    size = settings.output_size(before.y.shape, weight.shape)
    after = _norm(images, out, size[0], device)
    x, grad = before.y, torch.randn_like(after.y)
    film = torch.randn(images, 2 * channels, device=device).bfloat16() if layer.film else None
    film_after = torch.randn(images, 2 * out, device=device).bfloat16() if layer.film else None
    triton = getattr(torch.ops, backend.TRITON)
    geometry, spec = (settings.stride, settings.padding), InputSpec.of(x)
    forward, backward = (
        (weight, size, *geometry, layer.transposed),
        (weight, x.shape[2:], *geometry, not layer.transposed),
    )
    of_weight = grad, x, weight.shape[2:], *geometry, layer.transposed
    raw = after.y, after.affine, after.terms

    def cudnn(of_input: bool) -> Any:
        return pytorch.gradients(grad, x, weight, settings, spec, of_input, not of_input)

    normalise = getattr(torch.ops, namespaces(device)[-1])
    given, options = (after.y, after.weight, after.bias), (EPS, slope)
    mean, var = after.affine[:, 0], after.var
    return {
        "Block": (
            lambda: triton.convolution_statistics(x, *forward, 1, before.affine, slope, film),
            lambda: triton.convolution_block_gradient(
                grad, *backward, *raw, x, before.affine, before.var, slope, EPS, None, None, 1.0, film
            ),
            lambda: triton.convolution_weight_gradient(*of_weight, before.affine, slope, *raw, film),
        ),
        "Triton's product alone": (
            lambda: triton.convolution(x, weight, None, *forward[1:], 1.0),
            lambda: triton.convolution(grad, weight, None, *backward[1:], 1.0),
            lambda: triton.convolution_weight_gradient(*of_weight),
        ),
        "cuDNN": (
            lambda: pytorch.convolve(settings, x, weight, None),
            lambda: cudnn(True),
            lambda: cudnn(False),
        ),
        "norm_act": (
            lambda: normalise.norm_act(*given, *options, 1, film_after),
            lambda: normalise.norm_act_backward(grad, *given, mean, var, *options, True, film_after),
        ),
    }


def row_of(layer: Layer, images: int, device: torch.device, errors: list[str]) -> str:
    """A line of the table. What fails is added to ``errors``."""
    cells, sums = [], []
    for column, calls in calls_of(layer, images, device).items():
        times = []
        for call in calls:
            try:
                times.append(microseconds(call, device))
            except Exception as error:  # each of the other calls is worth its time
                errors.append(f"{layer.name}, {column}: {type(error).__name__}: {error}")
                times.append(float("nan"))
        cells.append(" / ".join("–" if time != time else f"{time:.0f}" for time in times))
        sums.append(sum(times))
    block, _, library, passes = sums
    ratio = (library + passes) / block
    return f"| {' | '.join([layer.name, *cells, '–' if ratio != ratio else f'{ratio:.2f}'])} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if a call failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.block_time", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny tensors, without a GPU too: whether it runs")
    quick = parser.parse_args(arguments).quick
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not quick:
        print("bench.block_time: there is no CUDA device", file=sys.stderr)
        return 2
    if backend.TRITON not in namespaces(device):
        print("bench.block_time: Triton's kernels do not run here", file=sys.stderr)
        return 2
    images, layers = (2, [layer.scaled(8) for layer in LAYERS[:3]]) if quick else (256, LAYERS)
    columns = ["Block", "Triton's product alone", "cuDNN", "norm_act: forward / backward", "(cuDNN + norm_act) / block"]
    print(f"| {images} images, µs: forward / input gradient / weight gradient | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}", flush=True)
    errors: list[str] = []
    for layer in layers:
        print(row_of(layer, images, device, errors), flush=True)
    print("\n".join(["", *errors]) if errors else "", end="")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

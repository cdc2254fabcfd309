"""Each convolution of the model by itself: forward, input gradient and weight gradient, in FLOP/s.

An iteration that calls PyTorch's library (cuDNN, oneDNN) for a layer can at most reach the library's FLOP/s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from igan_fast.devices import has_bfloat16
from igan_fast.ops.convolution import ConvSettings, InputSpec, convolve, gradients

#: The layers of D and G at 128² and width 64: input channels, output channels, larger size, transposed or not.
LAYERS = {
    "D 1": (3, 64, 128, False),
    "D 2": (64, 128, 64, False),
    "D 3": (128, 256, 32, False),
    "D 4": (256, 512, 16, False),
    "G 1": (512, 256, 16, True),
    "G 2": (256, 128, 32, True),
    "G 3": (128, 64, 64, True),
    "G 4": (64, 3, 128, True),
}
PASSES = ("forward", "input gradient", "weight gradient")


@pytest.mark.parametrize("precision", ["bf16", "fp32", "tf32"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(compare, request, batches, device, layer, precision):
    if precision == "tf32" and device.type != "cuda":
        pytest.skip("TF32 needs a GPU")
    if precision == "bf16" and device.type == "cpu" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 instructions")
    if precision == "tf32":  # the fixture ``tf32_is_off`` resets it
        torch.backends.cudnn.allow_tf32 = True
    c_in, c_out, size, transposed = LAYERS[layer]
    batch = batches(1 if device.type == "cuda" else 0)
    if request.config.getoption("--quick"):
        size = 16
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    small = size // 2

    def image(channels: int, side: int) -> torch.Tensor:
        made = torch.randn(batch, channels, side, side, device=device)
        return made.to(kind, memory_format=torch.channels_last)

    x, grad = image(c_in, small if transposed else size), image(c_out, size if transposed else small)
    shape = (c_in, c_out, 5, 5) if transposed else (c_out, c_in, 5, 5)
    weight = torch.randn(shape, device=device).to(kind, memory_format=torch.channels_last)
    settings = ConvSettings.cached(2, transposed=transposed, stride=2, padding=2, output_padding=int(transposed))

    def forward() -> Any:
        return torch.ops.aten.convolution(x, weight, None, *settings.arguments)

    def gradient(of_x: bool) -> Callable[[], Any]:
        mask = [of_x, not of_x, False]
        return lambda: torch.ops.aten.convolution_backward(grad, x, weight, None, *settings.arguments, mask)

    def ours() -> Any:
        with torch.no_grad():
            y = convolve(x, weight, None, settings)
            spec = InputSpec.of(x)
            return y, gradients(grad, x, weight, settings, spec, needs_input=True, needs_weight=True)

    library = dict(zip(PASSES, (forward, gradient(True), gradient(False)), strict=True))
    compare(
        {"kind": "layer", "operator": layer, "layout": "channels_last", "dtype": precision, "batch": batch},
        {"ours": (ours, None)} | {f"library, {name}": (function, None) for name, function in library.items()},
        {},
        flops=3 * 2 * batch * small * small * 25 * c_in * c_out,
        precision=precision,
    )

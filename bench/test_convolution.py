"""Winograd convolutions of well-known GANs against PyTorch's own in both memory formats, on the CPU in float32."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from bench import core, subjects
from igan_fast.ops import backend
from igan_fast.ops.convolution import ConvSettings, InputSpec, convolve, gradients, plan_of


class Convolution(NamedTuple):
    """A convolution of ``c_in`` channels of ``size`` × ``size`` pixels to ``c_out`` channels."""

    kernel: int
    stride: int
    padding: int
    c_in: int
    c_out: int
    size: int
    batch: int
    transposed: bool = False

    @property
    def output_padding(self) -> int:
        """The output padding with which a transposed convolution doubles the size."""
        return self.stride + 2 * self.padding - self.kernel if self.transposed else 0

    @property
    def name(self) -> str:
        kind = "transposed convolution" if self.transposed else "convolution"
        return f"{kind} {self.kernel}×{self.kernel} stride {self.stride}, {self.c_in}→{self.c_out} at {self.size}²"


CONVOLUTIONS = {
    "the model's D": Convolution(5, 2, 2, 128, 256, 32, 16),
    "DCGAN's D": Convolution(4, 2, 1, 128, 256, 16, 64),
    "DCGAN's G": Convolution(4, 2, 1, 256, 128, 8, 64, transposed=True),
    "PatchGAN": Convolution(4, 2, 1, 64, 128, 128, 1),
    "pix2pixHD's PatchGAN": Convolution(4, 2, 2, 64, 128, 129, 1),
    "pix2pix's U-Net": Convolution(4, 2, 1, 256, 512, 32, 1),
    "CycleGAN's block": Convolution(3, 1, 0, 256, 256, 66, 1),
    "StarGAN's block": Convolution(3, 1, 1, 256, 256, 32, 16),
    "CycleGAN's downsampling": Convolution(3, 2, 1, 64, 128, 256, 1),
    "CycleGAN's upsampling": Convolution(3, 2, 1, 256, 128, 64, 1, transposed=True),
}


@pytest.mark.parametrize("layout", subjects.LAYOUTS)
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution(compare, batches, device, request, case, layout):
    if device.type != "cpu" or not backend.has_native_cpu():
        pytest.skip("only the CPU has these kernels")
    if request.config.getoption("--quick"):
        case = case._replace(c_in=32, c_out=32, size=32 + case.size % 4, batch=16)
    settings = ConvSettings.cached(
        2, transposed=case.transposed, stride=case.stride, padding=case.padding, output_padding=case.output_padding
    )
    channels = (case.c_in, case.c_out) if case.transposed else (case.c_out, case.c_in)
    x = torch.randn(case.batch, case.c_in, case.size, case.size)
    weight = torch.randn(*channels, case.kernel, case.kernel) * 0.02
    assert plan_of(x, weight, None, settings).implementation.name == "winograd"
    grad = torch.randn_like(convolve(x, weight, None, settings))

    def ours() -> core.Peer:
        given, upstream = (t.contiguous(memory_format=subjects.LAYOUTS[layout]) for t in (x, grad))

        @torch.no_grad()
        def backward(_: Tensor) -> tuple[Tensor | None, Tensor | None]:
            spec = InputSpec(given.shape, contiguous=False)
            return gradients(upstream, given, weight, settings, spec, needs_input=True, needs_weight=True)

        return lambda: convolve(given, weight, None, settings), backward

    def eager(arranged: str) -> core.Peer:
        given, upstream, w = (t.contiguous(memory_format=subjects.LAYOUTS[arranged]) for t in (x, grad, weight))

        def backward(_: Tensor) -> tuple[Tensor, Tensor]:
            dx, dweight, _none = torch.ops.aten.convolution_backward(
                upstream, given, w, None, *settings.arguments, (True, True, False)
            )
            return dx, dweight

        return lambda: torch.ops.aten.convolution(given, w, None, *settings.arguments), backward

    small = x if case.transposed else grad
    compare(
        {"operator": case.name, "layout": layout, "dtype": "float32", "batch": case.batch},
        {"ours": ours()} | {f"eager, {name}": eager(name) for name in subjects.LAYOUTS},
        {},
        flops=3 * 2 * weight.numel() * case.batch * small[0, 0].numel(),
    )

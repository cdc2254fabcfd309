"""Winograd convolutions of well-known GANs against PyTorch's own, on the CPU in float32; images in both layouts."""

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
    tensors = {name: [t.contiguous(memory_format=f) for t in (x, grad, weight)] for name, f in subjects.LAYOUTS.items()}
    given, upstream, _ = tensors[layout]
    small = x if case.transposed else grad
    compare(
        {"operator": case.name, "layout": layout, "dtype": "float32", "batch": case.batch},
        {"ours": ours(settings, given, upstream, weight, contiguous=False)}
        | {f"eager, {name}": eager(settings, *each) for name, each in tensors.items()},
        {},
        flops=3 * 2 * weight.numel() * case.batch * small[0, 0].numel(),
    )


class Sequence(NamedTuple):
    """A convolution along one dimension of ``c_in`` channels of ``length`` values to ``c_out`` channels."""

    kernel: int
    c_in: int
    c_out: int
    length: int
    batch: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        settings = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        given = "".join(f" {name} {value}," for name, value in settings.items() if value > 1)
        return f"1-D convolution of {self.kernel},{given} {self.c_in}→{self.c_out} at {self.length}"


SEQUENCES = {
    "HiFi-GAN's blocks, 256 channels": Sequence(3, 256, 256, 256, 16),
    "HiFi-GAN's blocks, 128 channels": Sequence(11, 128, 128, 2048, 4),
    "HiFi-GAN's blocks, 64 channels": Sequence(7, 64, 64, 4096, 4, dilation=3),
    "HiFi-GAN's blocks, 32 channels": Sequence(3, 32, 32, 8192, 4),
    "HiFi-GAN's scale discriminator, second layer": Sequence(41, 128, 128, 8192, 4, stride=2, groups=4),
    "HiFi-GAN's scale discriminator, fourth layer": Sequence(41, 256, 512, 2048, 4, stride=4, groups=16),
    "WaveGAN's D": Sequence(25, 64, 128, 4096, 4, stride=4),
}


@pytest.mark.parametrize("case", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_sequences(compare, batches, device, request, case):
    if device.type != "cpu" or not backend.has_native_cpu():
        pytest.skip("only the CPU has these kernels")
    if request.config.getoption("--quick"):
        case = case._replace(length=512, batch=8)
    padding = case.dilation * (case.kernel - 1) // 2
    settings = ConvSettings.cached(1, stride=case.stride, padding=padding, dilation=case.dilation, groups=case.groups)
    x = torch.randn(case.batch, case.c_in, case.length)
    weight = torch.randn(case.c_out, case.c_in // case.groups, case.kernel) * 0.02
    assert plan_of(x, weight, None, settings).implementation.name == "winograd_1d"
    grad = torch.randn_like(convolve(x, weight, None, settings))
    compare(
        {"operator": case.name, "layout": "contiguous", "dtype": "float32", "batch": case.batch},
        {
            "ours": ours(settings, x, grad, weight, contiguous=True),
            "eager, contiguous": eager(settings, x, grad, weight),
        },
        {},
        flops=3 * 2 * weight.numel() * case.batch * grad.shape[2],
    )


def ours(settings: ConvSettings, x: Tensor, grad: Tensor, weight: Tensor, *, contiguous: bool) -> core.Peer:
    """The convolution and its two gradients by our kernels, contiguous or as they are."""

    @torch.no_grad()
    def backward(_: Tensor) -> tuple[Tensor | None, Tensor | None]:
        spec = InputSpec(x.shape, contiguous)
        return gradients(grad, x, weight, settings, spec, needs_input=True, needs_weight=True)

    return lambda: convolve(x, weight, None, settings), backward


def eager(settings: ConvSettings, x: Tensor, grad: Tensor, weight: Tensor) -> core.Peer:
    """PyTorch's."""

    def backward(_: Tensor) -> tuple[Tensor, Tensor]:
        dx, dweight, _none = torch.ops.aten.convolution_backward(
            grad, x, weight, None, *settings.arguments, (True, True, False)
        )
        return dx, dweight

    return lambda: torch.ops.aten.convolution(x, weight, None, *settings.arguments), backward

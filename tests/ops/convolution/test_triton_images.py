"""Triton's convolutions from and to images behind the operators, where they are asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import error
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import igan_fast
from igan_fast.ops import conv_act as conv_act_module
from igan_fast.ops.conv_act import conv_act
from igan_fast.ops.convolution import ConvSettings, pytorch, triton
from igan_fast.ops.convolution.dispatch import plan_of
from igan_fast.ops.triton import common

if not common.INTERPRETED:
    pytest.skip("Triton's kernels are compiled here", allow_module_level=True)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_CHOICE", "triton")
    import triton_interpreter

    triton_interpreter.speed_up()


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """No convolution is PyTorch's, and no LeakyReLU has a pass of its own."""

    def never(*arguments: object) -> None:
        raise AssertionError("PyTorch's function was called")

    for module, name in (
        (pytorch, "convolve"),
        (pytorch, "gradients"),
        (conv_act_module, "before_activation"),
    ):
        monkeypatch.setattr(module, name, never)


def name_of(weight: tuple[int, ...], *, transposed: bool = False, dtype: torch.dtype = torch.float32) -> str:
    x = torch.empty(2, weight[0 if transposed else 1], 8, 8)
    settings = ConvSettings(2, transposed=transposed, stride=2, padding=2)
    return plan_of(x, torch.empty(weight, dtype=dtype), None, settings).implementation.name


def test_it_takes_images_and_leaves_others_to_the_general_kernels() -> None:
    for transposed in (False, True):
        assert name_of((16, 3, 5, 5), transposed=transposed) == "triton, images"
        assert name_of((16, 5, 5, 5), transposed=transposed) == "triton"
        assert name_of((3, 3, 5, 5), transposed=transposed) == "triton"
        assert "triton" not in name_of((16, 3, 5, 5), transposed=transposed, dtype=torch.bfloat16)


def leaves(frozen: bool, layout: torch.memory_format, transposed: bool) -> list[Tensor]:
    x = torch.randn(2, 16, 3, 4) if transposed else torch.randn(2, 3, 6, 8)
    x = x.contiguous(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(16, 3, 5, 5) * 0.1, torch.randn(3 if transposed else 16)
    return [x, weight.requires_grad_(not frozen), bias.requires_grad_(not frozen)]


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("slope", [0.2, 0.0])
def test_from_an_image_with_all_gradients(only_ours: None, slope: float, frozen: bool, writable: bool) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        given = leaves(frozen, layout, False)
        exact = [t.detach().double().requires_grad_(t.requires_grad) for t in given]
        expected = F.leaky_relu(F.conv2d(*exact, 2, 2), slope)
        y = conv_act(*given, negative_slope=slope, writable=writable)
        assert error(y, expected) < 1e-5
        grad = torch.randn_like(y)
        wanted = torch.autograd.grad(expected, [t for t in exact if t.requires_grad], grad.double())
        found = torch.autograd.grad(y, [t for t in given if t.requires_grad], grad)
        assert found[0].is_contiguous(memory_format=layout)
        assert all(error(a, e) < 2e-5 for a, e in zip(found, wanted, strict=True))


@pytest.mark.parametrize("frozen", [False, True])
def test_to_an_image_with_all_gradients(only_ours: None, frozen: bool) -> None:
    given = leaves(frozen, torch.channels_last, True)
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in given]
    expected = F.conv_transpose2d(*exact, 2, 2, 1)
    y = conv_act(*given, transposed=True, output_padding=1, negative_slope=1.0)
    assert error(y, expected) < 1e-5
    grad = torch.randn_like(y)
    wanted = torch.autograd.grad(expected, [t for t in exact if t.requires_grad], grad.double())
    found = torch.autograd.grad(y, [t for t in given if t.requires_grad], grad)
    assert all(error(a, e) < 2e-5 for a, e in zip(found, wanted, strict=True))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_any_of_the_gradients(wanted: tuple[int, ...]) -> None:
    given = leaves(False, torch.channels_last, False)
    for i, t in enumerate(given):
        t.requires_grad_(i in wanted)
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in given]
    expected = F.leaky_relu(F.conv2d(*exact, 2, 2), 0.2)
    grad = torch.randn(expected.shape)
    found = torch.autograd.grad(conv_act(*given), [given[i] for i in wanted], grad)
    right = torch.autograd.grad(expected, [exact[i] for i in wanted], grad.double())
    assert all(error(a, e) < 2e-5 for a, e in zip(found, right, strict=True))


def test_second_derivatives() -> None:
    """As a gradient penalty on photos needs them; PyTorch's functions compute them."""
    given = leaves(False, torch.channels_last, False)

    def penalty(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    exact = [t.detach().double().requires_grad_() for t in given]
    expected = penalty(F.leaky_relu(F.conv2d(*exact, 2, 2), 0.2), *exact[:2])
    assert error(penalty(conv_act(*given), *given[:2]), expected) < 1e-5


def test_both_layers_of_the_model_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """D's first and G's last layer, in bfloat16 under autocast as in training; the rest of both is not computed."""
    model = igan_fast.IterativeGAN(image_size=32, width=8)
    called: list[str] = []
    for name in ("convolution_from_image", "convolution_to_image"):
        operator = getattr(torch.ops.igan_fast_triton, name)

        def watched(*arguments: object, name: str = name, operator=operator) -> Tensor:
            called.append(name)
            assert all(t.dtype == torch.bfloat16 for t in arguments if isinstance(t, Tensor))
            return operator(*arguments)

        monkeypatch.setattr(torch.ops.igan_fast_triton, name, watched)
    monkeypatch.setattr(model.generator, "last_map", lambda first, films: torch.zeros(2, 8, 16, 16).bfloat16())
    for name in ("down2", "down3", "down4"):
        setattr(model.discriminator, name, torch.nn.Identity())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        image = model.generator(torch.zeros(2, 100), torch.zeros(2, 40))
        h1 = model.discriminator.features(image)[0]
    assert image.shape == (2, 3, 32, 32)
    assert h1.shape == (2, 8, 16, 16)
    assert called == ["convolution_to_image", "convolution_from_image"]

"""The reference operators against torch's own modules and hand-computed cases."""

import itertools

import pytest
import torch
from torch import nn

from igan_fast.reference import ops


def test_feature_l1_by_hand() -> None:
    fake = [torch.tensor([1.0, 2.0]), [torch.tensor([[0.0]]), torch.tensor([3.0, 3.0, 3.0])]]
    real = [torch.tensor([0.0, 4.0]), [torch.tensor([[5.0]]), torch.tensor([3.0, 0.0, 6.0])]]
    # means: 1.5, 5, 2
    assert ops.feature_l1(fake, real).item() == pytest.approx(8.5)
    assert ops.feature_l1(fake, real, [2.0, 0.0, 0.5]).item() == pytest.approx(4.0)


def test_feature_l1_gradient_is_the_sign_over_the_count_and_zero_at_ties() -> None:
    fake = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    real = torch.tensor([0.0, 2.0, 9.0, 4.0], requires_grad=True)
    ops.feature_l1([fake], [real], [2.0]).backward()
    assert fake.grad is not None
    assert real.grad is not None
    assert fake.grad.tolist() == [0.5, 0.0, -0.5, 0.0]
    assert real.grad.tolist() == [-0.5, 0.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("dtype", "out"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_feature_l1_dtype(dtype: torch.dtype, out: torch.dtype) -> None:
    fake, real = torch.full((3, 5), 1.5, dtype=dtype), torch.full((3, 5), 1.0, dtype=dtype)
    loss = ops.feature_l1([fake], [real])
    assert loss.dtype == out
    assert loss.item() == 0.5


def test_feature_l1_of_half_types_is_not_accumulated_in_half() -> None:
    # 70,000 differences of 1 sum to more than float16 holds.
    n = 70_000
    assert ops.feature_l1([torch.ones(n, dtype=torch.float16)], [torch.zeros(n, dtype=torch.float16)]).item() == 1.0


def test_feature_l1_of_one_nan_is_nan_and_of_an_empty_pair_too() -> None:
    assert ops.feature_l1([torch.tensor([1.0, float("nan")])], [torch.zeros(2)]).isnan()
    assert ops.feature_l1([torch.empty(0, 3)], [torch.empty(0, 3)]).isnan()


def test_feature_l1_gradcheck() -> None:
    fake = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    real = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, r: ops.feature_l1([f, [f * 2]], [r, [r]], [1.0, 3.0]), (fake, real))


@pytest.mark.parametrize(
    ("fake", "real", "weights", "message"),
    [
        ([], [], None, "at least one pair"),
        ([torch.ones(2)], [torch.ones(3)], None, r"fake\[0\] has shape \(2,\)"),
        ([torch.ones(2)], [], None, "1 entries"),
        ([[torch.ones(2)]], [torch.ones(2)], None, "a tensor on one side"),
        ([torch.ones(2)], [torch.ones(2)], [1.0, 2.0], "2 numbers for 1 pairs"),
    ],
)
def test_feature_l1_refuses(fake, real, weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        ops.feature_l1(fake, real, weights)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 7), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("slope", [0.2, 0.0, 1.0])
def test_norm_act_is_batchnorm_then_leaky_relu(shape: tuple[int, ...], slope: float) -> None:
    module = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](3).double()
    nn.init.uniform_(module.weight)
    nn.init.uniform_(module.bias)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for training in (True, True, False):
        x = torch.randn(shape, dtype=torch.float64) * 3 + 5
        module.train(training)
        expected = nn.functional.leaky_relu(module(x), slope)
        found = ops.norm_act(x, module.weight, module.bias, mean, var, training=training, negative_slope=slope)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(mean, module.running_mean, rtol=0, atol=0)
    torch.testing.assert_close(var, module.running_var, rtol=0, atol=0)


def test_norm_act_groups_are_successive_calls() -> None:
    x = torch.randn(6, 4, 3, 3)
    weight, bias = torch.rand(4), torch.rand(4)
    mean, var = torch.zeros(4), torch.ones(4)
    together = ops.norm_act(x, weight, bias, mean, var, groups=3)
    mean_apart, var_apart = torch.zeros(4), torch.ones(4)
    apart = [ops.norm_act(x[i : i + 2], weight, bias, mean_apart, var_apart) for i in (0, 2, 4)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=0)
    torch.testing.assert_close(mean, mean_apart, rtol=0, atol=0)
    torch.testing.assert_close(var, var_apart, rtol=0, atol=0)


def test_norm_act_with_n_groups_is_instance_norm() -> None:
    x = torch.randn(5, 3, 4, 4)
    expected = nn.functional.leaky_relu(nn.InstanceNorm2d(3)(x), 0.2)
    torch.testing.assert_close(ops.norm_act(x, None, None, groups=5), expected)


def test_norm_act_without_running_statistics_uses_the_batch_in_evaluation_too() -> None:
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(ops.norm_act(x, None, None, training=False), ops.norm_act(x, None, None))


def test_norm_act_refuses_groups_that_do_not_divide_and_single_values() -> None:
    with pytest.raises(ValueError, match="groups is 2; expected a positive divisor of the batch size 3"):
        ops.norm_act(torch.randn(3, 2), None, None, groups=2)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ops.norm_act(torch.randn(1, 2, 1, 1), torch.ones(2), torch.zeros(2))


def test_norm_act_scales_and_shifts_each_channel_of_each_image() -> None:
    x, film = torch.randn(3, 2, 4, 5), torch.randn(3, 4)
    for options in ({}, {"groups": 3}, {"negative_slope": 0.0}):
        plain, found = ops.norm_act(x, None, None, **options), ops.norm_act(x, None, None, film=film, **options)
        for image in range(3):
            for channel in range(2):
                scale, shift = 1 + film[image, channel], film[image, 2 + channel]
                torch.testing.assert_close(found[image, channel], plain[image, channel] * scale + shift)


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 4), (3, 2, 4, 4), (0, 2, 4, 4), (2, 3, 2, 2, 2)])
def test_modulate(shape: tuple[int, ...]) -> None:
    y = torch.randn(shape, dtype=torch.float64)
    wide = torch.randn(shape[0], 2 * shape[1] + 3, dtype=torch.float64)
    for film in (wide[:, 1:-2], wide[:, 1:-2].t().contiguous().t()):
        scale, shift = film.numpy()[:, : shape[1]], film.numpy()[:, shape[1] :]
        further = (..., *[None] * (len(shape) - 2))
        expected = y.numpy() * (1 + scale[further]) + shift[further]
        torch.testing.assert_close(ops.modulate(y, film), torch.from_numpy(expected))
    half = ops.modulate(y.bfloat16(), film.float())
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(3, 2), (2, 4), (3, 4, 1), (4,)])
def test_modulate_refuses_a_film_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"film has shape .*; expected \(3, 4\), γ and β"):
        ops.modulate(torch.randn(3, 2, 4, 5), torch.randn(shape))


@pytest.mark.parametrize(("spatial", "transposed"), list(itertools.product([1, 2, 3], [False, True])))
def test_conv_norm_act_is_the_three_modules(spatial: int, transposed: bool) -> None:
    name = f"Conv{'Transpose' if transposed else ''}{spatial}d"
    extra = {"output_padding": 1} if transposed else {}
    conv = getattr(nn, name)(3, 4, 5, stride=2, padding=2, bias=False, **extra).double()
    norm = getattr(nn, f"BatchNorm{spatial}d")(4).double()
    x = torch.randn(2, 3, *[8] * spatial, dtype=torch.float64)
    mean, var = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    found = ops.conv_norm_act(x, conv.weight, norm.weight, norm.bias, mean, var, transposed=transposed, **extra)
    torch.testing.assert_close(found, nn.functional.leaky_relu(norm(conv(x)), 0.2))
    torch.testing.assert_close(mean, norm.running_mean)
    assert found.shape[2:] == torch.Size([16 if transposed else 4] * spatial)


def test_conv_norm_act_refuses_output_padding_of_a_plain_convolution() -> None:
    with pytest.raises(ValueError, match="output_padding is 1"):
        ops.conv_norm_act(torch.randn(2, 3, 8, 8), torch.randn(4, 3, 5, 5), None, None, output_padding=1)

"""The networks of DCGAN, CGAN and AC-GAN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from igan_fast.baselines.acgan import ACGAN
from igan_fast.baselines.acgan.networks import _dropout
from igan_fast.baselines.cgan import CGAN
from igan_fast.baselines.convolutional import NoiseNetworks
from igan_fast.baselines.dcgan import DCGAN

ALL = (DCGAN, CGAN, ACGAN)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def kernels(network: nn.Module, kind: type[nn.Module]) -> list[tuple[int, int, int]]:
    """Input channels, output channels and stride of each convolution of a network."""
    return [(m.in_channels, m.out_channels, m.stride[0]) for m in network.modules() if isinstance(m, kind)]


@pytest.mark.parametrize("size", [32, 48, 128])
@pytest.mark.parametrize("networks", ALL)
def test_shapes(networks: type[NoiseNetworks], size: int) -> None:
    model = networks(size, 3, width=4).eval()
    assert (model.image_size, model.attributes, model.width, model.latent) == (size, 3, 4, 100)
    c = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    with torch.no_grad():
        images = model.generate(model.draw_noise(2, generator()), c)
        assert images.shape == (2, 3, size, size)
        assert images.abs().max() <= 1
        if isinstance(model, ACGAN):
            output = model.discriminator(images)
            assert output.source.shape == (2,)
            assert output.label_logits.shape == (2, 3)
        else:
            assert model.discriminator(images, c).shape == (2,)
            shapes = [feature.shape for feature in model.discriminator.features(images, c)]
            assert shapes == [(2, 4 * 2**i, size // 2 ** (i + 1), size // 2 ** (i + 1)) for i in range(4)]


@pytest.mark.parametrize("networks", ALL)
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 40}, "image_size is 40; expected a multiple of 16 from 32 up"),
        ({"image_size": 16}, "image_size is 16; expected a multiple of 16 from 32 up"),
        ({"image_size": -32}, "image_size is -32; expected at least 1"),
        ({"attributes": 0}, "attributes is 0; expected at least 1"),
        ({"width": 0}, "width is 0; expected at least 1"),
    ],
)
def test_impossible_sizes_are_refused(networks: type[NoiseNetworks], sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        networks(**({"image_size": 32, "attributes": 2, "width": 4} | sizes))


@pytest.mark.parametrize("value", [32.0, "32", True, None])
def test_sizes_are_whole_numbers(value: object) -> None:
    with pytest.raises(TypeError, match=r"^image_size is .*; expected a whole number$"):
        DCGAN(value, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^width is .*; expected a whole number$"):
        ACGAN(32, 2, width=value)  # type: ignore[arg-type]


def test_the_layers_of_dcgan_are_those_of_its_figure_1() -> None:
    with torch.device("meta"):
        model = DCGAN(64, 2, width=128)
    assert model.generator.first_map == (1024, 4, 4)
    up = [(1024, 512, 2), (512, 256, 2), (256, 128, 2), (128, 3, 2)]
    assert kernels(model.generator, nn.ConvTranspose2d) == up
    assert kernels(model.discriminator, nn.Conv2d) == [(out, into, 2) for into, out, _ in reversed(up)]
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert biases == [f"{name}.bias" for name in norms]
    assert len(norms) == 4 + 3  # not in G's last and D's first convolution


def test_attributes_enter_each_layer_of_cgan() -> None:
    with torch.device("meta"):
        model = CGAN(64, 5, width=8)
    assert model.generator.project.in_features == 105
    assert kernels(model.generator, nn.ConvTranspose2d) == [(69, 32, 2), (37, 16, 2), (21, 8, 2), (13, 3, 2)]
    assert kernels(model.discriminator, nn.Conv2d) == [(8, 8, 2), (13, 16, 2), (21, 32, 2), (37, 64, 2)]
    assert model.discriminator.source.in_features == 64 * 16 + 5


def test_the_layers_of_acgan_are_those_of_its_appendix() -> None:
    with torch.device("meta"):
        model = ACGAN(128, 10)
    assert model.generator.project.in_features == 110
    assert model.generator.first_map == (768, 8, 8)
    assert kernels(model.generator, nn.ConvTranspose2d) == [(768, 384, 2), (384, 256, 2), (256, 192, 2), (192, 3, 2)]
    assert kernels(model.discriminator, nn.Conv2d) == [
        *((3, 16, 2), (16, 32, 1), (32, 64, 2), (64, 128, 1), (128, 256, 2), (256, 512, 1)),
    ]
    assert all(m.kernel_size == (3, 3) for m in model.discriminator.modules() if isinstance(m, nn.Conv2d))
    # a layer has either a normalisation or a bias
    assert [name for name, p in model.generator.named_parameters() if "project" in name or "rgb" in name] == [
        *("project.weight", "project.bias", "to_rgb.weight", "to_rgb.bias"),
    ]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.generator.modules()) == 3
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.discriminator.modules()) == 5
    assert [block[0].bias is not None for block in model.discriminator.down] == [True] + [False] * 5


@pytest.mark.parametrize("networks", ALL)
def test_initial_weights(networks: type[NoiseNetworks]) -> None:
    model = networks(32, 2, width=32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
            mean, deviations = float(isinstance(module, nn.BatchNorm2d)), 6 * 0.02 / module.weight.numel() ** 0.5
            assert module.weight.mean().item() == pytest.approx(mean, abs=deviations)
            assert module.weight.std().item() == pytest.approx(0.02, abs=deviations)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("networks", ALL)
def test_noise_is_uniform_and_of_the_given_generator_alone(networks: type[NoiseNetworks]) -> None:
    model = networks(32, 2, width=4)
    state = torch.get_rng_state()
    z = model.draw_noise(500, generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert z.shape == (500, 100)
    assert z.dtype == torch.float32
    assert -1 <= z.min() < -0.999
    assert 0.999 < z.max() < 1
    assert z.mean().item() == pytest.approx(0, abs=0.02)
    assert z.var().item() == pytest.approx(1 / 3, abs=0.02)
    random = generator()
    torch.testing.assert_close(torch.cat([model.draw_noise(n, random) for n in (0, 200, 300)]), z, rtol=0, atol=0)
    in_double = model.double().draw_noise(500, generator())
    assert in_double.dtype == torch.float64
    assert torch.equal(in_double.float(), z)


def test_noise_and_labels_of_other_shapes_are_refused() -> None:
    model = CGAN(32, 2, width=4)
    for z, c, message in (
        (torch.zeros(3, 99), torch.zeros(3, 2), r"z has shape \(3, 99\); expected \(3, 100\)"),
        (torch.zeros(3, 100), torch.zeros(3, 3), r"c has shape \(3, 3\); expected \(3, 2\)"),
        (torch.zeros(3, 100), torch.zeros(1, 2), r"c has shape \(1, 2\); expected \(3, 2\)"),
        (torch.zeros(3, 100), torch.zeros(2), r"c has shape \(2,\); expected \(3, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(z, c)


@pytest.mark.parametrize("networks", ALL)
def test_photos_are_not_edited(networks: type[NoiseNetworks]) -> None:
    with pytest.raises(NotImplementedError, match=f"{networks.__name__} does not edit photos"):
        networks(32, 2, width=4).edit(torch.zeros(1, 3, 32, 32), torch.zeros(1, 2), {0: 1.0})


@pytest.mark.parametrize("networks", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.bool])
def test_labels_of_any_type_change_the_image_where_they_enter(
    networks: type[NoiseNetworks], dtype: torch.dtype
) -> None:
    model = networks(32, 3, width=4).eval()
    z = model.draw_noise(1, generator()).expand(4, -1)
    c = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).to(dtype)
    with torch.no_grad():
        images = model.generate(z, c)
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2)):
        assert torch.equal(images[i], images[j]) == (networks is DCGAN)


def test_labels_reach_each_layer_of_cgan() -> None:
    """The channels of c in each layer have gradients, and D judges one image with two labels differently."""
    model = CGAN(32, 3, width=4)
    c = torch.eye(3)
    images = model.generate(model.draw_noise(3, generator()), c)
    model.discriminator(images, c).sum().backward()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.grad[:, -3:].abs().amax((0, 2, 3)).gt(0).all()
        elif isinstance(module, nn.ConvTranspose2d):
            assert module.weight.grad[-3:].abs().amax((1, 2, 3)).gt(0).all()
        elif isinstance(module, nn.Linear):
            assert module.weight.grad[:, -3:].abs().amax(0).gt(0).all()
    model.eval()
    same = images[:1].detach().expand(3, -1, -1, -1)
    assert len(model.discriminator(same, c).unique()) == 3
    for call in (model.discriminator, model.discriminator.features):
        with pytest.raises(ValueError, match=r"^c is None; expected the 3 attributes of each image$"):
            call(images)


def test_dcgan_discriminates_without_labels() -> None:
    model = DCGAN(32, 3, width=4).eval()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(model.discriminator(x), model.discriminator(x, torch.ones(2, 3)))
        features = model.discriminator.features(x)
        logits = features[-1].flatten(1) @ model.discriminator.source.weight[0]
    torch.testing.assert_close(logits, model.discriminator(x))
    assert all(f.min() < 0 < f.max() for f in features)  # after the LeakyReLU, which keeps the sign


def test_dropout_keeps_half_of_the_elements_and_doubles_them() -> None:
    for shape in ((3, 5, 7), (2, 8), (1,), (0, 4)):
        x = torch.rand(shape) + 1
        dropped = _dropout(x, generator(3))
        draws = torch.randint(256, ((x.numel() + 7) // 8,), dtype=torch.uint8, generator=generator(3)).numpy()
        keep = np.unpackbits(draws, bitorder="little")[: x.numel()].reshape(shape)
        assert torch.equal(dropped, 2 * x * torch.from_numpy(keep))
    kept = _dropout(torch.ones(1000, 100), generator())
    assert kept.unique().tolist() == [0, 2]
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


def test_dropout_is_for_training_alone_and_has_its_own_generator() -> None:
    model = ACGAN(32, 2, width=4)
    x = torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"^random is None; expected a generator"):
        model.discriminator(x)
    state = torch.get_rng_state()
    first, again, other = (model.discriminator(x, generator(seed)).label_logits for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    model.eval()
    random = generator(1)
    assert torch.equal(model.discriminator(x).source, model.discriminator(x, random).source)
    assert torch.equal(random.get_state(), generator(1).get_state())

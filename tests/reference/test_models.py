"""The networks: sizes, the paper's layers, initial weights, and the methods of the whole model."""

import pytest
import torch
from torch import nn

from igan_fast.reference import Classifier, Discriminator, Generator, IterativeGAN
from igan_fast.reference.layers import ConvNormAct2d, ConvTransposeNormAct2d, NormAct2d


@pytest.mark.parametrize("size", [32, 48, 64, 128])
def test_shapes(size: int) -> None:
    model = IterativeGAN(image_size=size, attributes=7, latent=11, width=4)
    z, c = torch.rand(3, 11) * 2 - 1, torch.rand(3, 7)
    image = model.generate(z, c)
    assert image.shape == (3, 3, size, size)
    assert image.abs().max() <= 1
    output = model.discriminator(image)
    assert output.source.shape == (3,)
    assert output.shared.shape == (3, 1024)
    assert [tuple(h.shape) for h in output.features] == [
        (3, 4 * 2**i, size // 2 ** (i + 1), size // 2 ** (i + 1)) for i in range(4)
    ]
    codes = model.encode(image)
    assert codes.z.shape == (3, 11)
    assert codes.z.abs().max() <= 1
    assert codes.label_logits.shape == (3, 7)


def test_parameter_count_of_the_papers_size() -> None:
    # By hand from the paper's layers: S=128, w=64, 100 + 40 inputs, first feature map 8×8×512.
    kernel = 25
    g = 140 * 512 * 64 + 2 * 512
    g += kernel * (512 * 256 + 256 * 128 + 128 * 64) + 2 * (256 + 128 + 64)
    g += kernel * 64 * 3 + 3
    d = kernel * 3 * 64 + 64 + kernel * (64 * 128 + 128 * 256 + 256 * 512) + 2 * (128 + 256 + 512)
    d += 512 * 64 + 1 + 512 * 64 * 1024 + 1024
    c = 1024 * 100 + 100 + 1024 * 128 + 128 + 128 * 40 + 40
    model = IterativeGAN()
    for part, count in ((model.generator, g), (model.discriminator, d), (model.classifier, c)):
        assert sum(p.numel() for p in part.parameters()) == count


def plain(generator: Generator, discriminator: Discriminator) -> tuple[nn.Sequential, nn.Sequential]:
    """The same two networks made of PyTorch's modules, with copies of the weights."""
    up, down = [], []
    for block in (generator.up1, generator.up2, generator.up3):
        conv = nn.ConvTranspose2d(block.conv.in_channels, block.conv.out_channels, 5, 2, 2, 1, bias=False)
        norm = nn.BatchNorm2d(block.conv.out_channels)
        conv.load_state_dict(block.conv.state_dict())
        norm.load_state_dict(block.norm.state_dict())
        up += [conv, norm, nn.ReLU()]
    for block in (discriminator.down2, discriminator.down3, discriminator.down4):
        conv = nn.Conv2d(block.conv.in_channels, block.conv.out_channels, 5, 2, 2, bias=False)
        norm = nn.BatchNorm2d(block.conv.out_channels)
        conv.load_state_dict(block.conv.state_dict())
        norm.load_state_dict(block.norm.state_dict())
        down += [conv, norm, nn.LeakyReLU(0.2)]
    first = nn.BatchNorm2d(generator.norm.weight.numel())
    first.load_state_dict(generator.norm.state_dict())
    g = nn.Sequential(
        generator.project, nn.Unflatten(1, generator.first_map), first, nn.ReLU(), *up, generator.to_rgb, nn.Tanh()
    )
    return g, nn.Sequential(discriminator.down1, nn.LeakyReLU(0.2), *down, nn.Flatten(), discriminator.source)


@pytest.mark.parametrize("training", [True, False])
def test_networks_equal_those_of_pytorchs_modules(training: bool) -> None:
    generator, discriminator = Generator(32, 5, 6, 4), Discriminator(32, 4)
    for buffer in (*generator.buffers(), *discriminator.buffers()):
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    g, d = plain(generator, discriminator)
    for module in (generator, discriminator, g, d):
        module.train(training)
    z, c = torch.rand(4, 6), torch.rand(4, 5)
    image = generator(z, c)
    torch.testing.assert_close(image, g(torch.cat([z, c], 1)))
    torch.testing.assert_close(discriminator(image).source, d(image).squeeze(1))
    torch.testing.assert_close(generator.up2.norm.running_var, g[8].running_var)
    assert generator.up2.norm.num_batches_tracked == g[8].num_batches_tracked == int(training)


def test_signed_labels_scale_the_labels_to_the_range_of_the_noise() -> None:
    generator = Generator(32, 5, 6, 4, signed_labels=True)
    plain_generator = Generator(32, 5, 6, 4)
    plain_generator.load_state_dict(generator.state_dict())
    z, c = torch.rand(4, 6), torch.rand(4, 5)
    torch.testing.assert_close(generator(z, c), plain_generator(z, 2 * c - 1))


def test_initial_weights_are_dcgans() -> None:
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, width=32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.weight.numel() > 1000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        if isinstance(module, NormAct2d) and module.weight.numel() >= 64:
            assert module.weight.mean().item() == pytest.approx(1.0, abs=0.02)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.4)
            assert not module.bias.any()


def test_no_bias_before_a_normalisation() -> None:
    for block in IterativeGAN(image_size=32, width=4).modules():
        if isinstance(block, ConvNormAct2d | ConvTransposeNormAct2d):
            assert block.conv.bias is None


@pytest.fixture
def model() -> IterativeGAN:
    torch.manual_seed(1)
    return IterativeGAN(image_size=32, attributes=4, latent=6, width=4).eval()


def test_transform_changes_only_the_given_attributes(model: IterativeGAN) -> None:
    x = torch.rand(5, 3, 32, 32) * 2 - 1
    z, logits = model.encode(x)
    c = logits.sigmoid()
    torch.testing.assert_close(model.rebuild(x), model.generate(z, c))
    expected = c.clone()
    expected[:, 1] = 0.25
    expected[:, 3] = 1 - c[:, 3].round()
    torch.testing.assert_close(model.transform(x, {1: 0.25, 3: "flip"}), model.generate(z, expected))


def test_transform_can_be_differentiated(model: IterativeGAN) -> None:
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    model.transform(x, {0: 1.0, 2: "flip"}).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("changes", "message"), [({4: 1.0}, "attribute 4 is out of range"), ({0: 1.5}, "set to 1.5")])
def test_transform_raises(model: IterativeGAN, changes: dict[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.transform(torch.zeros(1, 3, 32, 32), changes)


def test_arguments_rebuild_the_model(model: IterativeGAN) -> None:
    again = IterativeGAN(**model.arguments())
    again.load_state_dict(model.state_dict())
    assert again.arguments() == model.arguments()


@pytest.mark.parametrize("size", [0, 16, 40, 100])
def test_impossible_sizes_raise(size: int) -> None:
    for network in (Generator, Discriminator):
        with pytest.raises(ValueError, match=f"image_size is {size}; expected a multiple of 16 from 32 up"):
            network(size)


def test_classifier_has_the_papers_hidden_layer() -> None:
    classifier = Classifier(attributes=40, latent=100)
    assert classifier.hidden.out_features == 128
    assert classifier(torch.randn(2, 1024)).label_logits.shape == (2, 40)

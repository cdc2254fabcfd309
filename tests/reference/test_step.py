"""One iteration: against a second spelling of it, by what each loss term reaches, and by what it must not touch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igan_fast.reference import IterativeGAN, StepConfig, StepLosses, TrainStep

CONFIG = StepConfig(lr=1e-3, lambdas=(2.0, 0.5, 1.5), label_weight_d=3.0, label_weight_g=7.0)


def make_model(dtype: torch.dtype = torch.float64, **arguments) -> IterativeGAN:
    torch.manual_seed(3)
    return IterativeGAN(**{"image_size": 32, "attributes": 5, "latent": 6, "width": 4} | arguments).to(dtype)


def make_batch(dtype: torch.dtype = torch.float64, n: int = 4, size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(n, 3, size, size, generator=generator, dtype=dtype) * 2 - 1
    labels = (torch.rand(n, 5, generator=generator) < 0.5).to(dtype)
    return images, labels, torch.rand(n, 6, generator=generator, dtype=dtype) * 2 - 1


def spell_iteration(model: IterativeGAN, images: Tensor, labels: Tensor, noise: Tensor, state: dict) -> list[float]:
    """The iteration written a second time: log-probabilities, requires_grad switches, Adam by hand."""
    g, d, c = model.generator, model.discriminator, model.classifier

    def adam(parameters: list[Tensor], key: str) -> None:
        state[key, "t"] = t = state.get((key, "t"), 0) + 1
        for index, p in enumerate(parameters):
            assert p.grad is not None
            m = state[key, index, "m"] = 0.5 * state.get((key, index, "m"), 0) + 0.5 * p.grad
            v = state[key, index, "v"] = 0.999 * state.get((key, index, "v"), 0) + 0.001 * p.grad**2
            with torch.no_grad():
                p -= CONFIG.lr * (m / (1 - 0.5**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)

    def bce(logits: Tensor, target: Tensor) -> Tensor:
        return -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits)).mean()

    d_and_c = [*d.parameters(), *c.parameters()]
    one = torch.ones(len(images), dtype=images.dtype)
    # Stage 1
    x_fake = g(noise, labels)
    s_real, shared_real, h_real = d(images)
    z_real, l_real = c(shared_real)
    s_fake, shared_fake, _ = d(x_fake.detach())
    z_fake, l_fake = c(shared_fake)
    terms = [
        bce(s_real, one) + bce(s_fake, 0 * one),
        bce(l_real, labels),
        bce(l_fake, labels),
        (z_fake - noise).abs().mean(),
    ]
    model.zero_grad()
    (terms[0] + 3.0 * (terms[1] + terms[2]) + 1.5 * terms[3]).backward()
    adam(d_and_c, "d")
    # Stage 2
    for p in d_and_c:
        p.requires_grad_(False)
    x_rebuild = g(z_real.detach(), l_real.detach().sigmoid())
    s_fake, shared_fake, _ = d(x_fake)
    z_fake, l_fake = c(shared_fake)
    h_rebuild = d(x_rebuild).features
    terms += [
        bce(s_fake, one),
        bce(l_fake, labels),
        sum(((a - b.detach()).abs().mean() for a, b in zip(h_rebuild, h_real, strict=True)), torch.tensor(0.0)),
        (x_rebuild - images).abs().mean(),
        (z_fake - noise).abs().mean(),
    ]
    model.zero_grad()
    (terms[4] + 7.0 * terms[5] + 2.0 * terms[6] + 0.5 * terms[7] + 1.5 * terms[8]).backward()
    adam(list(g.parameters()), "g")
    for p in d_and_c:
        p.requires_grad_(True)
    return [term.item() for term in terms]


@pytest.mark.parametrize("size", [32, 64])
def test_three_iterations_equal_a_second_spelling(size: int) -> None:
    ours, theirs = make_model(image_size=size), make_model(image_size=size)
    batch = make_batch(size=size)
    step, state = TrainStep(ours, CONFIG), {}
    for _ in range(3):
        losses = step(*batch)
        expected = spell_iteration(theirs, *batch, state)
        assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-10)
    for (name, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "precision: found fp16, expected one of fp32, tf32, bf16"),
        ({"lr": -1e-3}, "lr: found -0.001, expected a number above 0"),
        ({"lr": float("nan")}, "lr: found nan"),
        ({"lr": "fast"}, "lr: found fast"),
        ({"betas": (0.5,)}, r"betas: found \(0.5,\), expected 2 numbers"),
        ({"betas": (0.5, 1.0)}, r"betas: found \(0.5, 1.0\), expected two numbers in \[0, 1\)"),
        ({"lambdas": (1.0, 2.0)}, r"lambdas: found \(1.0, 2.0\), expected 3 numbers"),
        ({"lambdas": 2.0}, "lambdas: found 2.0, expected 3 numbers"),
        ({"lambdas": (1.0, 2.0, float("inf"))}, "lambdas: found"),
        ({"label_weight_d": -1.0}, "label_weight_d: found -1.0"),
        ({"label_weight_g": None}, "label_weight_g: found None"),
    ],
)
def test_a_config_that_cannot_work_is_refused_when_it_is_made(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepConfig(**change)


def test_a_config_may_be_given_lists() -> None:
    assert StepConfig(betas=[0.5, 0.9], lambdas=[5, 2, 20]) == StepConfig(betas=(0.5, 0.9), lambdas=(5, 2, 20))


NETWORKS = {"generator", "discriminator", "classifier"}


def changed_by(config: StepConfig, act) -> set[str]:
    """The networks whose parameters an action of TrainStep changes."""
    model = make_model(torch.float32)
    before = copy.deepcopy(model.state_dict())
    act(TrainStep(model, config))
    return {
        name.split(".")[0]
        for name, p in model.named_parameters()
        if not torch.equal(p, before[name])
    }  # fmt: skip


def test_each_stage_trains_its_own_networks() -> None:
    images, labels, noise = make_batch(torch.float32)
    assert changed_by(CONFIG, lambda s: s(images, labels, noise)) == NETWORKS
    assert changed_by(CONFIG, lambda s: s.extra_discriminator(images, labels, noise)) == NETWORKS - {"generator"}
    assert changed_by(CONFIG, lambda s: s.extra_generator(labels, noise)) == {"generator"}


def gradients_of_stage2(config: StepConfig) -> dict[str, Tensor]:
    model = make_model()
    step = TrainStep(model, config)
    step(*make_batch())
    return {name: p.grad.clone() for name, p in model.generator.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "change",
    [{"label_weight_g": 0.0}, {"lambdas": (0.0, 0.5, 1.5)}, {"lambdas": (2.0, 0.0, 1.5)}],
    ids=["label", "perceptual", "pixel"],
)
def test_each_term_of_stage2_reaches_every_parameter_of_g(change: dict) -> None:
    full = gradients_of_stage2(CONFIG)
    without = gradients_of_stage2(StepConfig(**{**vars(CONFIG), **change}))
    assert set(full) == set(without) == {name for name, _ in make_model().generator.named_parameters()}
    for name in full:
        assert not torch.allclose(full[name], without[name]), name


def reaches(loss: Tensor, module: nn.Module) -> set[str]:
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return {
        name
        for (name, _), gradient in zip(module.named_parameters(), gradients, strict=True)
        if gradient is not None and gradient.any()
    }


def test_what_each_term_of_stage1_reaches() -> None:
    from igan_fast.reference import losses

    model = make_model()
    images, labels, noise = make_batch()
    d, c = model.discriminator, model.classifier
    output = d(images)
    codes = c(output.shared)
    convolutions = {name for name, _ in d.named_parameters() if name.startswith("down")}
    assert reaches(losses.adversarial_loss(output.source, real=True), d) == convolutions | {
        "source.weight",
        "source.bias",
    }
    label = losses.label_loss(codes.label_logits, labels)
    assert reaches(label, d) == convolutions | {"shared.weight", "shared.bias"}
    assert reaches(label, c) == {"hidden.weight", "hidden.bias", "labels.weight", "labels.bias"}
    latent = losses.latent_loss(codes.z, noise)
    assert reaches(latent, d) == convolutions | {"shared.weight", "shared.bias"}
    assert reaches(latent, c) == {"latent.weight", "latent.bias"}


def test_nothing_of_stage2_reaches_d_or_c_and_the_codes_are_not_differentiated() -> None:
    model = make_model()
    step = TrainStep(model, CONFIG)
    images, labels, noise = make_batch()
    stage1 = step._stage1(images, labels, noise)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    weights = copy.deepcopy([*model.discriminator.parameters(), *model.classifier.parameters()])
    step._stage2(images, labels, noise, stage1)
    for name, p in model.named_parameters():
        if not name.startswith("generator"):
            assert torch.equal(p.grad, gradients[name]), name
    for before, after in zip(weights, [*model.discriminator.parameters(), *model.classifier.parameters()], strict=True):
        assert torch.equal(before, after)


def test_running_statistics_move_once_a_pass() -> None:
    model = make_model()
    step = TrainStep(model, CONFIG)
    counts = {"generator": model.generator.up1.norm, "discriminator": model.discriminator.down2.norm}

    def tracked() -> dict[str, int]:
        return {name: int(norm.num_batches_tracked) for name, norm in counts.items()}

    images, labels, noise = make_batch()
    step(images, labels, noise)
    assert tracked() == {"generator": 2, "discriminator": 4}
    step.extra_discriminator(images, labels, noise)
    assert tracked() == {"generator": 3, "discriminator": 6}
    step.extra_generator(labels, noise)
    assert tracked() == {"generator": 4, "discriminator": 7}


def test_losses_are_detached_float32_scalars() -> None:
    losses = TrainStep(make_model(torch.float32))(*make_batch(torch.float32))
    assert isinstance(losses, StepLosses)
    for loss in losses:
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert not loss.requires_grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_start_same_end_bit_for_bit(precision: str) -> None:
    ends = []
    for _ in range(2):
        model = make_model(torch.float32)
        step = TrainStep(model, StepConfig(precision=precision))
        for _ in range(2):
            step(*make_batch(torch.float32))
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_bf16_keeps_float32_weights_and_stays_near_float32() -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        model = make_model(torch.float32)
        losses[precision] = torch.stack(
            list(TrainStep(model, StepConfig(precision=precision))(*make_batch(torch.float32)))
        )
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.05, atol=0.01)
    assert not torch.equal(losses["bf16"], losses["fp32"])


def test_iterations_lower_the_rebuild_error_of_a_fixed_batch() -> None:
    model = make_model(torch.float32, width=8)
    step = TrainStep(model, StepConfig(lr=1e-3, lambdas=(0.0, 20.0, 1.0)))
    _, labels, noise = make_batch(torch.float32, n=8)
    images = noise[:, :3, None, None].expand(-1, -1, 32, 32)  # one plain colour a picture: learnt in a few iterations
    errors = [step(images, labels, noise).g_pixel.item() for _ in range(60)]
    assert errors[-1] < 0.8 * errors[0]

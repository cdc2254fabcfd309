"""The additions to the paper's iteration: against a second spelling, a penalty by hand, and what each may touch."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from igan_fast.reference import IterativeGAN, PaperStep, StepConfig, TrainStep, draw_flips
from igan_fast.reference.beyond import flipped_label_loss, gradient_penalty
from igan_fast.reference.edited_rebuilds import GeneratedBatch

CONFIG = StepConfig(
    lr=1e-3,
    lambdas=(2.0, 0.5, 1.5),
    label_weight_d=3.0,
    label_weight_g=7.0,
    edited_share=0.5,
    label_weight_fake=0.25,
    flip_weight=4.0,
    r1=0.3,
    r1_every=2,
    latent_lr_scale=3.0,
)
OFF = {"edited_share": 0.0, "label_weight_fake": None, "flip_weight": 1.0, "r1": 0.0, "latent_lr_scale": 0.0}
PAPER = dataclasses.replace(CONFIG, **OFF)


def make_model(dtype: torch.dtype = torch.float64, *, film: bool = True, image_size: int = 32) -> IterativeGAN:
    torch.manual_seed(3)
    return IterativeGAN(image_size=image_size, attributes=5, latent=6, width=4, film=film).to(dtype)


def make_batch(seed: int, dtype: torch.dtype = torch.float64, n: int = 8, size: int = 32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, size, size, generator=generator, dtype=dtype) * 2 - 1
    labels = (torch.rand(n, 5, generator=generator) < 0.5).to(dtype)
    noise = torch.rand(n, 6, generator=generator, dtype=dtype) * 2 - 1
    return images, labels, noise, draw_flips(n, 5, 0.5, generator=generator)


class SecondSpelling:
    """The iteration written a second time: the edited rows in a loop, Adam by hand, each gradient taken by itself."""

    def __init__(self, model: IterativeGAN) -> None:
        self.model, self.count, self.kept = model, 0, None
        self.moments: dict[tuple[str, int], tuple[int, Tensor, Tensor]] = {}

    def adam(self, key: str, parameters: list[Tensor], gradients: tuple[Tensor, ...], lr: float) -> None:
        for index, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            t, m, v = self.moments.get((key, index), (0, torch.zeros_like(p), torch.zeros_like(p)))
            t, m, v = t + 1, 0.5 * m + 0.5 * g, 0.999 * v + 0.001 * g**2
            self.moments[key, index] = t, m, v
            with torch.no_grad():
                p -= lr * (m / (1 - 0.5**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor, flips: Tensor) -> list[float]:
        g, d, c = self.model.generator, self.model.discriminator, self.model.classifier
        z, wanted, weight = noise.clone(), labels.clone(), torch.ones_like(labels)
        if self.kept is not None:
            for row in range(len(noise) // 2):
                z[row] = self.kept[0][row]
                if row < len(noise) // 4:
                    for attribute in range(5):
                        own = self.kept[1][row, attribute]
                        wanted[row, attribute] = 1 - own if flips[row, attribute] else own
                        weight[row, attribute] = 4.0 if flips[row, attribute] else 1.0

        def bce(logits: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
            return -(weight * (target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits))).mean()

        one = torch.ones(len(images), dtype=images.dtype)
        d_and_c = [*d.parameters(), *c.parameters()]
        # Stage 1
        x = images.clone().requires_grad_()
        x_fake = g(z, wanted)
        s_real, shared_real, h_real = d(x)
        z_real, l_real = c(shared_real)
        s_fake, shared_fake, _ = d(x_fake.detach())
        z_fake, l_fake = c(shared_fake)
        terms = [
            bce(s_real, one) + bce(s_fake, 0 * one),
            bce(l_real, labels),
            bce(l_fake, wanted),
            (z_fake - z).abs().mean(),
        ]
        loss = terms[0] + 3.0 * terms[1] + 0.25 * terms[2] + 1.5 * terms[3]
        if self.count % 2 == 0:
            (slope,) = torch.autograd.grad(s_real.sum(), x, create_graph=True)
            loss = loss + 2 * (0.3 / 2) * slope.flatten(1).square().sum(1).mean()
        self.adam("d", d_and_c, torch.autograd.grad(loss, d_and_c, retain_graph=True), 1e-3)
        # Stage 2
        code = torch.tanh(c.latent(shared_real.detach()))
        x_rebuild = g(code, l_real.detach().sigmoid())
        s_fake, shared_fake, _ = d(x_fake)
        z_fake, l_fake = c(shared_fake)
        h_rebuild = d(x_rebuild).features
        terms += [
            bce(s_fake, one),
            bce(l_fake, wanted, weight),
            sum(((a - b.detach()).abs().mean() for a, b in zip(h_rebuild, h_real, strict=True)), torch.tensor(0.0)),
            (x_rebuild - images).abs().mean(),
            (z_fake - z).abs().mean(),
        ]
        rebuilding = 2.0 * terms[6] + 0.5 * terms[7]
        latent = list(c.latent.parameters())
        of_latent = torch.autograd.grad(rebuilding, latent, retain_graph=True)
        of_g = torch.autograd.grad(terms[4] + 7.0 * terms[5] + rebuilding + 1.5 * terms[8], list(g.parameters()))
        self.adam("g", list(g.parameters()), of_g, 1e-3)
        self.adam("z", latent, of_latent, 3e-3)
        self.kept, self.count = (z_real.detach(), labels), self.count + 1
        return [term.item() for term in terms]


@pytest.mark.parametrize("size", [32, 64])
def test_four_iterations_equal_a_second_spelling(size: int) -> None:
    ours, theirs = make_model(image_size=size), make_model(image_size=size)
    step, spelled = TrainStep(ours, CONFIG), SecondSpelling(theirs)
    for seed in range(4):
        batch = make_batch(seed, size=size)
        expected = spelled(*batch)
        assert [loss.item() for loss in step(*batch)] == pytest.approx(expected, rel=1e-9)
    for (name, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


def run(step: PaperStep, dtype: torch.dtype = torch.float32, count: int = 3) -> dict[str, Tensor]:
    for seed in range(count):
        images, labels, noise, flips = make_batch(seed, dtype)
        given = (flips,) if isinstance(step, TrainStep) and step.config.edited_share else ()
        step(images, labels, noise, *given)
        step.extra_discriminator(images, labels, noise.flip(0), *given)
        step.extra_generator(labels, noise.flip(0), *given)
    return copy.deepcopy(step.model.state_dict())


def test_without_additions_it_is_the_papers_iteration_bit_for_bit() -> None:
    before = torch.get_rng_state()
    ends = [run(kind(make_model(torch.float32), PAPER)) for kind in (PaperStep, TrainStep)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    torch.set_rng_state(before)
    model = make_model(torch.float32)
    before = torch.get_rng_state()
    run(TrainStep(model, PAPER))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("addition", ["edited_share", "label_weight_fake", "r1", "latent_lr_scale"])
def test_each_addition_alone_changes_the_iteration(addition: str) -> None:
    config = dataclasses.replace(PAPER, **{addition: getattr(CONFIG, addition)})
    assert config.goes_beyond
    ends = [run(TrainStep(make_model(torch.float32), c)) for c in (PAPER, config)]
    assert not all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_rebuild_trains_the_latent_layer_and_nothing_else_of_d_and_c() -> None:
    """After one iteration, D and C differ from a run without it in the latent layer only."""
    ends = []
    for scale in (0.0, 3.0):
        step = TrainStep(make_model(), dataclasses.replace(CONFIG, latent_lr_scale=scale))
        step(*make_batch(0))
        ends.append({name: p.detach().clone() for name, p in step.model.named_parameters()})
    changed = {name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])}
    assert {name for name in changed if not name.startswith("generator")} == {
        "classifier.latent.weight",
        "classifier.latent.bias",
    }


def test_the_penalty_is_computed_at_every_second_iteration_from_the_first() -> None:
    step = TrainStep(make_model(), CONFIG)
    seen = []
    for seed in range(4):
        seen.append(step.penalises_now())
        step(*make_batch(seed))
        step.extra_discriminator(*make_batch(seed))  # extra updates do not count
    assert seen == [True, False, True, False]
    assert step.iteration == 4
    assert not TrainStep(make_model(), PAPER).penalises_now()


def test_a_step_continues_exactly_from_its_iteration_and_kept_codes() -> None:
    whole, first = (TrainStep(make_model(), CONFIG) for _ in range(2))
    for step, seeds in ((whole, range(5)), (first, range(3))):
        for seed in seeds:
            step(*make_batch(seed))
    second = TrainStep(copy.deepcopy(first.model), CONFIG)
    for name in ("optimizer_d", "optimizer_g", "optimizer_z"):
        getattr(second, name).load_state_dict(copy.deepcopy(getattr(first, name).state_dict()))
    second.iteration = first.iteration
    second.edited.keep(first.edited.z, first.edited.labels)
    for seed in range(3, 5):
        second(*make_batch(seed))
    for p, q in zip(second.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(p, q)


def test_the_penalty_of_a_linear_function_by_hand() -> None:
    """source = ⟨a, x⟩ has the gradient a everywhere: γ/2 · |a|² for each image."""
    a = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    images = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty((images * a).sum((1, 2, 3)), images, 0.6)
    torch.testing.assert_close(penalty, 0.3 * a.square().sum())
    (of_a,) = torch.autograd.grad(penalty, a)
    torch.testing.assert_close(of_a, 0.6 * a.detach())


def test_the_weighted_label_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    c = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    flips = torch.tensor([[True, False], [False, False]])
    each = torch.tensor([[0.6931471805599453, 2.1269280110429727], [0.31326168751822286, 0.4740769841801067]])
    expected = (each * torch.tensor([[4.0, 1.0], [1.0, 1.0]])).double().mean()
    batch = GeneratedBatch(torch.zeros(2, 1), c, flips)
    torch.testing.assert_close(flipped_label_loss(logits, batch, 4.0), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(flipped_label_loss(logits, batch._replace(flips=None), 4.0), each.double().mean())
    half = flipped_label_loss(logits.bfloat16(), batch, 4.0)
    assert half.dtype == torch.float32


def test_flips_that_are_not_given_are_drawn() -> None:
    ends = []
    for _ in range(2):
        model = make_model(torch.float32)
        step = TrainStep(model, CONFIG)
        torch.manual_seed(11)
        for seed in range(3):
            step(*make_batch(seed, torch.float32)[:3])
        ends.append(copy.deepcopy(model.state_dict()))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edited_share": 1.5}, r"edited_share: found 1.5, expected a number in \[0, 1\]"),
        ({"edited_share": None}, "edited_share: found None"),
        ({"label_weight_fake": -1.0}, "label_weight_fake: found -1.0"),
        ({"flip_weight": float("inf")}, "flip_weight: found inf"),
        ({"r1": float("nan")}, "r1: found nan"),
        ({"r1_every": 0}, "r1_every: found 0, expected a whole number from 1 up"),
        ({"r1_every": 1.5}, "r1_every: found 1.5"),
        ({"latent_lr_scale": -3}, "latent_lr_scale: found -3"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepConfig(**change)


def test_bf16_keeps_float32_weights_and_stays_near_float32() -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        step = TrainStep(make_model(torch.float32), dataclasses.replace(CONFIG, precision=precision, lr=1e-5))
        for seed in range(2):
            losses[precision] = torch.stack(list(step(*make_batch(seed, torch.float32))))
        assert {p.dtype for p in step.model.parameters()} == {torch.float32}
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.05, atol=0.02)

"""CUDA graphs of the iteration equal the plain step; the warm-up before a capture changes nothing (also on a CPU)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from rerun_graphs import Reruns
from torch import Tensor

from igan_fast import IterativeGAN, StepConfig, TrainStep
from igan_fast.distributed.plan import BatchPlan
from igan_fast.distributed.step import PartedStep
from igan_fast.graphs import GraphedStep, captured_constants, state_preserved
from igan_fast.reference import draw_flips

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make cuDNN deterministic: else it sums weight gradients in random order, and Adam enlarges rounding noise."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


#: The paper's iteration, and the one with every addition. The penalty is in every second iteration: two graphs.
ADDITIONS = {
    "paper": {},
    "beyond": {
        "edited_share": 0.5,
        "label_weight_fake": 0.0,
        "flip_weight": 4.0,
        "r1": 0.1,
        "r1_every": 2,
        "latent_lr_scale": 3.0,
    },
}


def make_step(device: str = "cpu", precision: str = "fp32", additions: str = "beyond") -> TrainStep:
    torch.manual_seed(0)
    film = additions == "beyond"
    model = IterativeGAN(image_size=32, attributes=5, latent=6, width=8, film=film).to(device)
    return TrainStep(model, StepConfig(precision=precision, **ADDITIONS[additions]))


def batch(seed: int, device: str = "cpu", n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 32, 32, generator=generator) * 2 - 1
    labels = (torch.rand(n, 5, generator=generator) < 0.5).float()
    noise = torch.rand(n, 6, generator=generator) * 2 - 1
    images = images.contiguous(memory_format=torch.channels_last)
    flips = draw_flips(n, 5, 0.5, generator=generator)
    return images.to(device), labels.to(device), noise.to(device), flips.to(device)


def state_of(step: TrainStep) -> list[Tensor]:
    optimizers = [copy.deepcopy(o.state_dict()["state"]) for o in step.optimizers.values()]
    moments = [value for state in optimizers for one in state.values() for value in one.values()]
    return [*(t.clone() for t in step.model.state_dict().values()), *moments]


@pytest.mark.parametrize("additions", ADDITIONS)
@pytest.mark.parametrize("iterations_before", [0, 2])
def test_a_warm_up_changes_nothing(iterations_before, additions):
    """A capture runs ``iterate``, ``update_d`` and ``update_g``."""
    ours, theirs = make_step(additions=additions), make_step(additions=additions)
    for step in (ours, theirs):
        for k in range(iterations_before):
            step(*batch(k))
    addresses = [p.data_ptr() for p in ours.model.parameters()]
    random_state = torch.get_rng_state()
    with state_preserved(ours):
        for k in range(3):
            images, labels, noise, flips = batch(100 + k)
            generated = (noise, labels, flips if additions == "beyond" else None)
            ours.iterate(images, labels, *generated, penalise=k == 0 and additions == "beyond")
            ours.update_d(images, labels, *generated)
            ours.update_g(*generated)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [p.data_ptr() for p in ours.model.parameters()] == addresses
    for step in (ours, theirs):
        step(*batch(9))
    assert all(torch.equal(a, e) for a, e in zip(state_of(ours), state_of(theirs), strict=True))


@pytest.mark.parametrize("iterations_before", [0, 2])
def test_the_state_is_restored_after_an_error_too(monkeypatch, iterations_before):
    """The error comes in the second iteration, between the updates of D and G."""
    ours, theirs = make_step(), make_step()
    for step in (ours, theirs):
        for k in range(iterations_before):
            step(*batch(k))
    before = [t.clone() for t in ours.model.state_dict().values()]

    def interrupted() -> None:
        assert not all(torch.equal(a, e) for a, e in zip(ours.model.state_dict().values(), before, strict=True))
        raise RuntimeError("interrupted")

    def iterations() -> None:
        with state_preserved(ours):
            for k in range(2):
                images, labels, noise, flips = batch(100 + k)
                ours.iterate(images, labels, noise, labels, flips, penalise=k == 0)
                monkeypatch.setattr(ours.optimizer_g, "step", interrupted)

    with pytest.raises(RuntimeError, match="interrupted"):
        iterations()
    monkeypatch.undo()
    assert all(torch.equal(a, e) for a, e in zip(ours.model.state_dict().values(), before, strict=True))
    for step in (ours, theirs):
        step(*batch(9))
    assert all(torch.equal(a, e) for a, e in zip(state_of(ours), state_of(theirs), strict=True))


def test_a_model_on_the_cpu_is_refused():
    with pytest.raises(ValueError, match="its model is on cpu; expected a CUDA device"):
        GraphedStep(make_step())


@pytest.fixture
def captured() -> Iterator[Reruns]:
    """Lets a ``GraphedStep`` work on the CPU, and lists what it captures."""
    with Reruns() as graphs:
        yield graphs


@pytest.mark.parametrize("additions", ADDITIONS)
def test_the_step_around_the_graphs_equals_the_plain_step(captured, additions):
    """The batch that is composed, the codes that are kept, the iterations with the penalty, another batch size."""
    plain, recordable = make_step(additions=additions), make_step(additions=additions)
    recordable.recordable = True
    graphed = GraphedStep(recordable)
    for k in range(7):
        given = batch(k, n=4 if k == 5 else 6)
        kept = [torch.stack(step(*given)) for step in (graphed, plain)]
        assert torch.equal(*kept)
        for step in (graphed, plain):
            step.extra_discriminator(*batch(50 + k))
            step.extra_generator(*batch(70 + k)[1:])
        assert graphed.iteration == plain.iteration == k + 1
        if k == 2:  # Adam has its moments since the first iteration, which both kinds of graphs then captured anew
            captured.clear()
    # Captured since then: nothing but the graphs of the other batch size.
    assert len(captured) == 1
    assert all(torch.equal(a, e) for a, e in zip(state_of(recordable), state_of(plain), strict=True))


@pytest.mark.parametrize("additions", ADDITIONS)
@pytest.mark.parametrize("precision", [pytest.param(p, marks=on_gpu) for p in ("fp32", "tf32", "bf16")])
@pytest.mark.usefixtures("deterministic")
def test_replays_equal_the_plain_step(precision, additions):
    plain, graphed = make_step("cuda", precision, additions), GraphedStep(make_step("cuda", precision, additions))
    for k in range(5):
        n = 6 if k < 4 else 4  # another shape is another graph
        losses = [step(*batch(k, "cuda", n)) for step in (plain, graphed)]
        for a, e in zip(losses[1], losses[0], strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
        for step in (plain, graphed):
            step.extra_discriminator(*batch(50 + k, "cuda", n))
            step.extra_generator(*batch(70 + k, "cuda", n)[1:])
    assert graphed.iteration == plain.iteration == 5
    for p, q in zip(graphed.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        assert ((p - q).double().norm() / q.double().norm().clamp_min(1e-6)).item() < 1e-2


@pytest.mark.parametrize("parts", [pytest.param(2, marks=on_gpu)])
@pytest.mark.usefixtures("deterministic")
def test_replays_of_a_step_on_parts_equal_it(parts):
    """In one process. No test here has several GPUs."""
    steps = []
    for _ in range(2):
        torch.manual_seed(0)
        model = IterativeGAN(image_size=32, attributes=5, latent=6, width=8, film=True).to("cuda")
        config = StepConfig(**ADDITIONS["beyond"], norm_groups=parts)
        steps.append(PartedStep(model, config, BatchPlan(6, parts, accumulate=parts)))
    plain, graphed = steps[0], GraphedStep(steps[1])
    for k in range(5):
        losses = [step(*batch(k, "cuda")) for step in (plain, graphed)]
        for a, e in zip(losses[1], losses[0], strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
        for step in (plain, graphed):
            step.extra_discriminator(*batch(50 + k, "cuda"))
            step.extra_generator(*batch(70 + k, "cuda")[1:])
    for p, q in zip(graphed.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        assert ((p - q).double().norm() / q.double().norm().clamp_min(1e-6)).item() < 1e-2


@pytest.mark.parametrize("loads", [pytest.param(True, marks=on_gpu)])
@pytest.mark.usefixtures("deterministic")
def test_replays_continue_from_a_state_dict_that_was_loaded_in_between(loads):
    graphed = GraphedStep(make_step("cuda"))
    graphed(*batch(0, "cuda"))
    model = copy.deepcopy(graphed.model.state_dict())
    optimizers = [copy.deepcopy(o.state_dict()) for o in graphed.optimizers.values()]
    codes = graphed.edited.z.clone(), graphed.edited.labels.clone()
    expected = graphed(*batch(1, "cuda"))
    graphed(*batch(2, "cuda"))
    graphed.model.load_state_dict(model)
    for optimizer, state in zip(graphed.optimizers.values(), optimizers, strict=True):
        optimizer.load_state_dict(state)
    graphed.iteration = 1
    graphed.edited.keep(*codes)
    for a, e in zip(graphed(*batch(1, "cuda")), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-6)


def test_captured_constants_change_only_with_settings_and_tensors():
    step = make_step()
    step(*batch(0))
    before = captured_constants(step)
    step(*batch(1))
    step.extra_generator(*batch(2)[1:])
    assert captured_constants(step) == before
    group = step.optimizer_g.param_groups[0]
    for name, value in {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}.items():
        kept, group[name] = group[name], value
        assert captured_constants(step) != before, name
        group[name] = kept
    assert captured_constants(step) == before
    step.optimizer_d.load_state_dict(copy.deepcopy(step.optimizer_d.state_dict()))  # moments of its own
    assert captured_constants(step) != before


def test_a_learning_rate_in_a_tensor_may_change_in_place():
    step = make_step()
    step.optimizer_d.param_groups[0]["lr"] = rate = torch.tensor(1e-3)
    before = captured_constants(step)
    rate.fill_(1e-4)
    assert captured_constants(step) == before
    step.optimizer_d.param_groups[0]["lr"] = rate.clone()
    assert captured_constants(step) != before


@pytest.mark.parametrize("setting", [pytest.param(s, marks=on_gpu) for s in ({"lr": 1e-3}, {"betas": (0.9, 0.9)})])
@pytest.mark.usefixtures("deterministic")
def test_settings_that_change_between_replays_take_effect(setting):
    plain, graphed = make_step("cuda"), GraphedStep(make_step("cuda"))
    for k in range(4):
        if k == 2:
            for step in (plain, graphed):
                for optimizer in step.optimizers.values():
                    optimizer.param_groups[0].update(setting)
        for step in (plain, graphed):
            step(*batch(k, "cuda"))
    for p, q in zip(graphed.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_new_tensors_get_no_address_that_a_capture_holds(captured):
    """Else one process of several could take its new moments for the old ones, and not capture again as the others."""
    step = make_step()
    step.recordable = True
    graphed = GraphedStep(step)
    for k in range(2):  # Adam has its moments since the first
        graphed(*batch(k))
    held = {address for address in captured_constants(step) if isinstance(address, int)}
    for _ in range(3):
        step.optimizer_g.load_state_dict(copy.deepcopy(step.optimizer_g.state_dict()))
        moments = {
            value.data_ptr() for state in step.optimizer_g.state.values() for value in state.values() if value.numel()
        }
        assert not moments & held
    graphed(*batch(3))
    assert len(captured) == 3


def test_a_closed_step_frees_its_graphs_and_captures_anew(captured):
    step, plain = make_step(), make_step()
    step.recordable = True
    graphed = GraphedStep(step)
    for k in range(2):
        graphed(*batch(k)), plain(*batch(k))
    graphed.close()
    assert [graph.reset_calls for graph in captured[-1:]] == [1]
    assert torch.equal(torch.stack(graphed(*batch(2))), torch.stack(plain(*batch(2))))
    assert all(torch.equal(a, e) for a, e in zip(state_of(step), state_of(plain), strict=True))

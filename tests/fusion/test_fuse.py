"""``fuse(model)``: its report, every kind of module, what stays valid, and convolutions on our own kernels."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from fused_networks import X, assert_alike, block, pair, tensors_of
from oracles import HALF, error
from torch import Tensor, nn
from winograd_runs import count_winograd
from zoo import NETWORKS

import igan_fast
from igan_fast import ops
from igan_fast.fusion import Entry
from igan_fast.ops import backend


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
def test_the_report_prints_as_a_table():
    model = nn.Sequential(block(), nn.Conv2d(4, 1, 1), nn.Sigmoid(), Subclass(1))
    report = igan_fast.fuse(model)
    assert report[0] == Entry("0.0", "Conv2d", True, "not called yet with a tensor large enough to gain")
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            model(X.float())
    assert [entry.result for entry in report] == [
        "folded with 0.1 in evaluation without gradients",
        "with the LeakyReLU(0.2) after it",
        "by PyTorch, which is as fast for the calls so far",
        "left alone: Subclass is a derived class",
    ]
    assert report.left_alone == (report[3],)
    lines = str(report).splitlines()
    assert lines[0].split() == ["Module", "Kind", "Result"]
    assert lines[3].split(maxsplit=2) == ["0.1", "BatchNorm2d", "with the LeakyReLU(0.2) after it"]
    assert lines[-1] == "3 fused, 1 left alone"
    assert repr(report) == "FusionReport(3 fused, 1 left alone)"
    assert str(igan_fast.fuse(nn.Linear(2, 2))).startswith("nothing to fuse")


class Subclass(nn.BatchNorm2d):
    """A derived class, as in a user's code."""


def test_fusing_twice_forgets_what_was_learnt_and_unfuse_returns_the_count():
    model = block()
    first = str(igan_fast.fuse(model))
    model(X.float())
    assert str(igan_fast.fuse(model)) == first
    assert igan_fast.unfuse(model) == 2
    assert igan_fast.unfuse(model) == 0


@pytest.mark.parametrize("function", [igan_fast.fuse, igan_fast.unfuse])
def test_an_argument_that_is_no_module_raises(function):
    with pytest.raises(TypeError, match=r"model is a list; expected an nn\.Module"):
        function([nn.ReLU()])


def test_modules_stay_instances_of_their_classes():
    model = block()
    parts = list(model)
    igan_fast.fuse(model)
    assert model[0] is parts[0]
    assert model[1] is parts[1]
    assert model[2] is parts[2]
    for part, kind in zip(model, (nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU), strict=True):
        assert isinstance(part, kind)
        assert type(part).__name__ == kind.__name__  # as initialisation functions look for it
    assert repr(model) == repr(block())


NORMS = {
    "batch": lambda: nn.BatchNorm2d(4),
    "batch, not affine": lambda: nn.BatchNorm2d(4, affine=False),
    "batch, own statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "batch, cumulative average": lambda: nn.BatchNorm2d(4, momentum=None),
    "instance": lambda: nn.InstanceNorm2d(4),
    "instance, affine": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance, tracked": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True, momentum=0.3),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(True), nn.LeakyReLU(0.1), nn.LeakyReLU(0.3, True), nn.Tanh()])
@pytest.mark.parametrize("bias", [True, False])
def test_every_normalisation_and_activation(norm, act, bias):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=bias), NORMS[norm](), act).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    fused, plain = pair(model)
    for _ in range(2):
        assert_alike(fused.train(), plain.train(), [X])
    assert_alike(fused.eval(), plain.eval(), [X])
    with torch.no_grad():
        assert error(fused(X), plain(X)) < 1e-9


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", ["Batch", "Instance"])
def test_every_number_of_dimensions(dimensions, transposed, kind, training):
    conv = getattr(nn, f"Conv{'Transpose' * transposed}{dimensions}d")(4, 6, 3, 2, 1, groups=2)
    norm = getattr(nn, f"{kind}Norm{dimensions}d")(6, affine=True)
    fused, plain = pair(nn.Sequential(conv, norm, nn.ReLU()).double().train(training))
    assert_alike(fused, plain, [torch.randn(3, 4, *[5] * dimensions, dtype=torch.float64)])


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 7)])
def test_linear_and_one_dimensional_batch_norm(shape):
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(shape[-1], 6), nn.BatchNorm1d(6 if len(shape) == 2 else 4), act).double()
    fused, plain = pair(model)
    assert_alike(fused, plain, [torch.randn(shape, dtype=torch.float64)])


@pytest.mark.parametrize("training", [True, False])
def test_an_image_without_a_batch_dimension(training):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU()).double().train(training)
    fused, plain = pair(model)
    assert_alike(fused, plain, [X[0]])


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("training", [True, False])
def test_other_dtypes(dtype, training):
    fused, plain = pair(block().to(dtype).train(training))
    exact = copy.deepcopy(plain).double()
    x = X.to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else max(2 * error(plain(x), exact(x.double())), 0.02)
    actual = fused(x)
    assert actual.dtype == dtype
    assert error(actual, exact(x.double())) < tolerance


@pytest.mark.parametrize("training", [True, False])
def test_autocast(training):
    fused, plain = pair(block().train(training))
    x = X.float()
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = fused(x), plain(x)
    assert actual.dtype == expected.dtype
    assert error(actual, expected) < 0.03


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_of_results_is_pytorchs(layout):
    """With enough channels for our own convolution kernels, whose results are channels_last."""
    model = nn.Sequential(nn.Conv2d(16, 32, 5, 2, 2), nn.BatchNorm2d(32), nn.ReLU()).to(memory_format=layout)
    fused, plain = pair(model)
    x = torch.randn(16, 16, 16, 16).contiguous(memory_format=layout)
    for mode in (True, False):
        y, expected = fused.train(mode)(x), plain.train(mode)(x)
        assert y.stride() == expected.stride()
        assert error(y, expected) < 1e-4
    if layout == torch.contiguous_format:
        fused(x).view(16, -1)


def test_wrong_inputs_raise_the_same_errors():
    fused, plain = pair(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4), nn.ReLU()))
    for module in (fused, plain):
        with pytest.raises(ValueError, match="expected 4D input"):
            module(torch.randn(2, 4))
    fused, plain = pair(block())
    for module in (fused, plain):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            module(torch.randn(1, 3, 1, 1))
        assert module.eval()(torch.randn(0, 3, 4, 4)).shape == (0, 4, 4, 4)


def test_an_existing_optimiser_stays_valid():
    fused = block().double()
    plain = copy.deepcopy(fused)
    optimizers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (fused, plain)]
    for step in range(8):
        if step == 3:
            igan_fast.fuse(fused)
        for module, optimizer in zip((fused, plain), optimizers, strict=True):
            optimizer.zero_grad()
            module(X).pow(3).mean().backward()
            if step == 0:  # a bias before a normalisation gets only rounding noise as its gradient
                module[0].bias.requires_grad_(False)
            module[0].bias.grad = None
            optimizer.step()
    for a, e in zip(fused.state_dict().values(), plain.state_dict().values(), strict=True):
        assert error(a, e) < 1e-7


def test_copies_pickles_and_state_dicts():
    fused, plain = pair(block().double())
    stored = io.BytesIO()
    torch.save(fused, stored)
    stored.seek(0)
    copies = [copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), torch.load(stored, weights_only=False)]
    with torch.no_grad():  # the copies' own parameters, not the original's
        fused[0].weight.zero_(), fused[1].weight.zero_()
    for module in copies:
        assert_alike(module, copy.deepcopy(plain), [X])
        assert igan_fast.unfuse(module) == 2
    plain.load_state_dict(copies[0].state_dict())


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_hooks_registered_later_see_the_plain_results(where, kind):
    fused, plain = pair(block(act=nn.LeakyReLU(0.2)).double())
    seen: list[list[Tensor]] = []
    for module in (fused, plain):
        seen.append([])

        def hook(_module, *values, into=seen[-1]) -> None:
            into.extend(tensors_of(values))

        handle = getattr(module[where], f"register_{kind}_hook")(hook)
        x = X.clone().requires_grad_()
        module(x).pow(2).sum().backward()
        handle.remove()
    assert len(seen[0]) == len(seen[1]) > 0
    for a, e in zip(*seen, strict=True):
        assert error(a, e) < 1e-9
    assert_alike(fused, plain, [X])


def test_conversion_to_sync_batch_norm():
    fused, plain = pair(block().double())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(fused)
    assert_alike(converted.eval(), plain.eval(), [X])


def test_replaced_modules_are_called():
    fused, plain = pair(block().double())
    fused[2] = nn.Tanh()
    assert_alike(fused, nn.Sequential(plain[0], plain[1], nn.Tanh()), [X])
    fused[1] = nn.Identity()
    assert_alike(fused, nn.Sequential(plain[0], nn.Tanh()), [X])


@pytest.mark.parametrize("parametrised", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_added_later(parametrised):
    fused, plain = pair(block().double())
    for module in (fused, plain):
        torch.manual_seed(1)
        parametrised(module[0])
    assert_alike(fused, plain, [X])
    igan_fast.unfuse(fused)
    assert_alike(fused, plain, [X])


def test_replicas_of_data_parallel_use_their_own_parameters():
    fused, plain = pair(block().double())
    replica = fused._replicate_for_data_parallel()
    for name, child in fused.named_children():
        copied = child._replicate_for_data_parallel()
        copied._parameters = {}  # plain tensors, as torch.nn.parallel.replicate makes them
        for n, p in child._parameters.items():
            setattr(copied, n, None if p is None else p.detach() * 2)
        replica._modules[name] = copied
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(2)
        assert error(replica(X), plain(X)) < 1e-9


def test_a_frozen_normalisation_in_a_training_network():
    fused, plain = pair(block().double())
    for module in (fused, plain):
        module.train()[1].eval()
        for parameter in module[1].parameters():
            parameter.requires_grad_(False)
    assert_alike(fused, plain, [X])


def test_gradient_checkpointing_and_functional_call():
    fused, plain = pair(block().double())
    grads = []
    for module in (fused, plain):
        x = X.clone().requires_grad_()
        torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).pow(2).sum().backward()
        grads.append([x.grad, *(p.grad for p in module.parameters())])
    for a, e in zip(*grads, strict=True):
        assert (a - e).abs().max() < 1e-9
    values = {name: p * 2 for name, p in plain.named_parameters()}
    actual, expected = (torch.func.functional_call(m, values, (X,)) for m in (fused, plain))
    assert error(actual, expected) < 1e-9


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", ["dcgan", "resnet", "tracked"])
def test_compiles_without_a_graph_break(network, training):
    model = {
        "dcgan": lambda: nn.Sequential(block(), nn.Conv2d(4, 2, 1)),
        "resnet": lambda: NETWORKS["resnet"].builder()[0],
        "tracked": lambda: nn.Sequential(block(act=nn.ReLU()), nn.InstanceNorm2d(4, track_running_stats=True)),
    }[network]()
    fused, plain = pair(model.double().train(training))
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert error(compiled(x), plain(x)) < 1e-9
    for a, e in zip(fused.buffers(), plain.buffers(), strict=True):
        assert error(a, e) < 1e-9


#: Kept alive: PyTorch would wait for the threads of a process group with the GIL held, which these may need.
DISTRIBUTED: list[nn.Module] = []


def test_distributed_data_parallel_around_a_fused_network(tmp_path):
    """Every parameter must get a gradient: DistributedDataParallel raises an error for one that has none."""
    fused, plain = pair(block().double())
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(fused)
        DISTRIBUTED.append(wrapped)
        for module in (wrapped, plain):
            module(X).pow(3).sum().backward()
            module(X).pow(3).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for a, e in zip(fused.parameters(), plain.parameters(), strict=True):
        assert (a.grad - e.grad).abs().max() < 1e-8


@pytest.fixture
def kernels(monkeypatch) -> list[str]:
    """The calls of our own convolution kernels."""
    if ops.backends()["native-cpu"] != "available":
        pytest.skip(ops.backends()["native-cpu"])
    return count_winograd(monkeypatch)


CRITICS = {
    "LeakyReLU": lambda: nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.01), nn.Conv2d(32, 16, 3, 1, 1)),
    "ReLU": lambda: nn.Sequential(nn.Conv2d(16, 32, 3, 1, 1, bias=False), nn.ReLU(True), nn.Conv2d(32, 1, 3)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 3, 3)),
    "nothing": lambda: nn.Sequential(nn.Conv2d(16, 16, 5, 2, 2), nn.Tanh()),
}


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_without_a_normalisation(critic, layout, kernels):
    fused, plain = pair(CRITICS[critic]().to(memory_format=layout))
    exact = copy.deepcopy(plain).double()
    x = torch.randn(16, 16, 16, 16).contiguous(memory_format=layout)
    results = []
    for module, dtype in ((fused, torch.float32), (plain, torch.float32), (exact, torch.float64)):
        given = x.to(dtype, copy=True).requires_grad_()
        y = module(given)
        y.pow(2).mean().backward()
        results.append([y, given.grad, *(p.grad for p in module.parameters())])
    assert {"convolve", "weight_gradient"} <= set(kernels)
    for actual, p, e in zip(*results, strict=True):
        assert error(actual, e) < max(2e-5, 3 * error(p, e))
        assert actual.stride() == p.stride()
    assert error(fused.double()(x.double()), exact(x.double())) < 1e-9  # by PyTorch's kernels


class Wide(nn.Module):
    """With enough channels for our own convolution kernels, with and without normalisations after them."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 16, 3, padding=1), nn.LeakyReLU(0.2)
        self.down = nn.Sequential(nn.Conv2d(16, 32, 5, 2, 2), norm(32), nn.LeakyReLU(0.2))
        self.block = nn.Sequential(
            nn.Conv2d(32, 32, 3, 1, 1), norm(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), norm(32)
        )
        self.plain, self.up = nn.Conv2d(32, 32, 3, 1, 1), nn.ConvTranspose2d(32, 16, 4, 2, 1)
        self.up_norm, self.out = norm(16), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.act(self.first(x)))
        x = x + self.block(x)
        h = self.act(self.plain(x))
        h += x
        return self.out(self.act(self.up_norm(self.up(h))))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_wide_networks_in_float32(norm, training, layout, kernels):
    """The zoo's networks are narrow and run in float64, so that PyTorch's convolutions compute them."""
    fused, plain = pair(Wide(norm).train(training).to(memory_format=layout))
    exact = copy.deepcopy(plain).double()
    x = torch.randn(8, 3, 16, 16).contiguous(memory_format=layout)
    results = []
    for module, dtype in ((fused, torch.float32), (plain, torch.float32), (exact, torch.float64)):
        given = x.to(dtype, copy=True).requires_grad_()
        module(given).pow(2).mean().backward()
        with torch.no_grad():
            y = module(given)
        skipped = (
            (".bias",) if norm is nn.InstanceNorm2d or training else ()
        )  # before a normalisation its gradient is rounding noise
        weights = [p.grad for n, p in module.named_parameters() if not n.endswith(skipped)]
        results.append([y, given.grad, *weights, *(b for b in module.buffers() if b.is_floating_point())])
    assert kernels.count("convolve") >= 5
    assert "weight_gradient" in kernels
    for actual, p, e in zip(*results, strict=True):
        assert error(actual, e) < max(2e-5, 3 * error(p, e))
        assert actual.stride() == p.stride()


class Summed(nn.Module):
    """Changes the outputs of its layers in place, which PyTorch allows after a LeakyReLU that is not in-place."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x)
        h += x
        return h


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norms", [(), (nn.BatchNorm2d(16),), (nn.InstanceNorm2d(16),)])
@pytest.mark.parametrize("acts", [(), (nn.LeakyReLU(0.2),)])
def test_results_may_be_changed_in_place(norms, acts, training, kernels):
    model = Summed(nn.Conv2d(16, 16, 3, padding=1), *norms, *acts).train(training)
    fused, plain = pair(model.to(memory_format=torch.channels_last))
    results = []
    for module in (fused, plain):
        x = torch.randn(8, 16, 12, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        module(x.contiguous(memory_format=torch.channels_last)).pow(2).sum().backward()
        results.append([x.grad, module.layers[0].weight.grad])
    assert "convolve" in kernels or norms
    for a, e in zip(*results, strict=True):
        assert error(a, e) < 1e-4


def test_a_gradient_penalty_without_normalisations(kernels):
    """StarGAN's critic: the second derivatives are computed by PyTorch's convolutions."""
    fused, plain = pair(CRITICS["LeakyReLU"]())
    x = torch.randn(16, 16, 16, 16)
    results = []
    for module in (fused, plain):
        given = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(module(given).sum(), given, create_graph=True)
        penalty = (grad.flatten(1).norm(dim=1) - 1).square().mean()
        results.append([grad, *torch.autograd.grad(penalty, [module[0].weight, module[2].weight])])
    assert "convolve" in kernels
    for a, e in zip(*results, strict=True):
        assert error(a, e) < 1e-4


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize(("kernel", "copies"), [((3, 5), 0), ((4, 5), 1)])
def test_same_padding_copies_the_input_only_where_its_two_sides_differ(kernel, copies, monkeypatch):
    padded, pad = [], torch.nn.functional.pad
    monkeypatch.setattr(
        torch.nn.functional, "pad", lambda *given, **named: padded.append(given) or pad(*given, **named)
    )
    fused, _ = pair(nn.Sequential(nn.Conv2d(3, 4, kernel, padding="same"), nn.BatchNorm2d(4)).eval())
    with torch.no_grad():
        for _ in range(2):  # the convolution learns that the normalisation follows, then finds its way to compute both
            fused(torch.randn(2, 3, 8, 8))
        padded.clear()
        fused(torch.randn(2, 3, 8, 8))
    assert len(padded) == copies


def test_the_environment_variable_switches_to_the_reference(kernels, monkeypatch):
    critic, _ = pair(CRITICS["LeakyReLU"]())
    critic(torch.randn(16, 16, 16, 16))
    assert kernels == ["convolve", "convolve"]
    monkeypatch.setattr(backend, "_DEFAULT", "reference")  # IGAN_FAST_IMPL
    critic(torch.randn(16, 16, 16, 16))
    assert len(kernels) == 2

"""fuse(model) on networks as others write them: the same results, and nothing touched that is not certain."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import random

import numpy
import pytest
import torch
from oracles import HALF, error
from torch import Tensor, nn
from winograd_runs import count_winograd
from zoo import NETWORKS

import igan_fast
from igan_fast import ops
from igan_fast.fusion import Entry
from igan_fast.ops import backend


def tensors_of(result) -> list[Tensor]:
    """All tensors of what a network returns."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        result = list(result.values())
    return [tensor for part in result for tensor in tensors_of(part)] if isinstance(result, list | tuple) else []


def outputs_of(module: nn.Module, inputs) -> list[Tensor]:
    """With the same random numbers each time, for dropout."""
    torch.manual_seed(3)
    return tensors_of(module(*inputs))


def assert_alike(actual: nn.Module, expected: nn.Module, inputs, calls=(), tolerance: float = 1e-9) -> None:
    """Outputs, gradients of inputs and parameters, and buffers, in the mode that both are in."""
    results = []
    for module in (actual, expected):
        given = [v.clone().requires_grad_() if torch.is_tensor(v) and v.is_floating_point() else v for v in inputs]
        outputs = outputs_of(module, given)
        for call in calls:
            outputs += tensors_of(call(module, tuple(v.detach() if torch.is_tensor(v) else v for v in given)))
        leaves = [t for t in [*given, *module.parameters()] if torch.is_tensor(t) and t.requires_grad]
        weight = torch.Generator().manual_seed(4)
        loss = sum(
            (t * torch.randn(t.shape, generator=weight, dtype=torch.float64).to(t)).sum()
            for t in outputs
            if t.requires_grad
        )
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        results.append((outputs, grads, list(module.buffers())))
    (outputs, grads, buffers), (expected_outputs, expected_grads, expected_buffers) = results
    for a, e in zip(outputs, expected_outputs, strict=True):
        assert error(a, e) < tolerance
        assert a.stride() == e.stride()
    scale = max([1.0, *(g.abs().max().item() for g in expected_grads if g is not None and g.numel())])
    for a, e in zip(grads, expected_grads, strict=True):
        assert (a is None) == (e is None)
        if a is not None and a.numel():
            assert (a - e).abs().max().item() < tolerance * scale
    for a, e in zip(buffers, expected_buffers, strict=True):
        assert error(a, e) < tolerance


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_the_usual_spellings(name):
    network = NETWORKS[name]
    (fused, inputs), (plain, _) = network.make(torch.float64), network.make(torch.float64)
    keys = list(fused.state_dict())
    parameters, buffers = dict(fused.named_parameters()), dict(fused.named_buffers())
    modules = dict(fused.named_modules(remove_duplicate=False))
    report = igan_fast.fuse(fused)
    assert list(fused.state_dict()) == keys
    assert dict(fused.named_modules(remove_duplicate=False)) == modules
    assert all(p is parameters[n] for n, p in fused.named_parameters())
    assert all(b is buffers[n] for n, b in fused.named_buffers())
    for training in (True, True, False, False):  # what a first call teaches shows in the second
        fused.train(training), plain.train(training)
        assert_alike(fused, plain, inputs, network.calls.values())
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                for a, e in zip(outputs_of(fused, inputs), outputs_of(plain, inputs), strict=True):
                    assert error(a, e) < 1e-9
                    assert a.stride() == e.stride()
    if ops.backends()["native-cpu"] == "available":
        activated = sum("LU" in entry.result for entry in report)
        assert activated >= activations_behind_norms(network, modules) - NOT_JOINED.get(name, 0)
    plain.load_state_dict(fused.state_dict())
    igan_fast.unfuse(fused)
    assert [type(m).__qualname__ for m in fused.modules()] == [type(m).__qualname__ for m in plain.modules()]
    assert not any(type(m).__module__.startswith("igan_fast.fusion") for m in fused.modules())
    for a, e in zip(outputs_of(fused, inputs), outputs_of(plain, inputs), strict=True):
        assert torch.equal(a, e)


#: Normalisations whose plain result something else takes too, before the (Leaky)ReLU does.
NOT_JOINED = {"constructed": 1, "wanted_layers": 1}


def activations_behind_norms(network, modules: dict[str, nn.Module]) -> int:
    """How many normalisations of PyTorch's are followed by a (Leaky)ReLU, as the zoo tells."""
    norms = set()
    for chain in network.runs:
        kinds = [modules.get(name) for name in chain]
        for norm, act in itertools.pairwise(kinds):
            if isinstance(norm, NORM_CLASSES) and isinstance(act, nn.ReLU | nn.LeakyReLU):
                norms.add(id(norm))
    return len(norms)


NORM_CLASSES = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def block(*, act: nn.Module | None = None, norm: type[nn.Module] = nn.BatchNorm2d, **options) -> nn.Sequential:
    """A convolution, a normalisation and an activation."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, **options), norm(4), act or nn.LeakyReLU(0.2, inplace=True))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pair(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A copy that is fused, and the plain one."""
    fused = copy.deepcopy(model)
    assert len(igan_fast.fuse(fused).fused) > 0
    return fused, model


X = torch.randn(4, 3, 6, 5, dtype=torch.float64)


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
def test_the_report_reads_as_a_table():
    model = nn.Sequential(block(), nn.Conv2d(4, 1, 1), nn.Sigmoid(), Subclass(1))
    report = igan_fast.fuse(model)
    assert report[0] == Entry("0.0", "Conv2d", True, "nothing seen yet that is large enough to gain")
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            model(X.float())
    assert [entry.result for entry in report] == [
        "folded with 0.1 in evaluation without gradients",
        "with the LeakyReLU(0.2) behind it",
        "alone, by the faster of our kernels and PyTorch's",
        "left alone: Subclass is a class of its own",
    ]
    assert report.left_alone == (report[3],)
    lines = str(report).splitlines()
    assert lines[0].split() == ["Module", "Kind", "Result"]
    assert lines[3].split(maxsplit=2) == ["0.1", "BatchNorm2d", "with the LeakyReLU(0.2) behind it"]
    assert lines[-1] == "3 fused, 1 left alone"
    assert repr(report) == "FusionReport(3 fused, 1 left alone)"
    assert str(igan_fast.fuse(nn.Linear(2, 2))).startswith("nothing to fuse")


class Subclass(nn.BatchNorm2d):
    """Somebody's own."""


def test_fusing_twice_forgets_what_was_learnt_and_unfuse_tells_how_much_there_was():
    model = block()
    first = str(igan_fast.fuse(model))
    model(X.float())
    assert str(igan_fast.fuse(model)) == first
    assert igan_fast.unfuse(model) == 2
    assert igan_fast.unfuse(model) == 0


@pytest.mark.parametrize("function", [igan_fast.fuse, igan_fast.unfuse])
def test_what_is_no_module_is_refused(function):
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
        assert type(part).__name__ == kind.__name__  # as initialisers look for it
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
def test_an_unbatched_image(training):
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
def test_the_layout_of_the_result_is_the_original_one(layout):
    """Wide enough for our own convolutions, whose results have channels last."""
    model = nn.Sequential(nn.Conv2d(16, 32, 5, 2, 2), nn.BatchNorm2d(32), nn.ReLU()).to(memory_format=layout)
    fused, plain = pair(model)
    x = torch.randn(16, 16, 16, 16).contiguous(memory_format=layout)
    for mode in (True, False):
        y, expected = fused.train(mode)(x), plain.train(mode)(x)
        assert y.stride() == expected.stride()
        assert error(y, expected) < 1e-4
    if layout == torch.contiguous_format:
        fused(x).view(16, -1)


def test_wrong_inputs_raise_what_they_raised():
    fused, plain = pair(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4), nn.ReLU()))
    for module in (fused, plain):
        with pytest.raises(ValueError, match="expected 4D input"):
            module(torch.randn(2, 4))
    fused, plain = pair(block())
    for module in (fused, plain):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            module(torch.randn(1, 3, 1, 1))
        assert module.eval()(torch.randn(0, 3, 4, 4)).shape == (0, 4, 4, 4)


def test_an_optimiser_and_its_state_go_on():
    fused = block().double()
    plain = copy.deepcopy(fused)
    optimizers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (fused, plain)]
    for step in range(8):
        if step == 3:
            igan_fast.fuse(fused)
        for module, optimizer in zip((fused, plain), optimizers, strict=True):
            optimizer.zero_grad()
            module(X).pow(3).mean().backward()
            if step == 0:  # the bias before a normalisation moves by rounding noise alone
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
def test_hooks_that_come_later_see_what_they_would_have_seen(where, kind):
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


def test_normalisations_that_become_synchronised_keep_their_activation():
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
def test_spectral_norm_that_comes_later(parametrised):
    fused, plain = pair(block().double())
    for module in (fused, plain):
        torch.manual_seed(1)
        parametrised(module[0])
    assert_alike(fused, plain, [X])
    igan_fast.unfuse(fused)
    assert_alike(fused, plain, [X])


def test_replicas_of_data_parallel_have_parameters_of_their_own():
    fused, plain = pair(block().double())
    replica = fused._replicate_for_data_parallel()
    for name, child in fused.named_children():
        copied = child._replicate_for_data_parallel()
        copied._parameters = {}  # as torch.nn.parallel.replicate has them: plain tensors
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
def test_compiled_without_a_break(network, training):
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


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_networks_in_wrappers_are_fused_as_others():
    for wrap in (nn.DataParallel, Wrapped, lambda model: torch.compile(model, backend="eager")):
        model = block().double()
        plain = copy.deepcopy(model)
        assert len(igan_fast.fuse(wrap(model)).fused) == 2
        assert_alike(model, plain, [X])


def test_networks_that_are_not_initialised_yet_are_left_alone():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    assert not igan_fast.fuse(model).fused
    assert "not initialised yet" in str(igan_fast.fuse(model))
    model(X.float())
    assert len(igan_fast.fuse(model).fused) == 2


class Cyclic(nn.Module):
    """Its forward depends on data, in more ways than can be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
        self.seen: list[Tensor] = []
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        self.steps += 1
        self.last = x
        while x.sum() < 1e9:
            x = self.act(self.norm(self.conv(x))) + torch.rand(1) + 1e6
        return x


def test_following_a_forward_leaves_no_trace():
    model = Cyclic().train()
    state = torch.get_rng_state()
    igan_fast.fuse(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.seen == []
    assert not hasattr(model, "last")
    assert isinstance(model.steps, Tensor)
    assert model.steps == 0
    assert model.training


class Random(nn.Module):
    """Asks every source of random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x * random.random() + float(numpy.random.rand()) + torch.rand(())  # noqa: NPY002 - the global one is meant


def test_random_numbers_are_afterwards_as_they_were():
    def drawn() -> list[float]:
        return [random.random(), float(numpy.random.rand()), torch.rand(()).item()]  # noqa: NPY002

    for source in (random.seed, numpy.random.seed, torch.manual_seed):
        source(1)
    expected = drawn()
    for source in (random.seed, numpy.random.seed, torch.manual_seed):
        source(1)
    igan_fast.fuse(Random())
    assert drawn() == expected


class Indexed(nn.Module):
    """Reaches into its block where forward does not."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def features(self, x: Tensor) -> Tensor:
        return self.body[0](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_methods_beside_forward_give_what_they_gave():
    fused, plain = pair(Indexed().double())
    assert error(fused.features(X), plain.features(X)) < 1e-12
    assert_alike(fused, plain, [X])


def test_a_replaced_forward_is_not_second_guessed():
    fused = Wrapped(block().double())
    fused.forward = lambda x: fused.inner[0](x)
    expected = fused(X)
    igan_fast.fuse(fused)
    assert error(fused(X), expected) < 1e-12


class Inherited(Indexed):
    """Its base's forward, which cannot be followed, reaches into the block."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[: int(x.shape[0])])


def test_the_methods_of_base_classes_count():
    fused, plain = pair(Inherited().double())
    assert error(fused.features(X), plain.features(X)) < 1e-12
    assert_alike(fused, plain, [X])


#: Never taken down while their work may still be: torch waits for its threads with the GIL held, which they may want.
DISTRIBUTED: list[nn.Module] = []


def test_distributed_data_parallel_around_a_fused_network(tmp_path):
    """Every parameter gets a gradient: a bias that has none would be reported as unused."""
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
    """What Winograd's kernels computed."""
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
    assert error(fused.double()(x.double()), exact(x.double())) < 1e-9  # by PyTorch's own


class Wide(nn.Module):
    """Wide enough for our own convolutions, before normalisations and without."""

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
    """The zoo's are narrow and in float64, where PyTorch's own convolutions run."""
    fused, plain = pair(Wide(norm).train(training).to(memory_format=layout))
    exact = copy.deepcopy(plain).double()
    x = torch.randn(8, 3, 16, 16).contiguous(memory_format=layout)
    results = []
    for module, dtype in ((fused, torch.float32), (plain, torch.float32), (exact, torch.float64)):
        given = x.to(dtype, copy=True).requires_grad_()
        module(given).pow(2).mean().backward()
        with torch.no_grad():
            y = module(given)
        skipped = (".bias",) if norm is nn.InstanceNorm2d or training else ()  # rounding noise before a normalisation
        weights = [p.grad for n, p in module.named_parameters() if not n.endswith(skipped)]
        results.append([y, given.grad, *weights, *(b for b in module.buffers() if b.is_floating_point())])
    assert kernels.count("convolve") >= 5
    assert "weight_gradient" in kernels
    for actual, p, e in zip(*results, strict=True):
        assert error(actual, e) < max(2e-5, 3 * error(p, e))
        assert actual.stride() == p.stride()


class Summed(nn.Module):
    """What its layers give is written into, as plain PyTorch allows it behind a LeakyReLU that is not in place."""

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
def test_results_may_be_written_into(norms, acts, training, kernels):
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
    """StarGAN's critic: the second derivative runs through PyTorch's own convolutions."""
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
def test_the_same_padding_is_a_copy_only_where_its_sides_differ(kernel, copies, monkeypatch):
    padded, pad = [], torch.nn.functional.pad
    monkeypatch.setattr(
        torch.nn.functional, "pad", lambda *given, **named: padded.append(given) or pad(*given, **named)
    )
    fused, _ = pair(nn.Sequential(nn.Conv2d(3, 4, kernel, padding="same"), nn.BatchNorm2d(4)).eval())
    with torch.no_grad():
        fused(torch.randn(2, 3, 8, 8))  # which learns that the normalisation follows
        padded.clear()
        fused(torch.randn(2, 3, 8, 8))
    assert len(padded) == copies


def test_the_environment_can_ask_for_the_reference(kernels, monkeypatch):
    critic, _ = pair(CRITICS["LeakyReLU"]())
    critic(torch.randn(16, 16, 16, 16))
    assert kernels == ["convolve", "convolve"]
    monkeypatch.setattr(backend, "_DEFAULT", "reference")  # IGAN_FAST_IMPL
    critic(torch.randn(16, 16, 16, 16))
    assert len(kernels) == 2


class HereAndThere(nn.Module):
    """One activation object inside of blocks and called by itself, also on what no normalisation gives."""

    def __init__(self, order: int) -> None:
        super().__init__()
        act = nn.LeakyReLU(0.2)
        blocks = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), act) for _ in range(2)]
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        names = ["first", "act", "last"]
        for name in names[order:] + names[:order]:
            self.add_module(name, act if name == "act" else blocks[name == "last"])

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(self.act(self.act(self.norm(self.conv(y))) + y))


@pytest.mark.parametrize("order", range(3))
def test_an_activation_that_is_in_blocks_and_called_by_itself(order):
    fused, plain = pair(HereAndThere(order).double())
    assert_alike(fused, plain, [X])
    assert_alike(fused, plain, [X])
    assert_alike(fused.eval(), plain.eval(), [X])
    igan_fast.unfuse(fused)
    assert fused.act is fused.first[2]
    assert fused.act is fused.last[2]
    assert type(fused.act) is nn.LeakyReLU

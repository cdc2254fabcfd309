"""Networks that are reparametrised, pruned, converted, copied, stored or distributed, before ``fuse`` or after."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle

import pytest
import torch
import torch.nn.functional as F
from plain_and_fused import Net, assert_alike, differences, images, pair, randomised, record
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import igan_fast

pytestmark = pytest.mark.filterwarnings("ignore")


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w * 2

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / 2


MODIFICATIONS = {
    "weight norm, by parametrisation": lambda net: parametrizations.weight_norm(net.conv),
    "weight norm, by hook": lambda net: nn.utils.weight_norm(net.conv),
    "weight norm, removed": lambda net: nn.utils.remove_weight_norm(nn.utils.weight_norm(net.conv)),
    "spectral norm, by parametrisation": lambda net: parametrizations.spectral_norm(net.conv),
    "spectral norm, by hook": lambda net: nn.utils.spectral_norm(net.conv),
    "spectral norm, removed": lambda net: nn.utils.remove_spectral_norm(nn.utils.spectral_norm(net.conv)),
    "orthogonal": lambda net: parametrizations.orthogonal(net.conv, use_trivialization=False),
    "conv's weight doubled": lambda net: parametrize.register_parametrization(net.conv, "weight", Doubled()),
    "conv's bias doubled": lambda net: parametrize.register_parametrization(net.conv, "bias", Doubled()),
    "norm's weight doubled": lambda net: parametrize.register_parametrization(net.norm, "weight", Doubled()),
    "norm's bias doubled": lambda net: parametrize.register_parametrization(net.norm, "bias", Doubled()),
    "norm's statistics doubled": lambda net: parametrize.register_parametrization(net.norm, "running_mean", Doubled()),
    "parametrisation removed": lambda net: parametrize.remove_parametrizations(
        parametrize.register_parametrization(net.norm, "weight", Doubled()), "weight"
    ),
    "conv pruned": lambda net: prune.l1_unstructured(net.conv, "weight", 0.5),
    "conv pruned by channels": lambda net: prune.ln_structured(net.conv, "weight", 0.5, n=2, dim=0),
    "norm pruned": lambda net: prune.l1_unstructured(net.norm, "weight", 0.5),
    "pruned for good": lambda net: prune.remove(prune.l1_unstructured(net.conv, "weight", 0.5), "weight"),
}


def modified(net, modification):
    torch.manual_seed(2)
    MODIFICATIONS[modification](net)
    return net


@pytest.mark.parametrize("when", ["before", "after", "after a call"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("modification", MODIFICATIONS)
def test_reparametrised_and_pruned(modification, training, when):
    def made() -> nn.Module:
        return randomised(Net(act=nn.LeakyReLU(0.2))).train(training)

    if when == "before":
        plain, fused = modified(made(), modification), modified(made(), modification)
        igan_fast.fuse(fused)
        assert_alike(plain, lambda net, x: [net(x), net.norm(net.conv(x))], images(), fused=fused)
        return

    def way(net, x):
        first = net(x) if when == "after a call" else None
        modified(net, modification)
        return first, net(x), net.norm(net.conv(x)), sorted(net.state_dict())

    for context in ("grad", "no_grad"):
        assert_alike(made(), way, images(), calls="first", context=context)


def swapped(net, x):
    """Swaps other weights in and out, as for averaged (EMA) weights."""
    shadow = {n: v.clone() * 1.5 for n, v in net.state_dict().items() if v.is_floating_point()}
    before = {n: v.clone() for n, v in net.state_dict().items()}
    first = net(x).detach()
    net.load_state_dict(shadow, strict=False)
    second = net(x).detach()
    net.load_state_dict(before)
    return first, second, net(x)


def assigned(net, x):
    state = {n: v.clone() for n, v in net.state_dict().items()}
    net.load_state_dict({n: v * 2 for n, v in state.items()}, assign=True)
    return net(x)


def averaged(net, x):
    average = torch.optim.swa_utils.AveragedModel(net)
    with torch.no_grad():
        net.norm.weight.mul_(2)
    average.update_parameters(net)
    return average(x).detach(), net(x)


def statistics_updated(net, x):
    torch.optim.swa_utils.update_bn([x.detach(), x.detach() * 2], net)
    return net(x)


def trained(net, x):
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = net(x.detach()).pow(3).mean()
        loss.backward()
        net.conv.bias.grad = None  # its gradient is rounding noise, which Adam would enlarge
        optimizer.step()
        losses.append(loss.item())
    optimizer.zero_grad()
    return losses, net(x)


def clipped(net, x):
    net(x).square().sum().backward()
    return nn.utils.clip_grad_norm_(net.parameters(), 1.0), nn.utils.parameters_to_vector(net.parameters())


def through_pickle(net, x):
    other = pickle.loads(pickle.dumps(net))
    with torch.no_grad():
        net.norm.weight.zero_()
    y = other(x)
    return y, net(x)


def through_a_file(net, x):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)(x)


def through_a_state_file(net, x):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    net.load_state_dict(torch.load(file, weights_only=True))
    return list(net.state_dict()), net(x)


def copied(net, x):
    return net(x), copy.deepcopy(net)(x), copy.copy(net)(x), copy.deepcopy(copy.deepcopy(net))(x)


def replicated(net, x):
    """A replica as DataParallel makes it, on one device: its parameters are plain tensors."""
    replica = net._replicate_for_data_parallel()
    for name, child in net.named_children():
        part = child._replicate_for_data_parallel()
        part._former_parameters = {}
        for n, p in child._parameters.items():
            if p is not None:
                setattr(part, n, p * 1.0)
        part._parameters = {}
        replica._modules[name] = part
        setattr(replica, name, part)
    return replica(x), replica.norm(replica.conv(x))


def data_parallel(net, x):
    return nn.DataParallel(net)(x)


def synchronised(net, x):
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return type(converted.norm) is nn.SyncBatchNorm, converted.eval()(x)


def apart(net, x):
    """Modules built again from the class name and the attributes of the fused ones."""
    n, c = net.norm, net.conv
    norm = nn.BatchNorm2d(n.num_features, n.eps, n.momentum, n.affine, n.track_running_stats).double()
    norm.load_state_dict(n.state_dict())
    conv = nn.Conv2d(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding).double()
    conv.load_state_dict(c.state_dict())
    return norm(conv(x)), list(n.state_dict())


def as_parts(net, x):
    model = nn.Sequential(*net.children())
    return model(x), nn.ModuleList(net.children())[1](net.conv(x)), len(list(model.modules()))


def without_initialising(net, x):
    return torch.nn.utils.skip_init(nn.BatchNorm2d, 16).weight.shape, net(x)


def shared_memory(net, x):
    net.share_memory()
    return net(x)


def in_graph(net, x):
    """The network as a module of another one, which uses a result twice."""
    y = net.norm(net.conv(x))
    return (
        nn.Sequential(nn.ReLU(), nn.Conv2d(16, 2, 1, bias=False).double().requires_grad_(False).apply(_ones))(y)
        + y[:, :2]
    )


def _ones(module):
    if hasattr(module, "weight"):
        nn.init.ones_(module.weight)


USES = {
    f.__name__: f
    for f in (
        swapped,
        assigned,
        averaged,
        statistics_updated,
        trained,
        clipped,
        through_pickle,
        through_a_file,
        through_a_state_file,
        copied,
        replicated,
        data_parallel,
        synchronised,
        apart,
        as_parts,
        without_initialising,
        shared_memory,
        in_graph,
    )
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("use", USES)
def test_what_is_done_with_networks(use, training):
    assert_alike(randomised(Net()).train(training), USES[use], images(), tolerance=1e-8)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("use", ["replicated", "through_pickle", "copied", "swapped"])
def test_what_is_done_with_networks_without_gradients(use, training):
    assert_alike(randomised(Net(act=nn.LeakyReLU(0.2))).train(training), USES[use], images(), context="no_grad")


STORED = {
    "pickle": lambda y: pickle.loads(pickle.dumps(y)),
    "file": lambda y: _file(y, True),
    "file, any class": lambda y: _file(y, False),
    "in a dictionary": lambda y: _file({"y": [y]}, True)["y"][0],
    "multiprocessing": lambda y: pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(y)),
    "deepcopy": copy.deepcopy,
    "numpy": lambda y: torch.tensor(y.numpy()),
}


def _file(value, weights_only):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("how", STORED)
def test_a_result_that_is_saved_to_a_file_is_a_plain_tensor(how, training):
    """The file may be loaded where this package is not installed: it must not contain a class of ours."""
    fused, plain = pair(randomised(Net()).train(training))
    for _ in range(2):
        with torch.no_grad():
            h = fused.conv(images())
            y, expected = fused.norm(h), plain.norm(plain.conv(images()))
            if how == "pickle":
                assert b"igan_fast" not in pickle.dumps(y)
                assert b"igan_fast" not in pickle.dumps(h)
            stored = STORED[how](y)
        assert type(stored) is Tensor
        assert stored.stride() == expected.stride()
        assert (stored - expected).abs().max() < 1e-9
        assert (fused.act(y) - plain.act(expected)).abs().max() < 1e-9


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_result_that_a_hook_keeps_is_used_after_the_forward_pass(training):
    """As in a perceptual loss: a hook keeps the normalisation's result for later."""

    def way(net, x):
        kept = []
        handle = net.norm.register_forward_hook(lambda m, i, y: kept.append(y))
        y = net(x)
        handle.remove()
        return y, kept[0].abs(), F.relu(kept[0])

    assert_alike(randomised(Net()).train(training), way, images())
    assert_alike(randomised(Net(act=nn.ReLU(True))).train(training), way, images())


#: Kept alive: PyTorch would wait for the threads of a process group with the GIL held, which these may need.
DISTRIBUTED: list[nn.Module] = []


@pytest.fixture
def one_process(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"find_unused_parameters": True},
        {"static_graph": True},
        {"gradient_as_bucket_view": True},
        {"broadcast_buffers": False},
    ],
    ids=lambda options: next(iter(options), "defaults"),
)
def test_distributed_in_one_process(options, one_process):
    def way(net, x):
        if not hasattr(net, "wrapped"):
            net.__dict__["wrapped"] = nn.parallel.DistributedDataParallel(net, **options)
            DISTRIBUTED.append(net.__dict__["wrapped"])
        net.__dict__["wrapped"](x).square().sum().backward()
        return x.grad.clone()

    fused, plain = pair(randomised(Net(act=nn.LeakyReLU(0.2))))
    expected = record(way, plain, images(), calls="first second third")
    assert not differences(record(way, fused, images(), calls="first second third"), expected, 1e-8)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_unfuse(training):
    """After calls and copies, ``unfuse`` removes every class and attribute of ours."""
    fused, plain = pair(randomised(Net()).train(training))
    y = fused.norm(fused.conv(images()))
    other = copy.deepcopy(fused)
    for net in (fused, other):
        igan_fast.unfuse(net)
        assert [type(m) for m in net.modules()] == [type(m) for m in plain.modules()]
        assert [sorted(m.__dict__) for m in net.modules()] == [sorted(m.__dict__) for m in plain.modules()]
        assert b"igan_fast" not in pickle.dumps(list(net.children()))
    assert (fused.act(y) - plain.act(plain.norm(plain.conv(images())))).abs().max() < 1e-9


def test_fuse_runs_no_code_of_the_model():
    """It runs no forward, draws no random numbers and changes no buffer."""

    class Untouchable(Net):
        def forward(self, x):
            raise AssertionError("called")

    net = Untouchable()
    for module in net.children():
        module.register_forward_pre_hook(lambda *_: pytest.fail("called"))
    random, state = torch.get_rng_state(), {n: v.clone() for n, v in net.state_dict().items()}
    igan_fast.fuse(net)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, state[n]) for n, v in net.state_dict().items())
    assert list(net.state_dict()) == list(state)

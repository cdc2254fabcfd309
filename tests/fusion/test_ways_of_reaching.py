"""Networks that call their modules in unusual ways, or that are changed after ``fuse``: PyTorch's results."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from plain_and_fused import Net, assert_alike, images, randomised
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

pytestmark = pytest.mark.filterwarnings("ignore")


def block(n_in: int = 3, n_out: int = 16, act: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 1), nn.BatchNorm2d(n_out), act()]


class Domains(nn.Module):
    """One normalisation per domain; an attribute selects the domain."""

    def __init__(self, container: str = "list") -> None:
        super().__init__()
        self.conv, self.act, self.domain = nn.Conv2d(3, 16, 1), nn.LeakyReLU(0.2), "0"
        norms = [nn.BatchNorm2d(16) for _ in range(3)]
        self.norms = (
            nn.ModuleList(norms) if container == "list" else nn.ModuleDict({str(i): n for i, n in enumerate(norms)})
        )
        self.list = container == "list"

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norms[int(self.domain) if self.list else self.domain](self.conv(x)))


class ByGradMode(Domains):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norms[int(torch.is_grad_enabled())](self.conv(x)))


class ByTraining(Domains):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norms[int(self.training)](self.conv(x)))


class ByData(Domains):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norms[int(x.mean() > 0)](self.conv(x)))


class Layers(nn.Module):
    """A discriminator that can return the result of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([*block(), *block(16, 8, nn.LeakyReLU), nn.Conv2d(8, 1, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def features(self, x: Tensor) -> list[Tensor]:
        out = []
        for layer in self.layers:
            x = layer(x)
            out.append(x)
        return out

    def by_children(self, x: Tensor) -> list[Tensor]:
        out = []
        for child in next(iter(self.children())).children():
            x = child(x)
            out.append(x)
        return out

    def by_index(self, x: Tensor) -> Tensor:
        return F.relu(self.layers[1](self.layers[0](x)))

    def by_name(self, x: Tensor) -> Tensor:
        for name in ("layers.0", "layers.1", "layers.2"):
            x = self.get_submodule(name)(x)
        return x

    def some(self, x: Tensor, indices: tuple[int, ...] = (1, 3)) -> list[Tensor]:
        out = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in indices:
                out.append(x)
        return [*out, x]

    def in_reverse(self, x: Tensor) -> Tensor:
        return self.layers[1](self.layers[2](self.layers[0](x)))

    def by_reduce(self, x: Tensor) -> Tensor:
        return functools.reduce(lambda h, layer: layer(h), self.layers[:3], x)

    def caught(self, x: Tensor) -> Tensor:
        y = self.layers[1](self.layers[0](x))
        try:
            y = self.layers[0](y)
        except RuntimeError:
            y = self.layers[2](y)
        return y

    def generated(self, x: Tensor) -> list[Tensor]:
        def states(x):
            for layer in self.layers:
                x = layer(x)
                yield x

        return list(states(x))


class Features(nn.Sequential):
    def features(self, x: Tensor) -> Tensor:
        return self[0](x)

    def norms(self, x: Tensor) -> Tensor:
        return self[1](self[0](x))


class Keeping(Net):
    """Keeps the results of its layers, for a perceptual loss."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = [self.conv(x)]
        self.kept.append(self.norm(self.kept[-1]))
        return self.act(self.kept[-1])


class Recurrent(Net):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.act(self.norm(self.conv(x)))
        return x


class Sharing(nn.Module):
    """One normalisation and one activation are used after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        norm, act = nn.BatchNorm2d(16), nn.LeakyReLU(0.2)
        self.one = nn.Sequential(nn.Conv2d(3, 16, 1), norm, act)
        self.two = nn.Sequential(nn.Conv2d(16, 16, 1), norm, act, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Sequential(*block(3, 3)), nn.Sequential(*block(3, 3))
        self.two[0].weight, self.two[1].weight = self.one[0].weight, self.one[1].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class OwnAct(nn.LeakyReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 1


class NamedOnly(nn.BatchNorm2d):
    """A subclass that changes nothing."""


class ConditionalNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.embed = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16, affine=False), nn.Linear(2, 32)

    def forward(self, x: Tensor) -> Tensor:
        gamma, beta = self.embed(x.mean((1, 2, 3))[:, None].expand(-1, 2)).chunk(2, 1)
        return F.relu(gamma[:, :, None, None] * self.bn(self.conv(x)) + beta[:, :, None, None])


def from_text() -> nn.Module:
    """A network of a class without source code."""
    scope: dict = {"nn": nn, "torch": torch}
    exec(
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.norm, self.act = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU()\n"
        "        self.late = False\n"
        "    def forward(self, x):\n"
        "        h = self.conv(x)\n"
        "        return torch.cat([self.act(self.norm(h)), h if self.late else self.act(h)], 1)\n",
        scope,
    )
    return scope["Net"]()


def domain(value: str):
    def way(net, x):
        first = net(x)
        net.domain = value
        return first, net(x)

    return way


def features_as(name: str):
    return lambda net, x: [net(x), getattr(net, name)(x), net(x)]


def changed(change):
    """A way that changes the network after ``fuse``, between two calls."""

    def way(net, x):
        first = net(x)
        return first, change(net)(x)

    return way


def attribute(path: str, **values):
    def change(net):
        for name, value in values.items():
            setattr(net.get_submodule(path), name, value)
        return net

    return changed(change)


def replaced_forward(part: str):
    def change(net):
        module = getattr(net, part)
        old = module.forward
        module.forward = lambda x: old(x) * 2 + 1
        return net

    return changed(change)


def replaced_class(part: str, kind: type[nn.Module]):
    def change(net):
        getattr(net, part).__class__ = kind
        return net

    return changed(change)


def pieces(net, x):
    h = net[0](x)
    y = net[1](h)
    return h, y, net[2](y), copy.deepcopy(net[0])(x), copy.deepcopy(net[1])(h), copy.deepcopy(net[2])(h)


def seq(*modules) -> nn.Sequential:
    return nn.Sequential(*(modules or block()))


REACHES = {
    "list, another domain": (Domains, domain("2")),
    "dict, another domain": (lambda: Domains("dict"), domain("1")),
    "by grad mode": (ByGradMode, lambda net, x: [net(x), torch.no_grad()(net)(x), net(x)]),
    "by training": (ByTraining, lambda net, x: [net.train()(x), net.eval()(x), net.train()(x)]),
    "by data": (ByData, lambda net, x: [net(x), net(x + 9), net(x - 9)]),
    **{
        f"feature matching, {name}": (Layers, features_as(name))
        for name in [
            "features",
            "by_children",
            "by_index",
            "by_name",
            "some",
            "in_reverse",
            "by_reduce",
            "caught",
            "generated",
        ]
    },
    "methods without forward": (Layers, lambda net, x: net.features(x)),
    "a Sequential's method": (lambda: Features(*block()), features_as("features")),
    "a Sequential's norm": (lambda: Features(*block()), features_as("norms")),
    "kept": (Keeping, lambda net, x: [net(x), *net.kept]),
    "recurrent": (Recurrent, lambda net, x: net(x)),
    "sharing": (Sharing, lambda net, x: net(x)),
    "tied": (TiedWeights, lambda net, x: net(x)),
    "shared activation": (
        lambda: (lambda act: seq(*block()[:2], act, nn.Conv2d(16, 16, 1), act))(nn.ReLU(True)),
        lambda n, x: n(x),
    ),
    "own norm": (lambda: Net(norm=OwnNorm(16)), lambda net, x: net(x)),
    "own conv": (lambda: Net(OwnConv(3, 16, 1)), lambda net, x: net(x)),
    "own activation": (lambda: Net(act=OwnAct(0.2)), lambda net, x: net(x)),
    "own name": (lambda: Net(norm=NamedOnly(16)), lambda net, x: net(x)),
    "conditional": (ConditionalNorm, lambda net, x: net(x)),
    "without source": (from_text, lambda net, x: [net(x), setattr(net, "late", True), net(x)]),
    "pieces": (seq, pieces),
    "deepcopied piece": (seq, lambda net, x: copy.deepcopy(net[0])(x)),
    "deepcopied norm": (seq, lambda net, x: copy.deepcopy(net[1])(x.repeat(1, 6, 1, 1)[:, :16])),
    "slice from 1": (seq, lambda net, x: net[1:](x.repeat(1, 6, 1, 1)[:, :16])),
    "slice to 2": (seq, lambda net, x: F.relu(net[:2](x))),
    "slice to 1": (seq, lambda net, x: net[:1](x)),
    "from the end": (seq, lambda net, x: net[-1](net[-2](net[-3](x)))),
    "moved into another": (seq, lambda net, x: nn.Sequential(net[0], nn.Sequential(net[1]), nn.Sequential(net[2]))(x)),
    "deepcopied whole": (Net, lambda net, x: copy.deepcopy(net)(x)),
    "deepcopied after a forward": (Net, lambda net, x: [net(x), copy.deepcopy(net)(x)]),
    "state of another": (Net, changed(lambda net: _load(net))),
    "slope set": (lambda: Net(act=nn.LeakyReLU(0.2)), attribute("act", negative_slope=0.7)),
    "in place set": (Net, attribute("act", inplace=True)),
    "eps set": (Net, attribute("norm", eps=0.5)),
    "momentum set": (Net, attribute("norm", momentum=0.9)),
    "momentum None set": (Net, attribute("norm", momentum=None)),
    "tracking switched off": (Net, attribute("norm", track_running_stats=False)),
    "statistics removed": (Net, attribute("norm", running_mean=None, running_var=None)),
    "weight removed": (Net, attribute("norm", weight=None, bias=None)),
    "bias removed": (Net, attribute("conv", bias=None)),
    "weight set": (Net, changed(lambda net: _weight(net))),
    "padding set": (lambda: Net(nn.Conv2d(3, 16, 3)), attribute("conv", padding=(1, 1), stride=(2, 2))),
    "frozen later": (Net, changed(lambda net: net.requires_grad_(False))),
    "norm frozen later": (Net, changed(lambda net: (net.norm.requires_grad_(False), net)[1])),
    "evaluating norm": (Net, changed(lambda net: (net.norm.eval(), net)[1])),
    "training norm": (Net, changed(lambda net: (net.eval().norm.train(), net)[1])),
    **{f"{part}.forward replaced": (Net, replaced_forward(part)) for part in ("conv", "norm", "act")},
    "forward of the whole replaced": (Net, changed(lambda net: _set(net, "forward", lambda x: net.norm(net.conv(x))))),
    "norm replaced": (Net, changed(lambda net: _set(net, "norm", randomised(nn.InstanceNorm2d(16, affine=True))))),
    "norm replaced by nothing": (Net, changed(lambda net: _set(net, "norm", nn.Identity()))),
    "act replaced": (Net, changed(lambda net: _set(net, "act", nn.Tanh()))),
    "act replaced by a leaky one": (Net, changed(lambda net: _set(net, "act", nn.LeakyReLU(0.4)))),
    "conv replaced": (Net, changed(lambda net: _set(net, "conv", randomised(nn.Conv2d(3, 16, 1, bias=False))))),
    "norm deleted": (seq, changed(lambda net: nn.Sequential(net[0], net[2]))),
    "class of the norm set": (Net, replaced_class("norm", OwnNorm)),
    "class of the norm set to plain": (Net, replaced_class("norm", nn.BatchNorm2d)),
    "class of the conv set": (Net, replaced_class("conv", OwnConv)),
    "class of the act set": (lambda: Net(act=nn.LeakyReLU(0.2)), replaced_class("act", OwnAct)),
    "reset": (Net, changed(lambda net: _reset(net))),
    "statistics reset": (Net, changed(lambda net: (net.norm.reset_running_stats(), net)[1])),
    "initialised by apply": (Net, changed(lambda net: net.apply(_initialise))),
    "weights scaled in place": (Net, changed(lambda net: _scale(net))),
    "channels_last weights": (
        lambda: Net(nn.Conv2d(3, 16, 3)),
        changed(lambda net: net.to(memory_format=torch.channels_last)),
    ),
    "folded": (
        Net,
        lambda net, x: net.act(fuse_conv_bn_eval(copy.deepcopy(net.conv).eval(), copy.deepcopy(net.norm).eval())(x)),
    ),
    "folded in place": (Net, lambda net, x: _folded(copy.deepcopy(net).eval())(x)),
    "extra state": (Net, lambda net, x: [sorted(net.state_dict()), [n for n, _ in net.named_modules()], net(x)]),
    "repr": (
        lambda: seq(*block(), nn.ConvTranspose2d(16, 3, 2)),
        lambda net, x: [net[1].extra_repr(), net[0].extra_repr(), net(x)],
    ),
    "isinstance": (Net, lambda net, x: [isinstance(net.conv, nn.Conv2d), isinstance(net.norm, nn.BatchNorm2d), net(x)]),
}


def _set(net, name, value):
    setattr(net, name, value)
    return net


def _weight(net):
    net.conv.weight = nn.Parameter(torch.ones(16, 3, 1, 1, dtype=torch.float64))
    return net


def _load(net):
    net.load_state_dict({name: torch.zeros_like(v) + 2 for name, v in net.state_dict().items()})
    return net


def _reset(net):
    torch.manual_seed(1)
    for module in net.children():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return net


def _initialise(module):
    """Initialises modules by their class name, as DCGAN does."""
    torch.manual_seed(1)
    if type(module).__name__.find("Conv") != -1:
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif type(module).__name__.find("BatchNorm") != -1:
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _scale(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(-0.5)
    return net


def _folded(net):
    net.conv, net.norm = fuse_conv_bn_eval(net.conv, net.norm), nn.Identity()
    return net


@pytest.mark.parametrize("context", ["grad", "no_grad"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_moved_to_another_dtype_and_back(training, context):
    """Statistics that were updated in float32 have its precision afterwards."""

    def way(net, x):
        return net(x).detach(), net.float()(x.float()).detach(), net.double()(x)

    assert_alike(randomised(Net()).train(training), way, images(), context=context, tolerance=1e-5)


@pytest.mark.parametrize(("training", "context"), [(True, "grad"), (False, "grad"), (False, "no_grad")])
@pytest.mark.parametrize("name", REACHES)
def test_reached_or_changed(name, training, context):
    make, way = REACHES[name]
    torch.manual_seed(0)
    assert_alike(randomised(make()).train(training), way, images(), context=context)

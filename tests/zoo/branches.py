"""Networks with branches on something that may change between two calls; ``calls`` change it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.network import Call, Inputs, images, network

#: A global switch.
SWITCHES = {"keep": False}
KEEP = False


@contextmanager
def _set(owner: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def _with(**values: Any) -> Call:
    """A call with other values of some attributes of the module."""

    def call(module: nn.Module, inputs: Inputs) -> Any:
        with _set(module, **values):
            return module(*inputs)

    return call


class _Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)


THREE = ["conv norm act"]


class Capturing(_Three):
    def __init__(self) -> None:
        super().__init__()
        self.capture = False
        self.feats: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.capture:
            self.feats.append(h)
        return self.act(self.norm(h))


def _captured(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    with _set(module, capture=True, feats=[]):
        return [module(*inputs), *module.feats]


@network("a flag that makes it keep features", THREE, calls={"kept": _captured})
def capture_flag() -> tuple[nn.Module, Inputs]:
    return Capturing(), (images(6),)


class AlwaysKept(_Three):
    def __init__(self) -> None:
        super().__init__()
        self.feats: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        self.feats.append(h)
        y = self.norm(h)
        self.last = y
        return self.act(y)


@network(
    "results kept in attributes",
    [],
    {"conv": "its result is kept in a list", "norm": "its result is kept as an attribute"},
    {"kept": lambda module, inputs: [module(*inputs), module.feats[-1], module.last]},
)
def kept_results() -> tuple[nn.Module, Inputs]:
    return AlwaysKept(), (images(6),)


class Noisy(_Three):
    def __init__(self) -> None:
        super().__init__()
        self.often, self.conv2 = 0.0, nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.training and random.random() < self.often:
            h = h + 0.5
        h = self.norm(h)
        return self.conv2(self.act(h))


def _seeded(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    with _set(module, often=0.5):
        return [out for seed in range(6) for out in (random.seed(seed), module(*inputs)) if out is not None]


@network(
    "noise in some calls in training",
    ["norm act"],
    {"conv": "noise may be added to its result"},
    {"often": _seeded},
)
def random_noise() -> tuple[nn.Module, Inputs]:
    return Noisy(), (images(6),)


class NoGrad(_Three):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if torch.is_grad_enabled():
            h = h * 2
        h = self.norm(h)
        return self.act(h) if torch.is_grad_enabled() else h


@network(
    "a branch on the grad mode",
    [],
    {"conv": "doubled where gradients are enabled", "act": "called where gradients are enabled"},
)
def grad_mode() -> tuple[nn.Module, Inputs]:
    return NoGrad(), (images(6),)


class Optional(_Three):
    def forward(self, x: Tensor, layers: Any = None, mid: bool = False, bias: Any = None) -> Any:
        h = self.conv(x)
        if layers is None and mid:
            return h
        y = self.norm(h)
        return (self.act(y), y) if bias is not None and layers is None else self.act(y)


@network(
    "optional arguments that depend on each other",
    [],
    {"conv": "its result may be an output", "norm": "its result may be an output"},
    {
        "mid": lambda module, inputs: module(*inputs, mid=True),
        "layers and mid": lambda module, inputs: module(*inputs, layers=1, mid=True),
        "bias": lambda module, inputs: module(*inputs, bias=1),
    },
)
def optional_arguments() -> tuple[nn.Module, Inputs]:
    return Optional(), (images(6),)


class Keywords(_Three):
    def forward(self, x: Tensor, **options: Any) -> Any:
        h = self.conv(x)
        y = self.norm(h)
        if options.get("features"):
            return self.act(y), h
        return self.act(y)


@network(
    "**options that make features an output",
    [],
    {"conv": "its result may be an output", "norm": "an option puts something between it and the activation"},
    {"features": lambda module, inputs: module(*inputs, features=True)},
)
def keyword_options() -> tuple[nn.Module, Inputs]:
    return Keywords(), (images(6),)


class Expressions(_Three):
    def __init__(self) -> None:
        super().__init__()
        self.raw, self.normalise, self.activate, self.selected = False, True, True, ("y",)
        self.other = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Any:
        h = self.other(x) if self.raw else self.conv(x)
        y = self.norm(h) if self.normalise else h
        z = self.act(y) if self.activate else y
        kept = "h" in self.selected and h
        return (z, kept) if torch.is_tensor(kept) else z


@network(
    "conditional expressions and `and`",
    [],
    {"norm": "may get another convolution's result"},
    {
        "raw": _with(raw=True),
        "not normalised": _with(normalise=False),
        "not activated": _with(activate=False),
        "selected": _with(selected=("h", "y")),
        "all": _with(raw=True, normalise=False, activate=False),
    },
)
def expressions() -> tuple[nn.Module, Inputs]:
    return Expressions(), (images(6),)


class Constructed(_Three):
    """As in StyleGAN and StarGAN v2: an argument of the constructor decides the branch."""

    def __init__(self, normalise: bool = True, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.normalise, self.pool, self.kind = normalise, pool, "leaky"

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError("three channels, please")
        x = self.conv(x)
        if self.pool is not None:
            x = self.pool(x)
        if self.normalise:
            x = self.norm(x)
        if self.kind == "leaky":
            x = self.act(x)
        return x


@network(
    "an argument of the constructor decides the branch, as an attribute",
    THREE,
    calls={
        "pooled": _with(pool=nn.AvgPool2d(2)),
        "not normalised": _with(normalise=False),
        "of another kind": _with(kind="none"),
    },
)
def constructed() -> tuple[nn.Module, Inputs]:
    return Constructed(), (images(6),)


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)])
        self.selected, self.depth = (2,), 4

    def forward(self, x: Tensor) -> list[Tensor]:
        kept = []
        for i, layer in enumerate(self.layers[: self.depth]):
            x = layer(x)
            if i in self.selected:
                kept.append(x)
        return [*kept, x]


@network(
    "layers by index: which are kept, and how many are called",
    ["layers.0 layers.1 layers.2"],
    calls={"others": _with(selected=(0, 1)), "fewer": _with(depth=2), "one": _with(depth=1)},
)
def wanted_layers() -> tuple[nn.Module, Inputs]:
    return Layered(), (images(6),)


class ListedLayers(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.selected = [2]


@network(
    "the same with a list that may be changed in place",
    [],
    {"layers.0": "its result may be an output"},
    calls={"others": _with(selected=[0, 1])},
)
def listed_layers() -> tuple[nn.Module, Inputs]:
    return ListedLayers(), (images(6),)


class Global(_Three):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        y = self.norm(h)
        if KEEP:
            return self.act(y), h
        return (self.act(y), y) if SWITCHES["keep"] else self.act(y)


def _globally(module: nn.Module, inputs: Inputs) -> list[Any]:
    global KEEP
    KEEP = True
    first = module(*inputs)
    KEEP = False
    SWITCHES["keep"] = True
    second = module(*inputs)
    SWITCHES["keep"] = False
    return [first, second]


@network("global switches", [], {"conv": "its result may be an output"}, {"switched": _globally})
def global_switch() -> tuple[nn.Module, Inputs]:
    return Global(), (images(6),)


class Helped(_Three):
    def __init__(self) -> None:
        super().__init__()
        self.early, self.hooks = False, []

    def _features(self, x: Tensor) -> Tensor:
        if self.early:
            return x.repeat(1, 2, 1, 1)[:, :4]
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        h = self._features(x)
        for hook in self.hooks:
            h = hook(h)
        return self.act(self.norm(h))


def _hooked(module: nn.Module, inputs: Inputs) -> Any:
    hooks: list[Callable[[Tensor], Tensor]] = [lambda h: h * 2]
    with _set(module, hooks=hooks):
        return module(*inputs)


@network(
    "a method that may return something else, and a list of custom hooks",
    ["norm act"],
    {"conv": "something else may be normalised"},
    {"early": _with(early=True), "hooked": _hooked},
)
def helpers() -> tuple[nn.Module, Inputs]:
    return Helped(), (images(6),)


class Counting(_Three):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        self.count += 1
        return self.act(self.norm(h + 1 if self.count % 3 == 0 else h))


@network("a counter that changes in forward", ["norm act"], {"conv": "every third call adds to its result"})
def counting() -> tuple[nn.Module, Inputs]:
    return Counting(), (images(6),)


class Attempt(_Three):
    def _bent(self, h: Tensor) -> Tensor:
        return self.act(self.norm(h))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        try:
            return self._bent(h[:, :, : self.size()])
        except LookupError:
            return h

    def size(self) -> int:
        if SWITCHES["keep"]:
            raise LookupError("no size")
        return 6


def _failing(module: nn.Module, inputs: Inputs) -> Any:
    SWITCHES["keep"] = True
    result = module(*inputs)
    SWITCHES["keep"] = False
    return result


@network("an error that is caught", ["norm act"], {"conv": "its result may be the output"}, {"failing": _failing})
def caught_error() -> tuple[nn.Module, Inputs]:
    return Attempt(), (images(6),)


class WritesIntoResults(nn.Module):
    """In-place sums after activations that are not in-place."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.alone, self.act = nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2)
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.act2 = nn.LeakyReLU(0.1)
        self.norm3, self.act3 = nn.InstanceNorm2d(channels), nn.LeakyReLU(0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.alone(x))
        h += x
        y = self.act2(self.norm(self.conv(h)))
        y += h
        z = self.act3(self.norm3(y))
        z *= 2
        return z


@network("in-place sums after LeakyReLUs", ["alone act", "conv norm act2", "norm3 act3"])
def writes_into_results() -> tuple[nn.Module, Inputs]:
    return WritesIntoResults(), (images(8, 16, 4),)

"""The layers of both implementations against PyTorch's modules in sequence; their constructors and state."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from oracles import HALF, assert_as_good, error
from torch import Tensor, nn

from igan_fast import layers
from igan_fast.reference import layers as reference

IMPLS = pytest.mark.parametrize("impl", [layers, reference], ids=["fused", "reference"])
NORMS = [
    (nn.BatchNorm2d, {}),
    (nn.BatchNorm2d, {"affine": False}),
    (nn.BatchNorm2d, {"track_running_stats": False}),
    (nn.BatchNorm2d, {"momentum": None, "eps": 1e-3}),
    (nn.BatchNorm2d, {"momentum": 0.3}),
    (nn.InstanceNorm2d, {}),
    (nn.InstanceNorm2d, {"affine": True, "track_running_stats": True, "momentum": 0.3}),
]
ACTS = [(nn.LeakyReLU(0.2), 0.2), (nn.ReLU(inplace=True), 0.0), (nn.Identity(), 1.0), (None, 1.0)]


def images(*shape: int, dtype=torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1).to(dtype).requires_grad_()


def randomised(module: nn.Module) -> nn.Module:
    """The module, with parameters and statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(3)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def chain(*parts: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(*(copy.deepcopy(part) for part in parts if part is not None))


def results(module: nn.Module, batches: list[Tensor], *, training: bool) -> list[Tensor]:
    """Outputs and gradients for each batch, and all buffers afterwards."""
    module.train(training)
    found: list[Tensor] = []
    for x in batches:
        y = module(x)
        upstream = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
        inputs = [x, *(p for p in module.parameters() if not is_idle_bias(module, p))]
        found += [y, *torch.autograd.grad(y, inputs, upstream)]
    return [*found, *(buffer.clone() for buffer in module.buffers())]


def is_idle_bias(module: nn.Module, parameter: Tensor) -> bool:
    """Whether it is a convolution's bias that normalisation subtracts again: its gradient is 0 or rounding noise."""
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]
    own = module.training or not any("running_mean" in name for name, _ in module.named_buffers())
    return own and any(parameter is conv.bias for conv in convs)


def assert_equal(module: nn.Module, torchs: nn.Module, batches: list[Tensor], *, training: bool) -> None:
    found = (results(m, batches, training=training) for m in (module, torchs))
    for index, (a, e) in enumerate(zip(*found, strict=True)):
        assert a.dtype == e.dtype
        assert error(a, e) < 1e-10, f"result {index}: {error(a, e)}"


@IMPLS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("norm_class", "options"), NORMS)
def test_norm_act_equals_pytorchs_modules(impl, norm_class, options, training):
    torchs = randomised(norm_class(4, **options, dtype=torch.float64))
    instance = {"groups": "instance", "affine": False} if norm_class is nn.InstanceNorm2d else {}
    module = impl.NormAct2d(4, **instance | options, dtype=torch.float64)
    module.load_state_dict(torchs.state_dict())
    batches = [images(3, 4, 5, 2), images(2, 4, 3, 3, seed=1), images(6, 4, 1, 7, seed=2)]
    assert_equal(module, chain(torchs, nn.LeakyReLU(0.2)), batches, training=training)


def test_the_arguments_are_those_of_batch_norm():
    theirs = list(inspect.signature(nn.BatchNorm2d).parameters.values())
    ours = list(inspect.signature(layers.NormAct2d).parameters.values())
    for a, e in zip(ours, [p for p in theirs if p.kind is not inspect.Parameter.KEYWORD_ONLY], strict=False):
        assert (a.name, a.kind) == (e.name, e.kind)
        assert a.default == (None if a.name == "track_running_stats" else e.default)
    assert layers.NormAct2d(3).track_running_stats is True  # the meaning of None
    assert layers.NormAct2d(3, groups="instance").track_running_stats is False
    positional = layers.NormAct2d(3, 1e-3, 0.2, False, False, "meta", torch.float64)
    assert repr(positional) == (
        "NormAct2d(3, eps=0.001, momentum=0.2, affine=False, track_running_stats=False, negative_slope=0.2, groups=1)"
    )


@IMPLS
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"affine": False, "track_running_stats": False}]
)
def test_each_loads_the_others_state_dict(impl, options):
    torchs, module = randomised(nn.BatchNorm2d(4, **options)), impl.NormAct2d(4, **options)
    torchs.train()(torch.randn(3, 4, 2, 2))
    assert list(module.state_dict()) == list(torchs.state_dict())
    module.load_state_dict(torchs.state_dict())
    back = nn.BatchNorm2d(4, **options)
    back.load_state_dict(module.state_dict())
    for a, e in zip(back.state_dict().values(), torchs.state_dict().values(), strict=True):
        assert torch.equal(a, e)


@IMPLS
def test_an_old_state_dict_without_num_batches_tracked_loads(impl):
    module = impl.NormAct2d(4)
    module.num_batches_tracked.fill_(7)
    old = module.state_dict()
    del old["num_batches_tracked"]
    with pytest.raises(RuntimeError, match="num_batches_tracked"):  # its version says that it has the key
        impl.NormAct2d(4).load_state_dict(old)
    module.load_state_dict(dict(old))  # without a version
    assert module.num_batches_tracked == 7
    old._metadata[""]["version"] = 1
    fresh = nn.Sequential(impl.NormAct2d(4))
    fresh.load_state_dict({f"0.{key}": value for key, value in old.items()})
    assert fresh[0].num_batches_tracked == 0
    on_meta = impl.NormAct2d(4, device="meta")
    on_meta.load_state_dict(dict(old), assign=True)
    assert on_meta.num_batches_tracked.device.type == "cpu"
    without = impl.NormAct2d(4, track_running_stats=False)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*running_mean"):
        without.load_state_dict(old)


@IMPLS
@pytest.mark.parametrize("momentum", [0.3, None])
def test_groups_equal_successive_passes(impl, momentum):
    torchs = nn.BatchNorm2d(4, momentum=momentum, dtype=torch.float64)
    module = impl.NormAct2d(4, momentum=momentum, dtype=torch.float64, negative_slope=1.0, groups=3)
    for seed in range(2):
        x = images(6, 4, 3, 2, seed=seed)
        assert error(module(x), torch.cat([torchs(part) for part in x.tensor_split(3)])) < 1e-12
    for (name, a), e in zip(module.named_buffers(), torchs.buffers(), strict=True):
        assert error(a, e) < 1e-12, name
    module.eval(), torchs.eval()
    assert error(module(x), torchs(x)) < 1e-12
    assert module.num_batches_tracked == 6


@IMPLS
def test_track_running_stats_set_to_false_later(impl):
    """As in PyTorch: then training does not update the statistics, and eval mode uses them."""
    torchs = randomised(nn.BatchNorm2d(4, dtype=torch.float64))
    module = impl.NormAct2d(4, dtype=torch.float64, negative_slope=1.0)
    module.load_state_dict(torchs.state_dict())
    torchs.track_running_stats = module.track_running_stats = False
    for training in (True, False):
        assert_equal(module, torchs, [images(3, 4, 5, 2)], training=training)
    block = impl.ConvNormAct2d(4, 4, dtype=torch.float64)
    block.norm = module
    module.eval()
    x = images(2, 4, 6, 6)
    assert error(block(x), torchs.eval()(block.conv(x))) < 1e-12


def test_normalised_apart_does_not_change_instance_normalisation():
    net = nn.Sequential(layers.NormAct2d(4), layers.NormAct2d(4, groups="instance")).double()
    first, second = images(3, 4, 2, 3), images(3, 4, 2, 3, seed=1)
    alone = [copy.deepcopy(net)(x) for x in (first, second)]
    with layers.normalised_apart(net, 2):
        assert [norm.groups for norm in net] == [2, "instance"]
        assert error(net(torch.cat([first, second])), torch.cat(alone)) < 1e-12
    assert [norm.groups for norm in net] == [1, "instance"]


CONVS = [  # and the output padding of the transposed one; None: the default
    ({}, None),
    ({"kernel_size": 3, "stride": 1, "padding": 1}, 0),
    ({"kernel_size": (3, 4), "stride": [2, 1], "padding": (0, 2)}, (1, 0)),
    ({"dilation": (2, 1), "padding": 3}, [0, 1]),
    ({"conv_groups": 2, "conv_bias": True}, None),
]


def torch_names(options: dict) -> dict:
    return {{"conv_groups": "groups", "conv_bias": "bias"}.get(name, name): value for name, value in options.items()}


@IMPLS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("options", "output_padding"), CONVS)
@pytest.mark.parametrize("norm", [{}, {"affine": False, "momentum": None}, {"groups": "instance"}])
def test_blocks_equal_pytorchs_modules(impl, training, transposed, options, output_padding, norm):
    if transposed and output_padding is not None:
        options = options | {"output_padding": output_padding}
    name = "ConvTransposeNormAct2d" if transposed else "ConvNormAct2d"
    block = randomised(getattr(impl, name)(4, 6, **options, **norm, eps=1e-3, negative_slope=0.1, dtype=torch.float64))
    paper = {"kernel_size": 5, "stride": 2, "padding": 2, "bias": False} | ({"output_padding": 1} if transposed else {})
    conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(4, 6, **paper | torch_names(options), dtype=torch.float64)
    if norm.get("groups") == "instance":
        torchs = nn.InstanceNorm2d(6, 1e-3, affine=True, dtype=torch.float64)
    else:
        torchs = nn.BatchNorm2d(6, 1e-3, **norm, dtype=torch.float64)
    conv.load_state_dict(block.conv.state_dict())
    torchs.load_state_dict(block.norm.state_dict())
    both = nn.Sequential(conv, torchs, nn.LeakyReLU(0.1))
    assert_equal(block, both, [images(2, 4, 9, 8), images(3, 4, 6, 7, seed=1)], training=training)


@IMPLS
@pytest.mark.parametrize(("act", "slope"), ACTS)
@pytest.mark.parametrize(("norm_class", "options"), NORMS)
def test_from_torch(impl, norm_class, options, act, slope):
    norm = randomised(norm_class(4, **options, dtype=torch.float64)).eval()
    torchs = chain(norm, act)
    module = impl.NormAct2d.from_torch(norm, act)
    assert type(module) is impl.NormAct2d
    assert module.negative_slope == slope
    assert not module.training
    pairs = zip(module.state_dict(keep_vars=True).values(), norm.state_dict(keep_vars=True).values(), strict=True)
    assert all(a is e for a, e in pairs)  # an existing optimiser stays valid
    assert_equal(module, torchs, [images(3, 4, 5, 2)], training=True)


@IMPLS
def test_blocks_from_torch(impl):
    conv = nn.Conv2d(4, 6, (3, 2), (2, 1), 1, (1, 2), 2, dtype=torch.float64)
    transposed = nn.ConvTranspose2d(4, 6, 4, 2, 1, (1, 0), dtype=torch.float64)
    norm = randomised(nn.BatchNorm2d(6, dtype=torch.float64))
    for block_class, first in ((impl.ConvNormAct2d, conv), (impl.ConvTransposeNormAct2d, transposed)):
        both = chain(first, norm, nn.ReLU())
        block = block_class.from_torch(first, norm, nn.ReLU())
        assert block.conv is first
        assert list(block.parameters()) == [*first.parameters(), *norm.parameters()]
        assert_equal(block, both, [images(2, 4, 7, 6)], training=True)
        assert type(block.norm) is impl.NormAct2d


def pair_of_blocks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = nn.Sequential(
        layers.ConvNormAct2d(3, 16), layers.ConvTransposeNormAct2d(16, 8), layers.NormAct2d(8, groups="instance")
    )
    separate = nn.Sequential(
        reference.ConvNormAct2d(3, 16),
        reference.ConvTransposeNormAct2d(16, 8),
        reference.NormAct2d(8, groups="instance"),
    )
    separate.load_state_dict(net.state_dict())
    return net, separate


@pytest.mark.parametrize("dtype", HALF)
def test_half_types(dtype):
    net, separate = (m.to(dtype) for m in pair_of_blocks())
    exact = copy.deepcopy(separate).double()
    x = images(4, 3, 8, 8, dtype=dtype)
    found = [[y] for y in (net(x), separate(x), exact(x.detach().double()))]
    assert_as_good(*found, dtype)
    for a, p, e in zip(net.buffers(), separate.buffers(), exact.buffers(), strict=True):
        assert_as_good([a], [p], [e], dtype)


def test_autocast():
    net, separate = pair_of_blocks()
    exact = copy.deepcopy(separate).double()
    x = images(4, 3, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = net(x), separate(x)
    assert found.dtype == torch.bfloat16
    assert_as_good([found], [plain.to(torch.bfloat16)], [exact(x.double())], torch.bfloat16)
    assert net[0].norm.running_var.dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(training, compiler):
    torch._dynamo.reset()
    net, separate = (m.train(training) for m in pair_of_blocks())
    compiled = torch.compile(net, fullgraph=True, backend=compiler)
    x = images(4, 3, 8, 8, dtype=torch.float32)
    for seed in range(2):
        y, expected = compiled(x), separate(x)
        assert error(y, expected) < 1e-5, seed
        upstream = torch.linspace(-1, 2, y.numel()).view(y.shape)
        for a, e in zip(*(torch.autograd.grad(v, x, upstream) for v in (y, expected)), strict=True):
            assert error(a, e) < 1e-4
    for a, e in zip(net.buffers(), separate.buffers(), strict=True):
        assert error(a, e) < 1e-5


def test_channels_last_is_kept():
    net, separate = pair_of_blocks()
    x = images(4, 3, 8, 8, dtype=torch.float32).detach().contiguous(memory_format=torch.channels_last)
    y = net(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert error(y, separate(x)) < 1e-5


@IMPLS
@pytest.mark.parametrize("name", ["NormAct2d", "ConvNormAct2d", "ConvTransposeNormAct2d"])
def test_device_dtype_and_reset(impl, name):
    arguments = (4,) if name == "NormAct2d" else (4, 6)
    on_meta = getattr(impl, name)(*arguments, device="meta", dtype=torch.float16)
    tensors = dict((*on_meta.named_parameters(), *on_meta.named_buffers()))
    assert {t.device.type for t in tensors.values()} == {"meta"}
    for key, t in tensors.items():
        assert t.dtype == (torch.long if key.endswith("num_batches_tracked") else torch.float16), key
    module = on_meta.to_empty(device="cpu").float()
    for t in (*module.parameters(), *module.buffers()):
        t.data.fill_(5)
    torch.manual_seed(0)
    module.reset_parameters()
    torch.manual_seed(0)
    fresh = getattr(impl, name)(*arguments)
    for (key, a), e in zip(module.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, e), key


@IMPLS
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda impl: impl.NormAct2d(4, groups=0),
            ValueError,
            "groups is 0; expected a positive number, or 'instance'",
        ),
        (lambda impl: impl.NormAct2d(4, groups="batch"), ValueError, "groups is 'batch'; expected"),
        (
            lambda impl: impl.NormAct2d(4, momentum=None, track_running_stats=True, groups="instance"),
            ValueError,
            "momentum is None; expected a number",
        ),
        (
            lambda impl: impl.NormAct2d(4)(torch.ones(2, 4, 3)),
            ValueError,
            r"x has shape \(2, 4, 3\); expected \(N, 4, H",
        ),
        (
            lambda impl: impl.NormAct2d(4)(torch.ones(2, 3, 3, 3)),
            ValueError,
            r"\(2, 3, 3, 3\); expected \(N, 4, H, W\)",
        ),
        (lambda impl: impl.NormAct2d(4)(torch.ones(1, 4, 1, 1)), ValueError, "Expected more than 1 value per channel"),
        (
            lambda impl: impl.NormAct2d(4, groups=2)(torch.ones(3, 4, 2, 2)),
            ValueError,
            "groups is 2; expected a positive",
        ),
        (lambda impl: impl.ConvNormAct2d(4, 6)(torch.ones(2, 3, 8, 8)), ValueError, r"expected \(N, 4, H, W\)"),
        (lambda impl: impl.ConvNormAct2d(4, 6, (3, 3, 3)), ValueError, r"kernel_size is \(3, 3, 3\); expected a whole"),
        (
            lambda impl: impl.ConvNormAct2d(4, 6, padding="same"),
            ValueError,
            "padding is 'same'; expected a whole number",
        ),
        (
            lambda impl: impl.ConvTransposeNormAct2d(4, 6, stride=1.5),
            ValueError,
            "stride is 1.5; expected a whole number",
        ),
        (lambda impl: impl.ConvNormAct2d(4, 6, conv_groups=3), ValueError, "in_channels must be divisible by groups"),
        (lambda impl: impl.NormAct2d.from_torch(nn.BatchNorm1d(4)), TypeError, "norm is a BatchNorm1d; expected"),
        (lambda impl: impl.NormAct2d.from_torch(nn.SyncBatchNorm(4)), TypeError, "norm is a SyncBatchNorm; expected"),
        (lambda impl: impl.NormAct2d.from_torch(nn.BatchNorm2d(4), nn.ELU()), TypeError, "act is a ELU; expected"),
        (
            lambda impl: impl.ConvNormAct2d.from_torch(nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)),
            TypeError,
            "conv is a ConvTranspose2d; expected an nn.Conv2d",
        ),
        (
            lambda impl: impl.ConvNormAct2d.from_torch(nn.Conv2d(4, 4, 3, padding="same"), nn.BatchNorm2d(4)),
            ValueError,
            "conv has the padding 'same'; expected numbers of zeros",
        ),
        (
            lambda impl: impl.ConvNormAct2d.from_torch(
                nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)
            ),
            ValueError,
            "conv has the padding 'reflect'",
        ),
        (
            lambda impl: impl.ConvNormAct2d.from_torch(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(4)),
            ValueError,
            "norm has 4 features; expected 6, the channels of conv",
        ),
    ],
)
def test_raises(impl, make, kind, message):
    with pytest.raises(kind, match=message):
        make(impl)


@IMPLS
def test_an_empty_batch(impl):
    for module in (impl.NormAct2d(4), impl.NormAct2d(4, groups="instance")):
        assert module(torch.ones(0, 4, 3, 3)).shape == (0, 4, 3, 3)


@IMPLS
@pytest.mark.parametrize("name", ["NormAct2d", "ConvNormAct2d", "ConvTransposeNormAct2d"])
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_a_leaf_of_torch_fx(impl, name, training):
    """If its forward were traced, only the traced batch would be counted."""
    layer = make_layer(impl, name).train(training)
    graph = torch.fx.symbolic_trace(nn.Sequential(layer, nn.Tanh()))
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["0", "1"]
    before = copy.deepcopy(layer)
    for _ in range(2):
        x = torch.randn(4, 16, 8, 8)
        assert torch.equal(graph(x), before(x).tanh())
    for a, e in zip(graph.buffers(), before.buffers(), strict=True):
        assert torch.equal(a, e)
    with pytest.raises(TypeError, match=f"torch.fx treats a {name} as a leaf and cannot trace it alone"):
        torch.fx.symbolic_trace(layer)


def make_layer(impl, name, **options):
    return getattr(impl, name)(*[16] * (1 if name == "NormAct2d" else 2), **options)


@IMPLS
@pytest.mark.parametrize("name", ["NormAct2d", "ConvTransposeNormAct2d"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize(("recorder", "example"), [("trace", 1), ("trace", 4), ("export", 4)])
def test_instance_normalisation_is_traced_for_batches_of_any_size(impl, name, training, tracking, recorder, example):
    """The number of images in the example must not become a constant of the graph."""
    layer = make_layer(impl, name, groups="instance", track_running_stats=tracking).train(training)
    x = torch.randn(example, 16, 8, 8)
    if recorder == "trace":
        recorded = torch.jit.trace(copy.deepcopy(layer), x, check_trace=False)
    else:
        batch = torch.export.Dim("batch", min=2)
        recorded = torch.export.export(copy.deepcopy(layer), (x,), dynamic_shapes=[{0: batch}]).module()
    x = torch.randn(6, 16, 8, 8)
    if recorder == "trace":
        recorded.load_state_dict(layer.state_dict())
    assert error(recorded(x), layer(x)) < 1e-5
    for a, e in zip(recorded.buffers(), layer.buffers(), strict=True):
        assert error(a, e) < 1e-5


FILM_LAYERS = pytest.mark.parametrize(
    ("name", "options"),
    [
        ("NormAct2d", {}),
        ("NormAct2d", {"groups": 2}),
        ("NormAct2d", {"groups": "instance"}),
        ("ConvNormAct2d", {}),
        ("ConvTransposeNormAct2d", {}),
        ("ConvTransposeNormAct2d", {"groups": "instance", "conv_bias": True}),
    ],
    ids=str,
)


def modulated(y: Tensor, film: Tensor) -> Tensor:
    scale, shift = film[:, :16, None, None], film[:, 16:, None, None]
    return y * (1 + scale) + shift


@IMPLS
@FILM_LAYERS
@pytest.mark.parametrize("mode", ["training", "eval", "eval without gradient"])
def test_film_scales_and_shifts_the_result(impl, name, options, mode):
    layer = randomised(make_layer(impl, name, **options, dtype=torch.float64)).train(mode == "training")
    plain = copy.deepcopy(layer)
    x, film = images(4, 16, 6, 6), images(4, 40)[:, 3:35]
    with torch.set_grad_enabled(mode != "eval without gradient"):
        y, expected = layer(x, film), modulated(plain(x), film)
    assert error(y, expected) < 1e-10
    for a, e in zip(layer.buffers(), plain.buffers(), strict=True):
        assert error(a, e) < 1e-10
    if mode != "eval without gradient":
        upstream = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
        found, wanted = (
            torch.autograd.grad(v, [x, film, *(p for p in m.parameters() if not is_idle_bias(m, p))], upstream)
            for v, m in ((y, layer), (expected, plain))
        )
        for a, e in zip(found, wanted, strict=True):
            assert error(a, e) < 1e-10


class Modulating(nn.Module):
    """A layer with film, passed by position or by name, between two other operations."""

    def __init__(self, layer: nn.Module, *, by_name: bool) -> None:
        super().__init__()
        self.layer, self.linear, self.by_name = layer, nn.Linear(3, 32), by_name

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        film = self.linear(code)
        y = self.layer(x, film=film) if self.by_name else self.layer(x, film)
        return y.tanh()


@IMPLS
@FILM_LAYERS
@pytest.mark.parametrize("by_name", [False, True])
def test_film_under_torch_fx(impl, name, options, by_name):
    net = Modulating(make_layer(impl, name, **options), by_name=by_name)
    before = copy.deepcopy(net)
    graph = torch.fx.symbolic_trace(net)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["linear", "layer"]
    for batch in (4, 6):
        x, code = torch.randn(batch, 16, 8, 8), torch.randn(batch, 3)
        assert torch.equal(graph(x, code), before(x, code))
    for a, e in zip(graph.buffers(), before.buffers(), strict=True):
        assert torch.equal(a, e)


class OnlyFilmIsTraced(nn.Module):
    """As where the first layer of a generator has a constant input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("start", torch.linspace(-1, 1, 4 * 16 * 64).view(4, 16, 8, 8))

    def forward(self, film: Tensor) -> Tensor:
        return self.layer(self.start, film)


@IMPLS
def test_a_layer_is_a_leaf_of_torch_fx_if_only_its_film_is_traced(impl):
    net = OnlyFilmIsTraced(impl.NormAct2d(16))
    graph, film = torch.fx.symbolic_trace(net), torch.randn(4, 32)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["layer"]
    assert torch.equal(graph(film), net(film))


@IMPLS
@FILM_LAYERS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recorder", ["trace", "export"])
def test_film_is_traced_for_batches_of_any_size(impl, name, options, training, recorder):
    layer = make_layer(impl, name, **options).train(training)
    given = torch.randn(4, 16, 8, 8), torch.randn(4, 32)
    if recorder == "trace":
        recorded = torch.jit.trace(copy.deepcopy(layer), given, check_trace=False)
        recorded.load_state_dict(layer.state_dict())
    else:
        batch = 2 * torch.export.Dim("half", min=1) if options.get("groups") == 2 else torch.export.Dim("batch", min=2)
        recorded = torch.export.export(copy.deepcopy(layer), given, dynamic_shapes=[{0: batch}, {0: batch}]).module()
    sizes = (4,) if recorder == "trace" and options.get("groups") == 2 else (4, 6)
    for batch in sizes:
        x, film = torch.randn(batch, 16, 8, 8), torch.randn(batch, 32)
        assert error(recorded(x, film), layer(x, film)) < 1e-5
    for a, e in zip(recorded.buffers(), layer.buffers(), strict=True):
        assert error(a, e) < 1e-5


@IMPLS
def test_film_of_a_block_whose_part_has_a_hook(impl):
    """The hook sees the result with film, as that of the layer that it is registered with."""
    block = impl.ConvNormAct2d(3, 16)
    x, film, seen = torch.randn(4, 3, 8, 8), torch.randn(4, 32), []
    expected = modulated(copy.deepcopy(block)(x), film)
    block.norm.register_forward_hook(lambda module, args, out: seen.append(out))
    y = block(x, film)
    assert seen == [y]
    assert error(y, expected) < 1e-5


@IMPLS
@pytest.mark.parametrize("name", ["NormAct2d", "ConvNormAct2d"])
def test_a_film_of_another_shape_is_refused(impl, name):
    with pytest.raises(ValueError, match=r"film has shape \(4, 16\); expected \(4, 32\), γ and β"):
        make_layer(impl, name)(torch.randn(4, 16, 8, 8), torch.randn(4, 16))


@IMPLS
@pytest.mark.parametrize("part", ["conv", "norm"])
def test_hooks_of_the_parts_are_called(impl, part):
    block = impl.ConvNormAct2d(3, 16)
    expected = copy.deepcopy(block)
    x = torch.randn(4, 3, 8, 8)
    getattr(block, part).register_forward_hook(lambda module, args, out: out * 2)
    y = expected.norm(expected.conv(x) * (2 if part == "conv" else 1)) * (2 if part == "norm" else 1)
    assert error(block(x), y) < 1e-5
    for a, e in zip(block.buffers(), expected.buffers(), strict=True):
        assert error(a, e) < 1e-5

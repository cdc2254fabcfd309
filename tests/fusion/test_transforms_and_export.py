"""Function transforms, tracing, scripting, export and compilation of a fused network have plain PyTorch's results."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from plain_and_fused import Net, assert_alike, images, pair, randomised
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

pytestmark = pytest.mark.filterwarnings("ignore")

#: Derivatives along a few directions: whole Jacobians would be too large.
SMALL = (2, 3, 4, 4)


def values_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def cut(net, x):
    """A function of few numbers with few results, through feature maps of full size."""
    return lambda v: net(x.detach() * v.sum() + v.prod()).square().mean((0, 2, 3))[:3]


V = torch.tensor([0.5, 0.8], dtype=torch.float64)


def by_parameters(net, x):
    values, buffers = values_of(net), {n: b.detach().clone() for n, b in net.named_buffers()}
    return lambda v, x: functional_call(net, (v, buffers), (x,)).square().mean(), values


def stacked(net, x):
    nets = [copy.deepcopy(net) for _ in range(3)]
    values, buffers = stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")

    def call(values, buffers, x):
        return functional_call(base, (values, buffers), (x,))

    return vmap(call, in_dims=(0, 0, None))({n: v.detach() for n, v in values.items()}, buffers, x.detach())


def per_sample(net, x):
    f, values = by_parameters(net, x)
    return list(vmap(grad(lambda v, x: f(v, x[None])), in_dims=(None, 0))(values, x.detach()).values())


def between_transforms(net, x):
    """The normalisation inside the transform, the activation outside."""
    y, back = vjp(net.norm, net.conv(x).detach())
    return net.act(y), back(torch.ones_like(y))


def over_norms(net, x):
    """Only the activation is inside vmap."""
    return vmap(net.act)(net.norm(net.conv(x)))


def is_grads_batched(net, x):
    y = net(x)
    return torch.autograd.grad(y, x, torch.stack([torch.ones_like(y), y.detach()]), is_grads_batched=True)


def is_grads_batched_norm(net, x):
    y = net.norm(net.conv(x))
    z = net.act(y)
    directions = torch.stack([torch.ones_like(z), z.detach()])
    return torch.autograd.grad(z, [x, y, net.norm.weight, net.conv.weight], directions, is_grads_batched=True)


def vectorised(net, x):
    f = cut(net, x)
    return torch.autograd.functional.jacobian(f, V, vectorize=True), torch.autograd.functional.jacobian(f, V)


def forward_mode(net, x):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        return list(torch.autograd.forward_ad.unpack_dual(net(dual)))


TRANSFORMS = {
    "grad by the input": lambda net, x: grad(lambda v: net(v).square().mean())(x.detach()),
    "grad by the parameters": lambda net, x: (lambda f, v: list(grad(f)(v, x.detach()).values()))(
        *by_parameters(net, x)
    ),
    "grad of grad": lambda net, x: grad(lambda v: grad(lambda w: cut(net, x)(w).sum())(v).square().sum())(V),
    "vjp": lambda net, x: (lambda y, back: (y, back(y.detach().cos())))(*vjp(net, x.detach())),
    "vjp of the norm": lambda net, x: (lambda y, back: (y, back(y.detach().cos())))(
        *vjp(lambda v: net.norm(net.conv(v)), x.detach())
    ),
    "jvp": lambda net, x: jvp(net, (x.detach(),), (x.detach().cos(),)),
    "jvp of a function of the norm": lambda net, x: jvp(
        lambda v: F.leaky_relu(net.norm(net.conv(v)), 0.3), (x.detach(),), (torch.ones_like(x),)
    ),
    "forward mode": forward_mode,
    "vmap": lambda net, x: vmap(net)(torch.stack([x.detach(), x.detach() * 2])),
    "vmap of the activation": over_norms,
    "vmap over parameters": stacked,
    "per-sample gradients": per_sample,
    "functional_call": lambda net, x: functional_call(net, {n: p * 2 for n, p in net.named_parameters()}, (x,)),
    "functional_call with buffers": lambda net, x: functional_call(
        net, {n: b * 2 for n, b in net.named_buffers() if b.is_floating_point()}, (x,)
    ),
    "parametrised call": lambda net, x: torch.nn.utils.stateless.functional_call(net, values_of(net), (x,)),
    "jacrev": lambda net, x: jacrev(cut(net, x))(V),
    "jacfwd": lambda net, x: jacfwd(cut(net, x))(V),
    "hessian": lambda net, x: hessian(lambda v: cut(net, x)(v).sum())(V),
    "jacobian": vectorised,
    "jvp of autograd": lambda net, x: torch.autograd.functional.jvp(cut(net, x), V, torch.ones_like(V)),
    "vhp of autograd": lambda net, x: torch.autograd.functional.vhp(
        lambda v: cut(net, x)(v).sum(), V, torch.ones_like(V)
    ),
    "is_grads_batched": is_grads_batched,
    "is_grads_batched, from the activation": is_grads_batched_norm,
    "between transforms": between_transforms,
    "linearize": lambda net, x: (lambda y, f: (y, f(x.detach().cos())))(*torch.func.linearize(net, x.detach())),
    "functionalize": lambda net, x: torch.func.functionalize(net)(x),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("net", ["batch", "not tracked", "instance"])
@pytest.mark.parametrize("way", TRANSFORMS)
def test_function_transforms(way, net, training):
    """Where plain PyTorch raises an error (running statistics inside vmap), the fused network raises it too."""
    norm = {
        "batch": lambda: nn.BatchNorm2d(16),
        "not tracked": lambda: nn.BatchNorm2d(16, track_running_stats=False),
        "instance": lambda: nn.InstanceNorm2d(16, affine=True),
    }[net]()
    assert_alike(randomised(Net(norm=norm, act=nn.LeakyReLU(0.2))).train(training), TRANSFORMS[way], images())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("way", TRANSFORMS)
def test_function_transforms_on_small_maps(way, training):
    assert_alike(randomised(Net()).train(training), TRANSFORMS[way], images(SMALL), calls="first")


class Deeper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(True))
        self.second = nn.Sequential(nn.ConvTranspose2d(16, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2))
        self.third, self.norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return F.relu(self.norm(self.third(x)) + x)


def symbolic(net, x):
    graph = torch.fx.symbolic_trace(net)
    return (
        graph(x),
        sorted({n.op for n in graph.graph.nodes}),
        [n.target for n in graph.graph.nodes if n.op == "call_module"],
    )


def features_by_fx(net, x):
    """As torchvision's feature extraction: modules of torch.nn are leaves, inner results are outputs of the graph."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m, name):
            return m.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)

    graph = Tracer().trace(net)
    inner = [n for n in graph.nodes if n.op == "call_module" and n.target in ("first.1", "first.2", "norm", "act")]
    output = next(n for n in graph.nodes if n.op == "output")
    output.args = ([*inner, output.args[0]],)
    names = [str(n.target) for n in graph.nodes if n.op == "call_module"]
    return [*torch.fx.GraphModule(net, graph)(x), names]


def fx_of_parts(net, x):
    return [
        torch.fx.symbolic_trace(part)(v)
        for part, v in ((net.first[0], x), (net.first[1], net.first[0](x)), (net.first, x))
    ]


def traced(net, x):
    return torch.jit.trace(net, x.detach(), check_trace=False)(x)


def traced_and_kept(net, x):
    """Traced by torch.jit.trace, saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net.eval(), x.detach()), file)
    file.seek(0)
    return torch.jit.load(file)(x)


def scripted(net, x):
    return torch.jit.script(net)(x)


def frozen_script(net, x):
    return torch.jit.freeze(torch.jit.script(net.eval()))(x)


def exported(net, x):
    return torch.export.export(net, (x.detach(),)).module()(x)


def exported_dynamic(net, x):
    shapes = ({0: torch.export.Dim("n", min=2, max=64)},)
    return torch.export.export(net, (x.detach(),), dynamic_shapes=shapes).module()(x[:3])


def decomposed(net, x):
    return torch.export.export(net, (x.detach(),)).run_decompositions().module()(x)


def make_fx(net, x):
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(net)(x.detach())(x.detach())


def fake(net, x):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = net(mode.from_tensor(x.detach()))
        return [tuple(y.shape), y.stride(), y.dtype]


def on_meta(net, x):
    y = copy.deepcopy(net).to("meta")(x.detach().to("meta"))
    return [tuple(y.shape), y.stride(), y.dtype, y.device]


def flops(net, x):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        net(x)
    return counter.get_total_flops()


def onnx_by_tracing(net, x):
    pytest.importorskip("onnx", reason="onnx is not installed")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x.detach(),), file, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE)
    return len(file.getvalue())


TRACES = {
    f.__name__: f
    for f in (
        symbolic,
        features_by_fx,
        fx_of_parts,
        traced,
        traced_and_kept,
        scripted,
        frozen_script,
        exported,
        exported_dynamic,
        decomposed,
        make_fx,
        fake,
        on_meta,
        flops,
        onnx_by_tracing,
    )
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("way", TRACES)
def test_tracing_scripting_and_export(way, training):
    plain = randomised(Deeper()).train(training)
    assert_alike(plain, TRACES[way], images(), calls="first")


@pytest.mark.parametrize("way", TRACES)
def test_tracing_scripting_and_export_after_ordinary_calls(way):
    """What the modules have learnt by then must not show in the graph."""

    def after_calls(net, x):
        for _ in range(3):
            net(x)
            with torch.no_grad():
                net(x)
        return TRACES[way](net, x), net(x)

    for training in (True, False):
        assert_alike(randomised(Deeper()).train(training), after_calls, images(), calls="first")


def test_a_graph_holds_the_operators_of_plain_pytorch():
    """It contains no operator of this package: a saved graph must run where the package is not installed."""
    fused, _ = pair(randomised(Deeper()).eval())
    x = images()
    program = torch.export.export(fused, (x,))
    assert "igan_fast" not in str(program.graph)
    for scripted in (torch.jit.trace(fused, x), torch.jit.script(fused)):  # classes keep their names
        assert "igan_fast::" not in str(scripted.inlined_graph)
    assert "igan_fast" not in str(torch.fx.symbolic_trace(fused).graph)


def test_onnx_by_the_newer_exporter():
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    fused, plain = pair(randomised(Deeper(), torch.float32).eval())
    x = images(dtype=torch.float32)
    graphs = [torch.onnx.export(m, (x,), dynamo=True, verbose=False).model.graph for m in (fused, plain)]
    assert [n.op_type for n in graphs[0]] == [n.op_type for n in graphs[1]]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_in_one_graph(backend, training):
    def way(net, x):
        torch._dynamo.reset()
        return torch.compile(net, fullgraph=True, backend=backend)(x)

    assert_alike(randomised(Deeper()).train(training), way, images(), calls="first")


class Uses(nn.Module):
    """Uses a normalisation's result in more ways, compiled as one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.norm(self.conv(x))
        return [self.act(y), y, F.relu(y[:, :2]), y.view(-1).relu(), torch.relu(self.norm(self.conv(x)))]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compiled_with_other_uses(training):
    def way(net, x):
        torch._dynamo.reset()
        with torch.no_grad():
            net(x)
        return torch.compile(net, fullgraph=True, backend="aot_eager")(x)

    assert_alike(randomised(Uses()).train(training), way, images(), calls="first")


@pytest.mark.parametrize("part", ["conv", "norm", "act"])
def test_one_compiled_module_among_others(part):
    def way(net, x):
        torch._dynamo.reset()
        for name in ("conv", "norm", "act"):
            module = getattr(net, name)
            x = (torch.compile(module, backend="eager") if name == part else module)(x)
        return x

    for training in (True, False):
        assert_alike(randomised(Net()).train(training), way, images(), calls="first")
